"""Weights of a network that somebody else trained: its function called, its file loaded, strictly."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import io
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from qaedge.errors import QaedgeError, TeacherError
from qaedge.files import read_bytes

_SHOWN = 3
_QUOTED = re.compile(r'"([^"]+)"')
_SIZES = re.compile(r"size mismatch for (\S+): .*?torch\.Size\((\[.*?\])\).*?torch\.Size\((\[.*?\])\)")


def build(function: str, arguments: Mapping[str, int | float | str | bool], folder: Path) -> nn.Module:
    """Call `module:function` and return its network, in evaluation mode.

    Fresh weights are drawn from a fixed seed, so that a teacher without a weights file is the
    same one each time.

    Args:
        function: where it is; modules in `folder` are found, too.
        arguments: passed by name.
        folder: that of the project file.

    Raises:
        TeacherError: no such module or function, a function that fails, or no network returned.
    """
    maker = _function(function, folder)
    try:
        with torch.random.fork_rng(devices=[]), _importable(folder):
            torch.manual_seed(0)
            module = maker(**arguments)
    except QaedgeError as error:
        raise TeacherError(
            error.message, f"{error.hint}\nSee teacher.arguments in the project file.".strip()
        ) from error
    except Exception as error:
        raise TeacherError(
            f"{function} failed with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            f"It was called with {dict(arguments)!r}, from teacher.arguments.{_takes(maker)}",
        ) from error
    if not isinstance(module, nn.Module):
        raise TeacherError(
            f"{function} returned a value of type {type(module).__name__}.", "Wanted: a torch.nn.Module."
        )
    return module.eval()


def load_weights(module: nn.Module, path: Path) -> str:
    """Load a weights file into a network, every tensor of both, and return the file's sha256.

    Raises:
        MissingFile: no such file.
        TeacherError: another kind of file, a broken one, tensors that do not fit, or that hold NaN.
    """
    check_suffix(path)
    data = read_bytes(path, hint="Check teacher.weights in the project file.")
    state = READERS[path.suffix](path, data)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise TeacherError(
            f"The weights {path} do not fit {type(module).__name__}: {_misfits(str(error))}.",
            "Check teacher.function, teacher.arguments and teacher.weights in the project file.",
        ) from error
    trained = dict(module.named_parameters())
    # A buffer may hold infinity on purpose, as a mask does.
    broken = [name for name, value in module.state_dict().items() if _is_broken(value, name in trained)]
    if broken:
        raise TeacherError(
            f"The weights {path} hold NaN or infinity in {_first('of their tensors', broken)}.",
            "The training that made them broke down; take an earlier checkpoint.",
        )
    return hashlib.sha256(data).hexdigest()


def _is_broken(value: Tensor, is_parameter: bool) -> bool:
    numbers = value.float()
    return bool(numbers.isnan().any()) or (is_parameter and bool(numbers.isinf().any()))


def check_suffix(path: Path) -> None:
    """Raise TeacherError for a kind of file that is not read."""
    if path.suffix not in READERS:
        raise TeacherError(
            f"The weights {path} are no file that qaedge reads.", f"Known: {', '.join(READERS)}, holding a state dict."
        )


def _safetensors(path: Path, data: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise _broken(path, error) from error


def _pickled(path: Path, data: bytes) -> dict[str, Tensor]:
    try:
        # Only tensors and plain data: a weights file must not be able to run code.
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        # torch's text advises to run what the file brings along: it is never passed on.
        if isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error):
            raise TeacherError(
                f"The weights {path} hold more than tensors.",
                "Save model.state_dict(), with torch.save(model.state_dict(), path).",
            ) from error
        raise _broken(path, error) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        held = (
            f"a dict with {', '.join(map(repr, list(state)[:6]))}" if isinstance(state, dict) else type(state).__name__
        )
        raise TeacherError(
            f"The weights {path} hold {held}, no state dict.", "Save them with torch.save(network.state_dict(), path)."
        )
    return state


#: suffix -> what reads such a file.
READERS: dict[str, Callable[[Path, bytes], dict[str, Tensor]]] = {
    ".safetensors": _safetensors,
    ".pt": _pickled,
    ".pth": _pickled,
}


def _broken(path: Path, error: Exception) -> TeacherError:
    why = (str(error).splitlines() or [""])[0].rstrip(".")
    if " " not in why:  # a bare number or name tells a reader nothing
        why = "this is not what such a file holds"
    return TeacherError(
        f"The weights {path} cannot be read: {why}.",
        "The file is truncated, damaged, or holds more than tensors. Save or fetch it again.",
    )


def _misfits(text: str) -> str:
    """Sum up torch's list of what is missing, unexpected or of another shape."""
    parts = []
    for what in ("Missing", "Unexpected"):
        for line in text.splitlines():
            if f"{what} key(s)" in line:
                parts.append(f"{_first(what.lower(), _QUOTED.findall(line))}")
    sizes = [f"{name} {found} instead of {wanted}" for name, found, wanted in _SIZES.findall(text)]
    if sizes:
        parts.append(_first("wrongly shaped", sizes))
    return "; ".join(parts) or text.splitlines()[-1].strip()


def _first(what: str, items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} {what} ({', '.join(items[:_SHOWN])}{more})"


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules of the project's folder be imported inside the block."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _function(text: str, folder: Path) -> Callable[..., Any]:
    module_name, _, name = text.partition(":")
    try:
        with _importable(folder):
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise TeacherError(
            f"Cannot import {text!r}: no module {error.name!r}.",
            f"Modules are looked for in {folder} and in the installed packages.",
        ) from error
    except Exception as error:
        raise TeacherError(
            f"Importing {module_name!r} failed with {type(error).__name__}: {error}", "Fix that module first."
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        known = [
            key
            for key, value in vars(module).items()
            if callable(value)
            and not key.startswith("_")
            and str(getattr(value, "__module__", "")).partition(".")[0] == module_name.partition(".")[0]
        ]
        close = difflib.get_close_matches(name, known, _SHOWN)
        told = f"Did you mean {' or '.join(close)}?" if close else f"Known there: {', '.join(known[:24]) or 'none'}."
        raise TeacherError(f"The module {module_name!r} has no function {name!r}.", told)
    return found  # type: ignore[no-any-return]


def _takes(maker: Callable[..., Any]) -> str:
    """Say which arguments a function takes, where it tells."""
    try:
        names = list(inspect.signature(maker).parameters)
    except (TypeError, ValueError):
        return ""
    return f"\nIt takes {', '.join(names)}." if names else "\nIt takes none."
