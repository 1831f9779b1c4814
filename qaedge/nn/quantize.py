"""Quantization: from a float Graph and calibration images to one whose numerics are the exported file's.

Weights are symmetric per output channel, activations asymmetric per tensor, as in Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(CVPR 2018). Activations are fake-quantized exactly where the exported file quantizes them: an
activation function is merged into what feeds it, operators that only move data keep the scale of
their input, and what follows the last weights (the resize to the input's size) stays float.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qaedge.candidate import QuantScheme
from qaedge.errors import TeacherError
from qaedge.nn.graph import Graph, Node

#: Operators that move numbers without changing them.
MOVES = ("expand", "flatten", "max_pool")
#: Operators that stay float when they come last.
TAIL = ("resize",)
_LEAST = 1e-30


@dataclass(frozen=True)
class Scale:
    """`real = (integer - zero_point) * scale`, integers from 0 to `levels`."""

    scale: float
    zero_point: int
    levels: int = 255

    @staticmethod
    def of_range(low: float, high: float, bits: int = 8) -> Scale:
        """Return the scale that covers a range; it is widened to hold zero, which must be exact."""
        levels = 2**bits - 1
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / levels
        if scale < _LEAST:  # nothing but zeros, or numbers that a float32 hardly holds
            scale = 1.0
        # Runtimes keep scales as float32; so do we, or rounding would differ in rare cases.
        scale = float(torch.tensor(scale, dtype=torch.float32))
        return Scale(scale, max(0, min(levels, round(-low / scale))), levels)

    @property
    def low(self) -> float:
        """The least number that can be told."""
        return -self.zero_point * self.scale

    @property
    def high(self) -> float:
        """The greatest number that can be told."""
        return (self.levels - self.zero_point) * self.scale


class Layout:
    """Which tensors of a graph are quantized, and which of them share a scale."""

    def __init__(self, graph: Graph, float_tail: bool = True) -> None:
        """Decide from the operators alone; no numbers are needed.

        Args:
            graph: a whole network, or a block of one.
            float_tail: leave what follows the last weights in float, as a network's end; a block
                puts out integers whatever its last operator is.
        """
        uses = graph.uses()
        by_name = {node.name: node for node in graph.nodes}
        readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                readers.setdefault(name, []).append(node)
        #: tensors that a clamp reads alone: merged into the clamp's own scale
        self.merged = {
            name
            for name, nodes in readers.items()
            if name != "input" and uses[name] == 1 and nodes[0].operator == "clamp" and name != graph.output
        }
        #: tensors after the last quantized one
        self.tail: set[str] = set()
        name = graph.output
        while float_tail and name in by_name and by_name[name].operator in TAIL:
            self.tail.add(name)
            name = by_name[name].inputs[0]
            if uses[name] > 1:
                break
        #: tensor -> the tensor whose scale it has
        self.owner: dict[str, str] = {"input": "input"}
        for node in graph.nodes:
            if node.name in self.merged or node.name in self.tail:
                continue
            self.owner[node.name] = self.owner[node.inputs[0]] if node.operator in MOVES else node.name

    @property
    def owners(self) -> tuple[str, ...]:
        """The tensors that have a scale of their own, in order."""
        return tuple(dict.fromkeys(self.owner.values()))


def round_ste(x: Tensor) -> Tensor:
    """Round half to even, as runtimes do; the gradient passes straight through."""
    return x + (torch.round(x) - x).detach() if x.requires_grad else torch.round(x)


def fake_quantize(x: Tensor, scale: Scale) -> Tensor:
    """Return the number that the integer nearest to `x` stands for; any shape."""
    integer = torch.clamp(round_ste(x / scale.scale) + scale.zero_point, 0, scale.levels)
    return (integer - scale.zero_point) * scale.scale


def weight_scales(weight: Tensor, bits: int) -> Tensor:
    """Return the symmetric scale of each output channel, float32 [channels]."""
    limit = 2 ** (bits - 1) - 1
    largest = weight.detach().flatten(1).abs().amax(1)
    return torch.where(largest > 0, largest / limit, torch.ones_like(largest))


def quantize_weight(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Return a weight's integers (as float): [out, ...] and scales [out] in, [out, ...] out."""
    limit = 2 ** (bits - 1) - 1
    shape = (-1, *[1] * (weight.dim() - 1))
    return torch.clamp(round_ste(weight / scales.view(shape)), -limit, limit)


