"""Equalization: channels between two layers are scaled so that both sides waste fewer integers.

What a layer puts out in a channel may be divided by a number when the next layer's weights of that channel are
multiplied by it (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019).
Weights have a scale per output channel here, so that only the reader's columns and the tensor in between gain; both
are balanced as in SmoothQuant (Xiao et al., ICML 2023).

Scaling passes through ReLU as it is, but through ReLU6 only where no number reaches 6 before or after: there it is
exact for all that calibration saw, and for an image that goes further the clipping moves. Channels that reach 6 are
left as they are.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from qaedge.nn.graph import Graph, Node
from qaedge.nn.precision import is_depthwise

#: A channel may grow to this share of a clamp's bound, and is touched only where it stayed below it.
ROOM = 0.9
#: No channel is scaled by more, or by less than one over it.
MOST = 16.0


@dataclass(frozen=True)
class _Pair:
    """A layer, what clamps its output (None: nothing does), and the one layer that reads it."""

    writer: Node
    clamp: Node | None
    reader: Node

    @property
    def bound(self) -> float:
        return math.inf if self.clamp is None else float(self.clamp.attributes["high"])


def equalize(graph: Graph, batches: Iterable[Tensor], only: Container[str] | None = None) -> Graph:
    """Return a graph that computes the same on the calibration batches, its channels scaled.

    Args:
        graph: float; not changed.
        batches: tensors (batch, channels, height, width) as they enter the graph.
        only: nodes that may change, both sides of a pair; None: all.
    """
    pairs = [pair for pair in _pairs(graph) if only is None or (pair.writer.name in only and pair.reader.name in only)]
    if not pairs:
        return graph
    largest = _largest(graph, batches, {pair.writer.name for pair in pairs})
    values = {name: value.detach().clone() for name, value in graph.values.items()}
    for pair in pairs:
        factors = _factors(graph, pair, values[pair.reader.weight], largest[pair.writer.name])
        column = factors.view(-1, *[1] * (values[pair.writer.weight].dim() - 1))
        values[pair.writer.weight] = values[pair.writer.weight] / column
        if pair.writer.bias:
            values[pair.writer.bias] = values[pair.writer.bias] / factors
        read = values[pair.reader.weight]
        if is_depthwise(graph, pair.reader):
            repeats = len(read) // len(factors)
            read = read * factors.repeat_interleave(repeats).view(-1, *[1] * (read.dim() - 1))
        else:
            read = read * factors.view(1, -1, *[1] * (read.dim() - 2))
        values[pair.reader.weight] = read
    return Graph(graph.input_shape, graph.nodes, graph.output, values)


def _pairs(graph: Graph) -> list[_Pair]:
    """Return the pairs between which nothing else reads."""
    uses = graph.uses()
    readers = {name: node for node in graph.nodes for name in node.inputs}
    pairs = []
    for writer in graph.nodes:
        if not writer.weight or uses[writer.name] != 1 or writer.name == graph.output:
            continue
        clamp, reader = None, readers[writer.name]
        if reader.operator == "clamp":
            clamp = reader
            if clamp.attributes["low"] != 0 or uses[clamp.name] != 1 or clamp.name == graph.output:
                continue
            reader = readers[clamp.name]
        whole = reader.operator in ("conv", "linear") and (
            reader.operator == "linear" or reader.attributes["groups"] == 1 or is_depthwise(graph, reader)
        )
        if reader.weight and whole:
            pairs.append(_Pair(writer, clamp, reader))
    return pairs


def _largest(graph: Graph, batches: Iterable[Tensor], names: set[str]) -> dict[str, Tensor]:
    """Return for each tensor the greatest and least number of each channel, [2, channels]."""
    found: dict[str, Tensor] = {}

    def note(name: str, x: Tensor) -> Tensor:
        if name in names:
            axes = [axis for axis in range(x.dim()) if axis != 1]
            ends = torch.stack([x.amax(axes), -x.amin(axes)])
            found[name] = torch.maximum(found[name], ends) if name in found else ends
        return x

    with torch.no_grad():
        for batch in batches:
            graph.run(batch, note)
    return found


def _factors(graph: Graph, pair: _Pair, read: Tensor, ends: Tensor) -> Tensor:
    """Return what each channel is divided by, [channels]; 1 where it stays as it is."""
    reach = ends[0] if pair.clamp is not None else ends.amax(0)
    if is_depthwise(graph, pair.reader):
        columns = torch.ones_like(reach)  # its weights have a scale for each channel: they lose nothing
    else:
        columns = read.detach().abs().amax([axis for axis in range(read.dim()) if axis != 1])
    alive = (reach > 1e-6) & (columns > 1e-12)
    if math.isfinite(pair.bound):
        alive &= reach < ROOM * pair.bound
        most = ROOM * pair.bound
    else:
        most = float(reach.max())
    if not bool(alive.any()):
        return torch.ones_like(reach)
    if is_depthwise(graph, pair.reader):
        wanted = reach / most
    else:
        wanted = (reach / columns).sqrt()
        wanted = wanted / wanted[alive].log().mean().exp()
        # Columns may grow to the largest one, which sets the steps; numbers in between up to the bound.
        wanted = torch.minimum(wanted, columns.max() / columns.clamp(min=1e-12))
    factors = torch.maximum(wanted, reach / most).clamp(1 / MOST, MOST)
    return torch.where(alive, factors, torch.ones_like(factors))
