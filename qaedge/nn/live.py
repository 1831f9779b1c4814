"""Live activations: how many numbers lie in memory at once while a graph runs, operator by operator."""

from __future__ import annotations

import math

from qaedge.candidate import BlockSpec, Candidate, LayerSpec, QuantScheme
from qaedge.errors import UnsupportedOperator
from qaedge.nn.graph import Graph
from qaedge.nn.quantize import Layout
from qaedge.nn.teacher import Teacher
from qaedge.nn.tracing import trace
from qaedge.search.activations import own_key


def most_alive(graph: Graph) -> int:
    """Return the most numbers that are alive at once, running the operators in their order.

    Alive are an operator's inputs, its output, and what a later one still reads. An activation function that is
    merged into what feeds it takes no memory of its own, as in the exported file.
    """
    final = Layout(graph, False).swallowed_by
    steps: list[tuple[set[str], str]] = []
    sizes = {"input": math.prod(graph.input_shape)}
    for node in graph.nodes:
        out, given = final.get(node.name, node.name), {final.get(name, name) for name in node.inputs}
        sizes[out] = math.prod(node.shape)
        if out not in given:  # else it is the activation function
            steps.append((given, out))
    last = {name: number for number, (given, _) in enumerate(steps) for name in given} | {graph.output: len(steps)}
    alive, most = {"input"}, sizes["input"]
    for number, (_, out) in enumerate(steps):
        alive.add(out)
        most = max(most, sum(sizes[name] for name in alive))
        alive = {name for name in alive if last.get(name, -1) > number}
    return most


def own_alive(teacher: Teacher) -> dict[str, int]:
    """Return for each of the teacher's own blocks, by `own_key`, the most numbers alive; none that cannot be traced."""
    found = {}
    for block in teacher.blocks:
        spec = BlockSpec((LayerSpec("own", digest=block.digest),))
        try:
            found[own_key(Candidate(spec, QuantScheme(8, 8), block.input_shape))] = most_alive(
                trace(block.module, block.input_shape)
            )
        except UnsupportedOperator:  # export says so
            continue
    return found
