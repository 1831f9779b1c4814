"""A quantized network in a file: its weights, every grid, and nothing that has to be found again.

Safetensors; the grids of activations lie in the metadata. What the network computes is not in it:
`load_quantized` is given the graph, from the same architecture.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import safetensors
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from qaedge.candidate import QuantScheme
from qaedge.errors import InvalidFile, MissingFile
from qaedge.files import write_atomic
from qaedge.nn.graph import Graph
from qaedge.nn.quantize import QuantizedGraph
from qaedge.nn.scale import Scale
from qaedge.nn.widths import Crossing, crossed, crossings

_KEY, _VALUE, _WEIGHT_SCALE = "qaedge-quantized", "value/", "weight_scale/"


class _Grids(msgspec.Struct, frozen=True, omit_defaults=True):
    scheme: str
    scales: dict[str, tuple[float, int, int]]
    weight_bits: dict[str, int]
    float_tail: bool
    crossings: tuple[Crossing, ...] = ()


def save_quantized(network: QuantizedGraph, path: Path) -> None:
    """Write a network; raise DiskFull. The file is there whole or not at all."""
    write_atomic(path, quantized_bytes(network))


def quantized_bytes(network: QuantizedGraph) -> bytes:
    """Return what `save_quantized` writes: the same for the same network."""
    tensors: dict[str, Tensor] = {
        f"{_VALUE}{name}": value.detach().contiguous() for name, value in network.graph.values.items()
    }
    tensors |= {f"{_WEIGHT_SCALE}{name}": s.detach().contiguous() for name, s in network.weight_scales.items()}
    grids = _Grids(
        str(network.scheme),
        {name: (s.scale, s.zero_point, s.levels) for name, s in network.scales.items()},
        network.weight_bits,
        network.float_tail,
        crossings(network.graph),
    )
    return safetensors.torch.save(tensors, {_KEY: msgspec.json.encode(grids).decode()})


def load_quantized(graph: Graph, path: Path) -> QuantizedGraph:
    """Read a network, frozen.

    Args:
        graph: of the same architecture; its values are replaced in a copy.
        path: what `save_quantized` wrote.

    Raises:
        MissingFile: no such file.
        InvalidFile: another file, or one of another architecture.
    """
    if not path.exists():
        raise MissingFile(f"{path} is not there.", "Run qaedge build again.")
    try:
        with safetensors.safe_open(path, "pt") as file:
            grids = msgspec.json.decode((file.metadata() or {}).get(_KEY, ""), type=_Grids)
        tensors = safetensors.torch.load_file(path)
        values = {k.removeprefix(_VALUE): v for k, v in tensors.items() if k.startswith(_VALUE)}
        weight_scales = {k.removeprefix(_WEIGHT_SCALE): v for k, v in tensors.items() if k.startswith(_WEIGHT_SCALE)}
        graph = crossed(graph, grids.crossings)
        filled = Graph(graph.input_shape, graph.nodes, graph.output, values)
        for name, value in graph.values.items():
            if name not in values or values[name].shape != value.shape:
                raise _misfit(path, f"{name} {tuple(value.shape)}")
        if len(values) != len(graph.values):
            raise _misfit(path, f"{len(graph.values)} weights and biases, found {len(values)}")
        scales = {name: Scale(*numbers) for name, numbers in grids.scales.items()}
        scheme = QuantScheme.parse(grids.scheme)
        return QuantizedGraph(filled, scheme, scales, grids.weight_bits, grids.float_tail, weight_scales).freeze()
    except (SafetensorError, msgspec.DecodeError, KeyError, OSError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidFile(path, "", "a quantized network", text, "Run qaedge build again.") from error


def _misfit(path: Path, wanted: str) -> InvalidFile:
    return InvalidFile(path, "", f"a network with {wanted}", "another architecture's", "Run qaedge build again.")
