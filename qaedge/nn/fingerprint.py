"""Fingerprints of networks: what tells that two compute the same, or cost the same."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from operator import attrgetter

import torch
from torch import Tensor, fx, nn

from qaedge.space import Shape

#: Settings that torch's layers compute by and do not list in `__constants__`.
_UNLISTED = {
    "MultiheadAttention": ("num_heads", "add_zero_attn"),
    "TransformerEncoderLayer": ("activation",),
    "TransformerDecoderLayer": ("activation",),
}
#: What only holds other layers, which have lines of their own.
_CONTAINERS = {nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict}


def weights_digest(module: nn.Module) -> str:
    """Hash parameters and buffers, those too that no weights file holds: a function may draw them itself."""
    return _tensors_digest({**module.state_dict(), **dict(module.named_buffers())})


def computation_digest(module: nn.Module) -> str:
    """Hash what a network computes: its graph and the graph's constants, and its layers' settings.

    Where it cannot be traced, the source of its modules' classes stands for the graph.
    """
    constants: dict[str, Tensor] = {}
    try:
        tracer = fx.Tracer()
        graph = tracer.trace(module)
        for node in graph.nodes:
            if node.op == "get_attr" and isinstance(value := attrgetter(node.target)(tracer.root), Tensor):
                constants[node.target] = value
        code = str(graph)
    except Exception:  # noqa: BLE001 - user code may raise anything under tracing
        code = "\n".join(sorted({_source(type(part)) for part in module.modules()}))
    return hashlib.sha256(f"{code}\n{_settings(module)}\n{_tensors_digest(constants)}".encode()).hexdigest()


def _settings(module: nn.Module) -> str:
    """Return a line for each layer, with its settings.

    Of torch's own layers these are the ones that decide what they compute, by name: how a layer prints itself
    changes from version to version, and a library of candidates has to outlive that.
    """
    lines = []
    for name, part in module.named_modules():
        kind = type(part)
        bases = (base for base in kind.__mro__ if issubclass(base, nn.Module))
        torchs = next(base for base in bases if base.__module__.startswith("torch.nn.modules."))
        names = {*getattr(torchs, "__constants__", ()), *_UNLISTED.get(torchs.__name__, ())}
        said = [
            f"{key}={getattr(value, '__name__', value)!r}"
            for key in sorted(names)
            if not isinstance(value := getattr(part, key, None), nn.Module)
        ]
        own = {name for base in kind.__mro__[: kind.__mro__.index(torchs)] for name in vars(base)}
        if "__repr__" in own:
            said.append(repr(part))  # what a layer of the user's own says of itself
        elif "extra_repr" in own or not (names or torchs in _CONTAINERS):
            said.append(part.extra_repr())
        lines.append(f"{name}: {kind.__qualname__}({', '.join(said)})")
    return "\n".join(lines)


def _source(kind: type) -> str:
    if kind.__module__.partition(".")[0] == "torch":
        return kind.__qualname__  # its version is no part of a teacher
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # made at run time: its name is all there is
        return f"{kind.__module__}.{kind.__qualname__}"


def _tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def structure_digest(part: nn.Module, shape: Shape, unique: str) -> str:
    """Return 12 hex digits of a block's graph, its layers' settings, and all shapes.

    A block whose graph cannot be traced gets digits of its own (`unique`): two such blocks may
    print alike and still compute different things, so they never share a measurement.
    """
    try:
        graph = str(fx.Tracer().trace(part))
    except Exception as error:  # noqa: BLE001 - user code may raise anything under tracing
        graph = f"{unique} {type(error).__name__}"
    shapes = [(key, tuple(tensor.shape)) for key, tensor in part.state_dict().items()]
    return hashlib.sha256(f"{graph}\n{_settings(part)}\n{shapes}\n{shape}".encode()).hexdigest()[:12]
