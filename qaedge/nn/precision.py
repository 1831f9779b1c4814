"""Precision: how many bits the weights of each layer have, by a scheme."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qaedge.candidate import QuantScheme
from qaedge.nn.graph import Graph, Node
from qaedge.nn.part import nodes_in


def weighted(graph: Graph) -> list[Node]:
    """Return the nodes that have weights, in order: the layers that a scheme speaks of."""
    return [node for node in graph.nodes if node.weight]


def is_depthwise(graph: Graph, node: Node) -> bool:
    """Whether a node is a convolution that filters each channel alone."""
    channels = graph.shape(node.inputs[0])[1]
    return node.operator == "conv" and channels > 1 and bool(node.attributes["groups"] == channels)


def bits_of_layers(
    graph: Graph,
    scheme: QuantScheme,
    sensitivity: Sequence[float] | None = None,
    nodes: Sequence[Node] | None = None,
    known: Sequence[int] = (),
) -> dict[str, int]:
    """Return node -> bits of its weights, for a block.

    Args:
        graph: that holds the block.
        scheme: not float.
        sensitivity: what rounding each weighted node costs. Without it, a scheme that keeps the most sensitive
            layers keeps those with the most weights: no other choice makes the file larger.
        nodes: the block's, with weights, where it is not the whole graph.
        known: the bits of its layers as they were scored, in order; empty: what the scheme alone says.

    Raises:
        UsageError: the scheme names another number of layers than the block has.
    """
    nodes = weighted(graph) if nodes is None else nodes
    if known and len(known) == len(nodes):
        return {node.name: count for node, count in zip(nodes, known, strict=True)}
    if sensitivity is None:
        sensitivity = [graph.values[node.weight].numel() for node in nodes]
    bits = scheme.layer_bits([is_depthwise(graph, node) for node in nodes], sensitivity)
    return {node.name: count for node, count in zip(nodes, bits, strict=True)}


def bits_of_network(
    graph: Graph, blocks: Iterable[tuple[Iterable[str], QuantScheme]], known: Sequence[Sequence[int]] = ()
) -> dict[str, int]:
    """Return node -> bits of its weights, for a network in which each block has a scheme.

    What lies outside every block has the most bits that a scheme gives.

    Args:
        graph: the whole network.
        blocks: for each, the dotted paths of its modules, and its scheme.
        known: for each block, as `bits_of_layers` takes it.

    Raises:
        UsageError: a scheme that names another number of layers than its block has.
    """
    given = [([node for node in nodes_in(graph, places) if node.weight], scheme) for places, scheme in blocks]
    widest = max((scheme.weight_bits for _, scheme in given), default=8)
    found = {node.name: widest for node in weighted(graph)}
    for (nodes, scheme), bits in zip(given, known or [()] * len(given), strict=True):
        found |= bits_of_layers(graph, scheme, None, nodes, bits)
    return found


def bits_of_whole(
    graph: Graph, places: Iterable[Iterable[str]], scheme: QuantScheme, known: Sequence[Sequence[int]] = ()
) -> dict[str, int]:
    """Return node -> bits of its weights, for the teacher with each of its blocks in one scheme.

    A block that a list of bits does not fit has the most of them. `known`: see `bits_of_network`.
    """
    pairs = []
    for modules in map(tuple, places):
        count = sum(bool(node.weight) for node in nodes_in(graph, modules))
        fits = scheme.mix is None or len(scheme.mix.layers) in (0, count)
        pairs.append((modules, scheme if fits else QuantScheme(scheme.weight_bits, scheme.activation_bits)))
    return bits_of_network(graph, pairs, known)
