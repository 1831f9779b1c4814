"""Recipes: the steps that quantize a candidate under a scheme, and what each is worth.

`nearest` is where all begin: the range that holds everything, each number rounded to the nearest. The further steps
are taken in the order of `STEPS`, each from where the one before ended, and the candidate is kept as it was after the
step with the least block loss on the calibration images: a step may be worse alone and better for what follows, as
ranges are that clip, but a last one that only harms is not taken. The images that score the candidate are not looked
at before the end. A recipe's text is the steps up to there, joined by `+`: `nearest+ranges+rounding`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from torch import Tensor

from qaedge.candidate import QuantScheme
from qaedge.nn.distill import Sample, block_loss, score
from qaedge.nn.equalize import equalize
from qaedge.nn.features import to_tensor
from qaedge.nn.graph import Graph
from qaedge.nn.precision import bits_of_layers, weighted
from qaedge.nn.quantize import Observed, QuantizedGraph, observe
from qaedge.nn.ranges import search_scales, search_weight_scales
from qaedge.nn.reconstruct import reconstruct
from qaedge.nn.rounding import correct_biases, round_layers
from qaedge.project import QuantizeConfig

NEAREST = "nearest"
#: Schemes with fewer weight bits than this somewhere are few-bit ones. Seven still round well: "reduced range".
FEW_BITS = 7
#: Numbers of each tensor that activation ranges are searched on, over all images.
KEPT = 16384
#: Positions at a block's input that rounding is learned on, at most: what lies between its layers must fit in memory.
POSITIONS = 200_000
#: Images that tell whether a step helps, and how sensitive a layer is.
JUDGED = 8


def is_few_bit(scheme: QuantScheme) -> bool:
    """Whether a scheme has too few weight bits somewhere for rounding to the nearest to do."""
    return scheme.fewest_bits < FEW_BITS


@dataclass(frozen=True)
class State:
    """A candidate between two steps: its network, and the float graph that it should compute, of the same nodes."""

    network: QuantizedGraph
    reference: Graph


class Quantized(msgspec.Struct, frozen=True):
    """A candidate as a recipe quantized it.

    `loss` is its block loss on the images that score it; `gains` the one on the calibration images after each step,
    kept or not.
    """

    network: QuantizedGraph
    recipe: str
    loss: float
    gains: dict[str, float]

    @property
    def layer_bits(self) -> tuple[int, ...]:
        """The bits of each layer's weights, in order."""
        return tuple(self.network.bits_of(node) for node in weighted(self.network.graph))


