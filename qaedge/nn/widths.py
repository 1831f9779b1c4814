"""Widths: activations of 8 bits in some blocks of a network, and of 16 in others.

Between two blocks of unlike widths stands an operator that brings a tensor to the other grid, `requantize`; in float it
does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec
from torch import nn

from qaedge.candidate import QuantScheme
from qaedge.errors import QaedgeError
from qaedge.nn.graph import Graph, Node
from qaedge.nn.part import nodes_in
from qaedge.nn.paths import top_modules
from qaedge.space import SearchSpace

if TYPE_CHECKING:
    from qaedge.nn.teacher import Teacher

OPERATOR = "requantize"
#: Layers that a message names.
SHOWN = 4


class Crossing(msgspec.Struct, frozen=True):
    """Where a tensor is brought to another grid: what the new one is called, of which it is made, and who reads it."""

    name: str
    tensor: str
    readers: tuple[str, ...]


def widened(graph: Graph, blocks: Iterable[tuple[Iterable[str], QuantScheme]]) -> tuple[Graph, dict[str, int]]:
    """Return a network with its crossings, and tensor -> bits of its activations.

    What lies outside every block has the width of what it reads. Where all blocks have one width, the graph is as it
    was, and nothing is told of tensors: they have the scheme's.

    Args:
        graph: the whole network; not changed.
        blocks: for each, the dotted paths of its modules, and its scheme; in the order of the network.
    """
    given = [(nodes_in(graph, places), scheme.activation_bits) for places, scheme in blocks]
    if len({bits for _, bits in given}) < 2:
        return graph, {}
    inside = {node.name: bits for nodes, bits in given for node in nodes}
    widths = {"input": next((inside[n.name] for n in graph.nodes if "input" in n.inputs and n.name in inside), 8)}
    readers: dict[tuple[str, int], list[str]] = {}
    for node in graph.nodes:
        bits = widths[node.name] = inside.get(node.name, widths[node.inputs[0]])
        for tensor in dict.fromkeys(node.inputs):
            if widths[tensor] != bits:
                readers.setdefault((tensor, bits), []).append(node.name)
    crossings = [Crossing(f"{tensor}_a{bits}", tensor, tuple(names)) for (tensor, bits), names in readers.items()]
    widths |= {crossing.name: bits for crossing, (_, bits) in zip(crossings, readers, strict=True)}
    return crossed(graph, crossings), widths


def check_covered(teacher: Teacher, space: SearchSpace) -> None:
    """Raise QaedgeError where a space has activations of several widths, and the blocks do not hold every layer.

    A layer outside the blocks has the width of what it reads, so what it costs would depend on the block before it.
    """
    schemes = {c.scheme for block in space.blocks for c in block.candidates if not c.scheme.is_float}
    if len({scheme.activation_bits for scheme in schemes}) < 2:
        return
    places = [place for block in teacher.blocks for place in top_modules(teacher.module, block.path)]
    outside = [
        name
        for name, module in teacher.module.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        and not any(name == place or name.startswith(f"{place}.") for place in places)
    ]
    if outside:
        shown = ", ".join(outside[:SHOWN]) + (", ..." if len(outside) > SHOWN else "")
        raise QaedgeError(
            f"The space {space.name!r} has activations of 8 and of 16 bits, and {len(outside)} layers of the teacher "
            f"lie in no block: {shown}.",
            "Give all blocks activations of one width, or let teacher.blocks of the project file hold every layer.",
        )


def crossing_alone(shape: tuple[int, int, int], before: int, after: int) -> tuple[Graph, dict[str, int]]:
    """Return a network that is nothing but a crossing, of a tensor (channels, height, width), and its widths."""
    node = Node(OPERATOR, OPERATOR, ("input",), (1, *shape))
    return Graph(shape, [node], OPERATOR, {}), {"input": before, OPERATOR: after}


def crossings(graph: Graph) -> tuple[Crossing, ...]:
    """Return the crossings of a network."""
    return tuple(
        Crossing(node.name, node.inputs[0], tuple(n.name for n in graph.nodes if node.name in n.inputs))
        for node in graph.nodes
        if node.operator == OPERATOR
    )


def crossed(graph: Graph, wanted: Iterable[Crossing]) -> Graph:
    """Return a network with these crossings beside its own; itself where it has them all."""
    there = {node.name for node in graph.nodes}
    missing = [crossing for crossing in wanted if crossing.name not in there]
    if not missing:
        return graph
    made: dict[str, list[Node]] = {}
    for crossing in missing:
        shape = graph.shape(crossing.tensor)
        made.setdefault(crossing.tensor, []).append(Node(crossing.name, OPERATOR, (crossing.tensor,), shape))
    nodes = list(made.get("input", []))
    for node in graph.nodes:
        renamed = {c.tensor: c.name for c in missing if node.name in c.readers}
        nodes += [_reading(node, renamed) if renamed else node, *made.get(node.name, [])]
    return Graph(graph.input_shape, nodes, graph.output, dict(graph.values.items()))


def _reading(node: Node, renamed: Mapping[str, str]) -> Node:
    inputs = tuple(renamed.get(name, name) for name in node.inputs)
    return Node(node.name, node.operator, inputs, node.shape, node.attributes, node.weight, node.bias, node.where)
