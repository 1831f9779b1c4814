"""A part of a quantized network, such as a block, as a network of its own on the same grids."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from torch import Tensor

from qaedge.nn.graph import Graph, Node
from qaedge.nn.quantize import QuantizedGraph


class Part(msgspec.Struct, frozen=True):
    """Where a part begins and ends: the tensor of the whole network that goes in, and the one that comes out."""

    network: QuantizedGraph
    given: str
    output: str


def nodes_in(graph: Graph, places: Iterable[str]) -> list[Node]:
    """Return the nodes that came from modules in these places, in order."""
    wanted = tuple(places)
    return [node for node in graph.nodes if any(node.where == p or node.where.startswith(f"{p}.") for p in wanted)]


def part_of(network: QuantizedGraph, places: Iterable[str]) -> Part | None:
    """Return what lies between two tensors of a network, frozen.

    Args:
        network: the whole.
        places: dotted paths of the modules that the part consists of.

    Returns:
        None where the part takes more than one tensor, where more than one leaves it, or where its
        ends are not on a grid of their own: then it does not stand alone.
    """
    nodes = nodes_in(network.graph, places)
    inside = {node.name for node in nodes}
    given = {name for node in nodes for name in node.inputs} - inside
    readers = [node for node in network.graph.nodes if node.name not in inside]
    leaving = {name for node in readers for name in node.inputs if name in inside}
    leaving |= {network.graph.output} & inside
    if len(given) != 1 or len(leaving) != 1:
        return None
    (first,), (last,) = given, leaving
    starts, ends = network.scale_of(first), network.scale_of(last)
    if starts is None or ends is None:
        return None

    def renamed(node: Node) -> Node:
        inputs = tuple("input" if name == first else name for name in node.inputs)
        return Node(node.name, node.operator, inputs, node.shape, node.attributes, node.weight, node.bias, node.where)

    values: dict[str, Tensor] = {
        name: network.graph.values[name].detach() for node in nodes for name in (node.weight, node.bias) if name
    }
    shape = network.graph.shape(first)[1:]
    graph = Graph(shape, [renamed(node) for node in nodes], last, values)
    part = QuantizedGraph(graph, network.scheme, {}, network.weight_bits, False, network.weight_scales)
    for owner in part.layout.owners:
        scale = network.scale_of(first if owner == "input" else owner)
        if scale is None:
            return None
        part.scales[owner] = scale
    return Part(part.freeze(), first, last)
