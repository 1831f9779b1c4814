"""Blocks rounded anew, as parts of a whole network: their weights are others than those they were scored with.

The steps are those of the recipe that they were scored with (`nn.recipe`), each on the whole network's own activations:
other blocks feed a block there than the teacher's, and what it should put out is what it puts out in float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import numpy as np
import torch
from torch import Tensor

from qaedge.candidate import QuantScheme
from qaedge.nn.distill import block_loss, floor_variance
from qaedge.nn.equalize import equalize
from qaedge.nn.graph import Graph
from qaedge.nn.part import part_of
from qaedge.nn.quantize import QuantizedGraph, observe
from qaedge.nn.ranges import search_scales, search_weight_scales
from qaedge.nn.reconstruct import reconstruct
from qaedge.nn.rounding import correct_biases, round_layers
from qaedge.project import QuantizeConfig

#: Images that rounding a whole network is learned on: they lie in memory together.
ROUNDED = 8


class Anew(msgspec.Struct, frozen=True):
    """A block to be rounded: the paths of its modules, its nodes with weights, and the steps it takes."""

    places: tuple[str, ...]
    nodes: frozenset[str]
    steps: tuple[str, ...]


def round_anew(
    graph: Graph,
    scheme: QuantScheme,
    bits: dict[str, int],
    scales: dict[str, Tensor],
    blocks: Sequence[Anew],
    batches: Callable[[], Iterable[Tensor]],
    config: QuantizeConfig,
    keep: int,
    widths: Mapping[str, int] | None = None,
) -> QuantizedGraph:
    """Return a network with these blocks rounded, not frozen.

    Args:
        graph: in float, but for blocks whose numbers lie on their grids already.
        scheme: of the network.
        bits: node -> bits of its weights.
        scales: node -> scale of each output channel, of the blocks that are on their grids.
        blocks: the others, as far as they are not rounded to the nearest.
        batches: gives the calibration images, (1, 3, height, width) each.
        config: how long `reconstruct` takes.
        keep: numbers of each tensor that its range is searched on, of each image.
        widths: tensor -> bits of its activations, where they are not the scheme's.

    Raises:
        TeacherError, DataError: see `observe`.
    """

    def taking(step: str) -> frozenset[str]:
        return frozenset[str]().union(*(block.nodes for block in blocks if step in block.steps))

    if taking("equalize"):
        graph = equalize(graph, batches(), taking("equalize"))
    scales = dict(scales)
    ranged = taking("ranges") | taking("equalize")
    for node in graph.nodes:
        if node.name in ranged:
            scales[node.name] = search_weight_scales(graph.values[node.weight].detach(), bits[node.name])
    observed = observe(graph, batches(), keep=keep)
    searched = bool(scales)
    if searched:
        grids = search_scales(observed, scheme.activation_bits, widths)
    else:
        grids = observed.scales(scheme.activation_bits, widths)
    network = QuantizedGraph(graph, scheme, grids, bits, True, scales)
    if not blocks:
        return network
    images = list(batches())
    inputs = torch.cat(images[:: max(1, len(images) // ROUNDED)][:ROUNDED])
    if taking("biases"):
        network = correct_biases(network, graph, inputs, taking("biases"))
    if taking("rounding"):
        network = round_layers(network, graph, inputs, taking("rounding"))
    for block in blocks:
        if "reconstruct" in block.steps:
            network = _reconstructed(network, graph, block, inputs, config)
    return network


def _reconstructed(
    network: QuantizedGraph, reference: Graph, block: Anew, inputs: Tensor, config: QuantizeConfig
) -> QuantizedGraph:
    """Return a network whose block has scales and biases that fit its float output; as it was where it is no part."""
    part = part_of(network, block.places)
    if part is None:
        return network
    given: list[Tensor] = []
    wanted: list[Tensor] = []

    def keep(name: str, x: Tensor) -> Tensor:
        if name == part.output:
            wanted.append(x)
        return x

    network.freeze()
    with torch.no_grad():
        network.run(inputs, lambda name, x: given.append(x) if name == part.given else None)
        reference.run(inputs, keep)
    variance = floor_variance(wanted[0].var((0, 2, 3)))
    random = np.random.default_rng(config.seed)
    size = min(config.reconstruct_batch, len(inputs))

    def draw() -> tuple[Tensor, Tensor, int]:
        chosen = np.sort(random.choice(len(inputs), size, replace=False))
        return given[0][chosen], wanted[0][chosen], 0

    found = reconstruct(
        part.network,
        draw,
        lambda out, target, margin: block_loss(out, target, variance, margin),
        config.reconstruct_steps,
    )
    values = {name: value.detach() for name, value in network.graph.values.items()}
    values |= {name: value.detach() for name, value in found.graph.values.items()}
    scales = {**network.weight_scales, **{name: found.weight_scales[name] for name in block.nodes}}
    graph = Graph(network.graph.input_shape, network.graph.nodes, network.graph.output, values)
    return network.with_weights(graph, scales)