class Bench:
    """A candidate with its calibration images: what is the same for all schemes is found once."""

    def __init__(self, graph: Graph, sample: Sample, images: int) -> None:
        """Observe the candidate's activations.

        Args:
            graph: the candidate in float; not changed.
            sample: its block's features.
            images: calibration images, at most; twice as many as score it are enough.

        Raises:
            TeacherError: a tensor that holds NaN or infinity, or a layer that puts out nothing but zeros.
            DataError: what comes in is 0 everywhere.
        """
        self.graph, self.sample = graph, sample
        count = min(images, 2 * len(sample.scored), len(sample.train))
        chosen = sample.spread(count)
        self.inputs = [to_tensor(sample.inputs[[i]]) for i in chosen]
        self._keep = max(1, KEPT // count)
        self.observed = observe(graph, self.inputs, False, self._keep)
        judged = range(0, count, max(1, count // JUDGED))
        self._judged = [(self.inputs[n], to_tensor(sample.outputs[[chosen[n]]])) for n in judged]
        self._equalized: tuple[Graph, Observed] | None = None
        self._sensitivity: dict[int, list[float]] = {}

    def judge(self, network: QuantizedGraph) -> float:
        """Return a network's block loss on calibration images."""
        network.freeze()
        with torch.no_grad():
            losses = [float(block_loss(network(x), wanted, self.sample.variance)) for x, wanted in self._judged]
        return sum(losses) / len(losses)

    def nearest(self, scheme: QuantScheme) -> QuantizedGraph:
        """Return the candidate rounded to the nearest, as a scheme says."""
        costs = self.sensitivity(scheme.fewest_bits) if scheme.keeps_sensitive else None
        bits = bits_of_layers(self.graph, scheme, costs)
        return QuantizedGraph(self.graph, scheme, self.observed.scales(scheme.activation_bits), bits, False)

    def sensitivity(self, bits: int) -> list[float]:
        """Return the block loss with one layer at a time at so few bits and all others at 8, in the order of layers."""
        if bits not in self._sensitivity:
            nodes = weighted(self.graph)
            scales = {n.name: search_weight_scales(self.graph.values[n.weight].detach(), bits) for n in nodes}
            self._sensitivity[bits] = [
                self.judge(
                    QuantizedGraph(
                        self.graph,
                        QuantScheme(8, 8),
                        self.observed.scales(8),
                        {node.name: bits},
                        False,
                        {node.name: scales[node.name]},
                    )
                )
                for node in nodes
            ]
        return self._sensitivity[bits]

    @property
    def equalized(self) -> tuple[Graph, Observed]:
        """The candidate with its channels equalized, and its activations."""
        if self._equalized is None:
            graph = equalize(self.graph, self.inputs)
            self._equalized = graph, observe(graph, self.inputs, False, self._keep)
        return self._equalized

    def rounded_on(self, images: int) -> Tensor:
        """Return the inputs that rounding is learned on, (batch, channels, height, width)."""
        height, width = self.inputs[0].shape[2:]
        count = max(1, min(images, len(self.inputs), POSITIONS // (height * width)))
        apart = len(self.inputs) // count
        return torch.cat(self.inputs[::apart][:count])


def quantize(
    bench: Bench, scheme: QuantScheme, config: QuantizeConfig, steps: Sequence[str] | None = None
) -> Quantized:
    """Quantize a candidate and score it.

    Args:
        bench: the candidate.
        scheme: not float.
        config: which steps, and how long.
        steps: of `STEPS`, in their order; what `config` says of the scheme without it.

    Raises:
        UsageError: the scheme names another number of layers than the candidate has.
    """
    if steps is None:
        steps = config.few_bit if is_few_bit(scheme) else config.int8
    states, gains = {NEAREST: State(bench.nearest(scheme), bench.graph)}, {}
    last = NEAREST
    for step in steps:
        states[step] = STEPS[step](bench, states[last], config)
        last = step
    if steps:  # else nobody asks
        gains = {step: bench.judge(state.network) for step, state in states.items()}
    taken = list(states)
    kept = taken[: taken.index(min(gains, key=gains.__getitem__)) + 1] if gains else taken
    network = states[kept[-1]].network.freeze()
    return Quantized(network, "+".join(kept), score(network, bench.sample), gains)


def _on(network: QuantizedGraph, graph: Graph, observed: Observed) -> QuantizedGraph:
    """Return a network of the same bits with searched ranges."""
    bits = {node.name: network.bits_of(node) for node in weighted(graph)}
    scales = {n.name: search_weight_scales(graph.values[n.weight].detach(), bits[n.name]) for n in weighted(graph)}
    grids = search_scales(observed, network.scheme.activation_bits)
    return QuantizedGraph(graph, network.scheme, grids, bits, False, scales)


def _ranges(bench: Bench, state: State, config: QuantizeConfig) -> State:
    return State(_on(state.network, bench.graph, bench.observed), bench.graph)


def _equalize(bench: Bench, state: State, config: QuantizeConfig) -> State:
    graph, observed = bench.equalized
    return State(_on(state.network, graph, observed), graph)


def _biases(bench: Bench, state: State, config: QuantizeConfig) -> State:
    inputs = bench.rounded_on(config.images)
    return State(correct_biases(state.network, state.reference, inputs), state.reference)


def _rounding(bench: Bench, state: State, config: QuantizeConfig) -> State:
    inputs = bench.rounded_on(config.images)
    return State(round_layers(state.network, state.reference, inputs), state.reference)


def _reconstruct(bench: Bench, state: State, config: QuantizeConfig) -> State:
    random = np.random.default_rng(config.seed)
    found = reconstruct(
        state.network,
        lambda: bench.sample.batch(random, config.reconstruct_batch),
        lambda given, wanted, margin: block_loss(given, wanted, bench.sample.variance, margin),
        config.reconstruct_steps,
    )
    return State(found, state.reference)


#: step -> what it does: (candidate, where it starts, settings) -> where it ends. Named as `project.QUANTIZE_STEPS`.
STEPS: dict[str, Callable[[Bench, State, QuantizeConfig], State]] = {
    "ranges": _ranges,
    "equalize": _equalize,
    "biases": _biases,
    "rounding": _rounding,
    "reconstruct": _reconstruct,
}