class QuantizedGraph(nn.Module):
    """A Graph with scales: its forward gives the numerics of the exported integer file."""

    def __init__(
        self,
        graph: Graph,
        scheme: QuantScheme,
        scales: dict[str, Scale],
        weight_bits: Mapping[str, int] | None = None,
        float_tail: bool = True,
    ) -> None:
        """Keep the parts.

        Args:
            graph: float; not changed.
            scheme: bits of weights and activations.
            scales: one for each of `Layout(graph).owners`.
            weight_bits: node -> bits of its weights, where they are not the scheme's.
            float_tail: see `Layout`.
        """
        super().__init__()
        self.graph = graph
        self.scheme = scheme
        self.weight_bits = dict(weight_bits or {})
        self.scales = scales
        self.layout = Layout(graph, float_tail)
        self._frozen: dict[str, tuple[Tensor | None, Tensor | None]] | None = None

    def scale_of(self, name: str) -> Scale | None:
        """Return the scale of a tensor, None where it stays float."""
        owner = self.layout.owner.get(name)
        return None if owner is None else self.scales[owner]

    def integers(self, node: Node) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return weight integers, weight scales [out], bias integers and bias scales [out] of a node."""
        weight, bias = self.graph.parameters_of(node)
        assert weight is not None
        bits = self.weight_bits.get(node.name, self.scheme.weight_bits)
        scales = weight_scales(weight, bits)
        integers = quantize_weight(weight, scales, bits)
        if bias is None:
            return integers, scales, None, None
        given = self.scale_of(node.inputs[0])
        assert given is not None
        bias_scales = scales * given.scale
        limit = 2.0**31 - 128  # the largest float32 that an int32 still holds
        return integers, scales, torch.clamp(round_ste(bias / bias_scales), -limit, limit), bias_scales

    def freeze(self) -> QuantizedGraph:
        """Quantize the weights once and keep them: for scoring, not for training."""
        with torch.no_grad():
            self._frozen = {node.name: self._quantized_parameters(node) for node in self.graph.nodes}
        return self

    def _quantized_parameters(self, node: Node) -> tuple[Tensor | None, Tensor | None]:
        if not node.weight:
            return None, None
        weight, scales, bias, bias_scales = self.integers(node)
        shape = (-1, *[1] * (weight.dim() - 1))
        return weight * scales.view(shape), None if bias is None or bias_scales is None else bias * bias_scales

    def _visit(self, name: str, x: Tensor) -> Tensor:
        scale = self.scale_of(name)
        if scale is None or self.layout.owner[name] != name:
            return x  # float, merged, or moved from a tensor that is on its grid already
        return fake_quantize(x, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Run with integer numerics: float tensors in and out, on the grids of their scales."""
        frozen = self._frozen
        return self.graph.run(
            x, self._visit, self._quantized_parameters if frozen is None else lambda node: frozen[node.name]
        )


def calibrate(
    graph: Graph,
    batches: Iterable[Tensor],
    scheme: QuantScheme,
    weight_bits: Mapping[str, int] | None = None,
    float_tail: bool = True,
) -> QuantizedGraph:
    """Find the range of each quantized tensor on calibration batches (min to max) and fix the scales.

    Args:
        graph: float; not changed.
        batches: tensors (batch, channels, height, width) as they enter the graph.
        scheme: bits of weights and activations.
        weight_bits: node -> bits of its weights, where they are not the scheme's.
        float_tail: see `Layout`; False for a block.

    Raises:
        TeacherError: a tensor holds NaN or infinity, or there is no batch.
    """
    layout = Layout(graph, float_tail)
    owners = set(layout.owners)
    lows: dict[str, float] = {}
    highs: dict[str, float] = {}

    def observe(name: str, x: Tensor) -> Tensor:
        if name in owners:
            low, high = (float(v) for v in torch.aminmax(x))
            if not (math.isfinite(low) and math.isfinite(high)):  # min and max would forget a NaN
                raise TeacherError(f"The activations of {name!r} are not finite; they cannot be quantized.")
            lows[name] = min(lows.get(name, low), low)
            highs[name] = max(highs.get(name, high), high)
        return x

    with torch.no_grad():
        for batch in batches:
            graph.run(batch, observe)
    if not lows:
        raise TeacherError("Calibration saw no images.", "Give at least one calibration image.")
    scales = {name: Scale.of_range(lows[name], highs[name], scheme.activation_bits) for name in lows}
    return QuantizedGraph(graph, scheme, scales, weight_bits, float_tail)
