"""Widths: activations of 8 bits in some blocks of a network and outside them, and of 16 in others.

Between two of unlike widths stands an operator that brings a tensor to the other grid, `requantize`; in float it
does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from qaedge.borders import OUTSIDE
from qaedge.candidate import QuantScheme
from qaedge.errors import QaedgeError
from qaedge.nn.graph import Graph, Node
from qaedge.nn.part import nodes_in
from qaedge.nn.paths import top_modules
from qaedge.nn.tracing import trace
from qaedge.space import SearchSpace

if TYPE_CHECKING:
    from qaedge.nn.teacher import Teacher

OPERATOR = "requantize"
#: Layers that a message names.
SHOWN = 4


class Crossing(msgspec.Struct, frozen=True):
    """Where a tensor is brought to another grid: what the new one is called, of which it is made, and who reads it.

    A reader without a name is whoever takes what the network puts out.
    """

    name: str
    tensor: str
    readers: tuple[str, ...]


def widened(graph: Graph, blocks: Iterable[tuple[Iterable[str], QuantScheme]]) -> tuple[Graph, dict[str, int]]:
    """Return a network with its crossings, and tensor -> bits of its activations.

    What lies outside every block has 8 bits, and so have what goes into the network and what leaves it. Where all
    blocks have 8, too, the graph is as it was, and nothing is told of tensors.

    Args:
        graph: the whole network; not changed.
        blocks: for each, the dotted paths of its modules, and its scheme; in the order of the network.
    """
    given = [(nodes_in(graph, places), scheme.activation_bits) for places, scheme in blocks]
    if all(bits == OUTSIDE for _, bits in given):
        return graph, {}
    inside = {node.name: bits for nodes, bits in given for node in nodes}
    widths = {"input": OUTSIDE, **{node.name: inside.get(node.name, OUTSIDE) for node in graph.nodes}}
    readers: dict[tuple[str, int], list[str]] = {}
    for node in graph.nodes:
        for tensor in dict.fromkeys(node.inputs):
            if widths[tensor] != widths[node.name]:
                readers.setdefault((tensor, widths[node.name]), []).append(node.name)
    if widths[graph.output] != OUTSIDE:
        readers.setdefault((graph.output, OUTSIDE), []).append("")
    crossings = [
        Crossing(_free(graph, f"{tensor}_a{bits}"), tensor, tuple(names)) for (tensor, bits), names in readers.items()
    ]
    widths |= {crossing.name: bits for crossing, (_, bits) in zip(crossings, readers, strict=True)}
    return crossed(graph, crossings), widths


def _free(graph: Graph, name: str) -> str:
    """Return a name that no node has."""
    while any(node.name == name for node in graph.nodes):
        name += "_"
    return name


def check_chain(teacher: Teacher, space: SearchSpace) -> None:
    """Raise QaedgeError where activations have other than 8 bits, and the blocks are no chain that holds every layer.

    What a network's borders cost is known where each block reads what the one before it puts out and nothing else,
    and nothing but operators without weights lies before the first and behind the last.
    """
    schemes = {c.scheme for block in space.blocks for c in block.candidates if not c.scheme.is_float}
    if all(scheme.activation_bits == OUTSIDE for scheme in schemes):
        return
    graph = trace(teacher.module, teacher.input_shape)
    number = {
        node.name: at
        for at, block in enumerate(teacher.blocks)
        for node in nodes_in(graph, top_modules(teacher.module, block.path))
    }
    layers = [node.where or node.name for node in graph.nodes if node.weight and node.name not in number]
    last = len(teacher.blocks) - 1
    stages = {"input": -1}
    aside = []
    for node in graph.nodes:
        read = {stages[name] for name in node.inputs}
        mine = stages[node.name] = number.get(node.name, -1 if read == {-1} else last + 1)
        allowed = {-1} if mine == -1 else {mine - 1, mine}
        if not read <= allowed:
            aside.append(node.where or node.name)
    for names, how in ((layers, "lie in no block"), (aside, "read what another than the block before puts out")):
        if names:
            shown = ", ".join(dict.fromkeys(names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
            raise QaedgeError(
                f"The space {space.name!r} has activations of 16 bits, and {len(names)} operators of the teacher "
                f"{how}: {shown}.",
                "Give all blocks activations of 8 bits, or cut the teacher (teacher.blocks of the project file) into a "
                "chain of blocks that holds every layer.",
            )


def crossing_alone(shape: tuple[int, int, int], before: int, after: int) -> tuple[Graph, dict[str, int]]:
    """Return a network that is nothing but a crossing, of a tensor (channels, height, width), and its widths."""
    node = Node(OPERATOR, OPERATOR, ("input",), (1, *shape))
    return Graph(shape, [node], OPERATOR, {}), {"input": before, OPERATOR: after}


def crossings(graph: Graph) -> tuple[Crossing, ...]:
    """Return the crossings of a network."""
    return tuple(
        Crossing(
            node.name,
            node.inputs[0],
            (*(n.name for n in graph.nodes if node.name in n.inputs), *([""] if node.name == graph.output else [])),
        )
        for node in graph.nodes
        if node.operator == OPERATOR
    )


def crossed(graph: Graph, wanted: Iterable[Crossing]) -> Graph:
    """Return a network with these crossings beside its own; itself where it has them all."""
    there = {node.name for node in graph.nodes if node.operator == OPERATOR}
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
    output = next((c.name for c in missing if c.tensor == graph.output and "" in c.readers), graph.output)
    return Graph(graph.input_shape, nodes, output, dict(graph.values.items()))


def _reading(node: Node, renamed: Mapping[str, str]) -> Node:
    inputs = tuple(renamed.get(name, name) for name in node.inputs)
    return Node(node.name, node.operator, inputs, node.shape, node.attributes, node.weight, node.bias, node.where)
