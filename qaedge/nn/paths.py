"""A block path: a submodule, or a slice `path[a:b]` of an `nn.Sequential`; found and replaced."""

from __future__ import annotations

import re

import msgspec
from torch import nn

from qaedge.errors import TeacherError

_PATH = re.compile(r"^(?P<module>[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*)?(?:\[(?P<start>\d*):(?P<stop>\d*)\])?$")
_SHOWN = 24  # names listed in a message before it is cut short


class BlockPath(msgspec.Struct, frozen=True):
    """A path as written: dotted names, and where it is a slice, its ends (None: open)."""

    text: str
    module: str
    is_slice: bool = False
    start: int | None = None
    stop: int | None = None


def parse_path(text: str) -> BlockPath:
    """Return the path that `text` names; raise TeacherError where it names none."""
    match = _PATH.match(text)
    if match is None or not text:
        raise TeacherError(
            f"{text!r} is not a block path.", "Write a submodule (encoder.layers) or a slice (encoder.layers[2:5])."
        )
    if match.group("start") is None:
        return BlockPath(text, match.group("module"))
    start, stop = (int(end) if end else None for end in match.group("start", "stop"))
    return BlockPath(text, match.group("module") or "", True, start, stop)


def top_modules(network: nn.Module, text: str) -> dict[str, nn.Module]:
    """Return the modules a path covers, by dotted name: one, or a slice's, first to last; raise TeacherError."""
    path = parse_path(text)
    found = _walk(network, path)
    if not path.is_slice:
        return {path.module: found}
    if not isinstance(found, nn.Sequential):
        raise TeacherError(
            f"The block path {text!r} slices a {type(found).__name__}, which is no nn.Sequential.",
            f"Name a submodule instead; children of {path.module or 'the network'}: {_children(found)}.",
        )
    start, stop = path.start or 0, len(found) if path.stop is None else path.stop
    if not 0 <= start < stop <= len(found):
        raise TeacherError(
            f"The block path {text!r} {'covers nothing' if start >= stop else 'reaches too far'}: "
            f"{path.module or 'the network'} has {len(found)} modules.",
            f"Slices run from 0 to {len(found)} and hold at least one module.",
        )
    prefix = f"{path.module}." if path.module else ""
    return {f"{prefix}{name}": child for name, child in list(found.named_children())[start:stop]}


def submodule(network: nn.Module, text: str) -> nn.Module:
    """Return a block's module: the submodule, or a new `nn.Sequential` sharing the slice's; raise TeacherError."""
    modules = list(top_modules(network, text).values())
    return nn.Sequential(*modules) if parse_path(text).is_slice else modules[0]


def put(network: nn.Module, text: str, new: nn.Module) -> None:
    """Replace a block in place; in a slice, `new` comes first and identities keep later indices; raise TeacherError."""
    for index, name in enumerate(top_modules(network, text)):
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, new if index == 0 else nn.Identity())


def _walk(network: nn.Module, path: BlockPath) -> nn.Module:
    module, walked = network, ""
    for name in path.module.split(".") if path.module else []:
        children = dict(module.named_children())
        if name not in children:
            raise TeacherError(
                f"The block path {path.text!r} does not exist: {walked or 'the network'} has no child {name!r}.",
                f"Known there: {_children(module)}.",
            )
        module, walked = children[name], f"{walked}.{name}".lstrip(".")
    return module


def _children(module: nn.Module) -> str:
    names = [name for name, _ in module.named_children()]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "none"
