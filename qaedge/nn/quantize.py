"""Quantization: from a float Graph and calibration images to one whose numerics are the exported file's.

Weights are symmetric per output channel, activations asymmetric per tensor, as in Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(CVPR 2018); activations of 16 bits are symmetric, as TFLite's kernels take no others. Activations are
fake-quantized exactly where the exported file quantizes them: an activation function is merged into
what feeds it, operators that only move data keep the scale of their input, and what follows the last
weights (the resize to the input's size) stays float.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qaedge.candidate import QuantScheme
from qaedge.errors import TeacherError
from qaedge.nn.empty_ranges import check_ranges
from qaedge.nn.graph import OPERATORS, Graph, Node
from qaedge.nn.scale import Scale

#: Operators that move numbers without changing them.
MOVES = ("expand", "flatten", "max_pool")
#: Operators that put out nothing beyond what they are given: theirs is the scale of their input, on which they round.
KEEPS = ("resize",)
#: Operators that stay float when they come last.
TAIL = ("resize",)
#: Up to here, every integer is a float32.
_EXACT_IN_FLOAT = 2.0**24
#: The largest integer of a bias: the largest float32 that an int32 still holds.
BIAS_LIMIT = 2.0**31 - 128


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
            if name != "input"
            and uses[name] == 1
            and nodes[0].operator == "clamp"
            and name != graph.output
            and by_name[name].operator not in (*MOVES, *KEEPS)  # which have the scale of what they read
        }
        #: merged tensor -> the clamp whose scale it takes in the end
        self.swallowed_by = {name: readers[name][0].name for name in self.merged}
        for name in self.swallowed_by:
            while self.swallowed_by[name] in self.merged:
                self.swallowed_by[name] = readers[self.swallowed_by[name]][0].name
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
            same = node.operator in MOVES or node.operator in KEEPS
            self.owner[node.name] = self.owner[node.inputs[0]] if same else node.name
        #: tensors that are on a grid before anything is done to them
        self.moved = {node.name for node in graph.nodes if node.operator in MOVES}

    @property
    def owners(self) -> tuple[str, ...]:
        """The tensors that have a scale of their own, in order."""
        return tuple(dict.fromkeys(self.owner.values()))


def round_ste(x: Tensor) -> Tensor:
    """Round half to even, as runtimes do; the gradient passes straight through."""
    return x + (torch.round(x) - x).detach() if x.requires_grad else torch.round(x)


def fake_quantize(x: Tensor, scale: Scale) -> Tensor:
    """Return the number that the integer nearest to `x` stands for; any shape."""
    if x.requires_grad:
        integer = torch.clamp(round_ste(x / scale.scale) + scale.zero_point, 0, scale.levels)
        return (integer - scale.zero_point) * scale.scale
    # The same numbers in one tensor instead of six: half the time of scoring.
    integer = x.div(scale.scale).round_().add_(scale.zero_point).clamp_(0, scale.levels)
    return integer.sub_(scale.zero_point).mul_(scale.scale)


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


@dataclass(frozen=True)
class _Exact:
    """A node's parameters as integers, and the grids that it reads from and writes to.

    Sums of integers have no rounding in them as long as they fit the type they are computed in,
    whatever order a runtime adds in. `factor` [out, 1, 1] or [out] brings a sum onto the grid of the
    output, in float32 as runtimes do it.
    """

    weight: Tensor
    bias: Tensor | None
    factor: Tensor
    given: Scale
    out: Scale

    def apply(self, node: Node, x: Tensor) -> Tensor:
        """Return numbers on the output's grid; `x` on the input's."""
        integers = x.div(self.given.scale).round_().to(self.weight.dtype)
        total = OPERATORS[node.operator]([integers], self.weight, self.bias, node.attributes)
        rounded = total.to(torch.float32).mul_(self.factor).round_()
        return rounded.clamp_(-self.out.zero_point, self.out.levels - self.out.zero_point).mul_(self.out.scale)


class QuantizedGraph(nn.Module):
    """A Graph with scales: its forward gives the numerics of the exported integer file."""

    def __init__(
        self,
        graph: Graph,
        scheme: QuantScheme,
        scales: dict[str, Scale],
        weight_bits: Mapping[str, int] | None = None,
        float_tail: bool = True,
        weight_scales: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Keep the parts.

        Args:
            graph: float; not changed.
            scheme: bits of weights and activations.
            scales: one for each of `Layout(graph).owners`.
            weight_bits: node -> bits of its weights, where they are not the scheme's.
            float_tail: see `Layout`.
            weight_scales: node -> scale of each output channel [out], where it is not that of the
                channel's largest weight.
        """
        super().__init__()
        self.graph = graph
        self.scheme = scheme
        self.weight_bits = dict(weight_bits or {})
        self.weight_scales = dict(weight_scales or {})
        self.scales = scales
        self.float_tail = float_tail
        self.layout = Layout(graph, float_tail)
        self._exact: dict[str, _Exact] | None = None

    def scale_of(self, name: str) -> Scale | None:
        """Return the scale of a tensor, None where it stays float."""
        owner = self.layout.owner.get(name)
        return None if owner is None else self.scales[owner]

    def grid_of(self, name: str) -> Scale | None:
        """Return the scale of a tensor, that of its clamp where it is merged with one; None where it stays float."""
        return self.scale_of(self.layout.swallowed_by.get(name, name))

    def bits_of(self, node: Node) -> int:
        """Return the bits of a node's weights."""
        return self.weight_bits.get(node.name, self.scheme.weight_bits)

    def integers(self, node: Node) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return weight integers, weight scales [out], bias integers and bias scales [out] of a node."""
        weight, bias = self.graph.parameters_of(node)
        assert weight is not None
        bits = self.bits_of(node)
        scales = self.weight_scales.get(node.name)
        if scales is None:
            scales = weight_scales(weight, bits)
        given = self.scale_of(node.inputs[0])
        if bias is None or given is None:
            return quantize_weight(weight, scales, bits), scales, None, None
        # Where a bias is so far from its channel's weights that an int32 of their steps does not hold it, the steps are
        # coarser: what the weights put in is then less than a step of what comes out.
        scales = torch.maximum(scales, bias.detach().abs() / (given.scale * BIAS_LIMIT))
        bias_scales = scales * given.scale
        rounded = torch.clamp(round_ste(bias / bias_scales), -BIAS_LIMIT, BIAS_LIMIT)
        return quantize_weight(weight, scales, bits), scales, rounded, bias_scales

    def with_integer_tail(self) -> QuantizedGraph:
        """Return the same network with nothing left in float, not frozen: what a file that puts out integers holds."""
        return QuantizedGraph(self.graph, self.scheme, self.scales, self.weight_bits, False, self.weight_scales)

    def with_weights(self, graph: Graph, weight_scales: Mapping[str, Tensor]) -> QuantizedGraph:
        """Return the same network with other weights on other grids, not frozen; `graph` has this one's nodes."""
        return QuantizedGraph(graph, self.scheme, self.scales, self.weight_bits, self.float_tail, weight_scales)

    def freeze(self) -> QuantizedGraph:
        """Quantize the weights once and keep them: for scoring, not for training."""
        with torch.no_grad():
            self._exact = {node.name: self._integer_form(node) for node in self.graph.nodes if node.weight}
        return self

    def _integer_form(self, node: Node) -> _Exact:
        weight, scales, bias, _ = self.integers(node)
        given, out = self.scale_of(node.inputs[0]), self.grid_of(node.name)
        assert given is not None and out is not None
        largest = weight.abs().flatten(1).sum(1) * given.levels + (0 if bias is None else bias.abs())
        kind = torch.float32 if float(largest.max()) < _EXACT_IN_FLOAT else torch.float64
        factor = (scales * given.scale / out.scale).view(-1, *[1] * (len(node.shape) - 2))
        return _Exact(weight.to(kind), None if bias is None else bias.to(kind), factor, given, out)

    def _compute_trained(self, node: Node, inputs: list[Tensor]) -> Tensor:
        """Compute a node on fake-quantized parameters; gradients pass."""
        weight = bias = None
        if node.weight:
            integers, scales, bias_integers, bias_scales = self.integers(node)
            weight = integers * scales.view(-1, *[1] * (integers.dim() - 1))
            bias = None if bias_integers is None or bias_scales is None else bias_integers * bias_scales
        return OPERATORS[node.operator](inputs, weight, bias, node.attributes)

    def _compute_exactly(self, node: Node, inputs: list[Tensor]) -> Tensor:
        assert self._exact is not None
        if node.name in self._exact:
            return self._exact[node.name].apply(node, inputs[0])
        return OPERATORS[node.operator](inputs, None, None, node.attributes)

    def _visit(self, name: str, x: Tensor) -> Tensor:
        scale = self.scale_of(name)
        if scale is None or name in self.layout.moved or (self._exact is not None and name in self._exact):
            return x  # float, merged, or on its grid already
        return fake_quantize(x.float(), scale)  # a sum in half precision is still rounded as a whole number

    def forward(self, x: Tensor) -> Tensor:
        """Run with integer numerics: float tensors in and out, on the grids of their scales."""
        return self.run(x, lambda name, tensor: None)

    def run(self, x: Tensor, note: Callable[[str, Tensor], None]) -> Tensor:
        """Run, showing each tensor to `note` as it is stored."""

        def visit(name: str, tensor: Tensor) -> Tensor:
            stored = self._visit(name, tensor)
            note(name, stored)
            return stored

        return self.graph.run(x, visit, self._compute_trained if self._exact is None else self._compute_exactly)


@dataclass(frozen=True)
class Observed:
    """What calibration saw of each tensor that has a scale: its least and greatest number, and some between.

    `values` are evenly spread over images and places, float32 [count]; empty where none were asked for.
    """

    lows: dict[str, float]
    highs: dict[str, float]
    values: dict[str, Tensor]

    def scales(self, bits: int, widths: Mapping[str, int] | None = None) -> dict[str, Scale]:
        """Return the scales that cover all that was seen, of so many bits, or those of `widths` by tensor."""
        known = widths or {}
        return {name: Scale.of_range(self.lows[name], self.highs[name], known.get(name, bits)) for name in self.lows}


def observe(
    graph: Graph, batches: Iterable[Tensor], float_tail: bool = True, keep: int = 0, arbitrary: bool = False
) -> Observed:
    """Run a graph in float over calibration batches and note the range of each tensor that has a scale.

    Args:
        graph: float; not changed.
        batches: tensors (batch, channels, height, width) as they enter the graph.
        float_tail: see `Layout`; False for a block.
        keep: numbers of each tensor to keep, about, of each batch.
        arbitrary: the numbers mean nothing, as in a file that is only timed; so may a range that is empty.

    Raises:
        TeacherError: a tensor holds NaN or infinity, a layer puts out nothing but zeros, or there is no batch.
        DataError: the batches hold nothing but zeros.
    """
    owners = set(Layout(graph, float_tail).owners)
    lows: dict[str, float] = {}
    highs: dict[str, float] = {}
    values: dict[str, list[Tensor]] = {name: [] for name in owners}
    count = 0

    def note(name: str, x: Tensor) -> Tensor:
        if name in owners:
            low, high = (float(v) for v in torch.aminmax(x))
            if not (math.isfinite(low) and math.isfinite(high)):  # min and max would forget a NaN
                raise TeacherError(f"The activations of {name!r} are not finite; they cannot be quantized.")
            lows[name] = min(lows.get(name, low), low)
            highs[name] = max(highs.get(name, high), high)
            if keep:
                # An odd stride falls on all columns and channels in turn.
                values[name].append(x.flatten()[:: max(1, x.numel() // keep) | 1].clone())
        return x

    with torch.no_grad():
        for batch in batches:
            graph.run(batch, note)
            count += 1
    if not count:
        raise TeacherError("Calibration saw no images.", "Give at least one calibration image.")
    if not arbitrary:
        check_ranges(graph, lows, highs, count)
    return Observed(lows, highs, {name: torch.cat(parts) for name, parts in values.items() if parts})


def calibrate(
    graph: Graph,
    batches: Iterable[Tensor],
    scheme: QuantScheme,
    weight_bits: Mapping[str, int] | None = None,
    float_tail: bool = True,
    weight_scales: Mapping[str, Tensor] | None = None,
    arbitrary: bool = False,
    widths: Mapping[str, int] | None = None,
) -> QuantizedGraph:
    """Find the range of each quantized tensor on calibration batches (min to max) and fix the scales.

    Args:
        graph: float; not changed.
        batches: tensors (batch, channels, height, width) as they enter the graph.
        scheme: bits of weights and activations.
        weight_bits: node -> bits of its weights, where they are not the scheme's.
        float_tail: see `Layout`; False for a block.
        weight_scales: see `QuantizedGraph`.
        arbitrary: see `observe`.
        widths: tensor -> bits of its activations, where they are not the scheme's.

    Raises:
        TeacherError, DataError: see `observe`.
    """
    scales = observe(graph, batches, float_tail, arbitrary=arbitrary).scales(scheme.activation_bits, widths)
    return QuantizedGraph(graph, scheme, scales, weight_bits, float_tail, weight_scales)
