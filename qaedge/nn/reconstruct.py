"""Block reconstruction: scales and biases of a rounded block, moved so that the block's output changes least.

The loss is the one that candidates are distilled with, against the teacher's block, as BRECQ reconstructs block by
block (Li et al., "Pushing the Limit of Post-Training Quantization by Block Reconstruction", ICLR 2021). BRECQ learns
the rounding itself that way, in thousands of steps. Here the integers are chosen before, layer by layer
(`rounding`), and held: in the hundred steps that there is time for, gradients of a few images chose worse than that,
be it softly as BRECQ does or straight through the rounding (docs/decisions tell).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qaedge.nn.dilated import QuickDilation
from qaedge.nn.graph import OPERATORS, Graph, Node
from qaedge.nn.precision import weighted
from qaedge.nn.quantize import QuantizedGraph, fake_quantize

#: Learning rate (Adam) of scales, as a share of themselves, and of biases, as a share of their mean size.
RATE = 0.003

#: Returns a batch: what goes into the block, what should come out, and the margin that does not count.
Draw = Callable[[], "tuple[Tensor, Tensor, int]"]
#: Returns what an output costs, given a target and a margin; a scalar.
Loss = Callable[[Tensor, Tensor, int], Tensor]


def reconstruct(network: QuantizedGraph, draw: Draw, loss: Loss, steps: int, rate: float = RATE) -> QuantizedGraph:
    """Return a network of the same integers, with scales of weights and biases that fit the block's output better.

    Args:
        network: where to start from; not changed.
        draw: gives a batch of the teacher's features.
        loss: of an output.
        steps: of Adam.
        rate: its learning rate, falling to zero.
    """
    graph = network.graph
    nodes = {node.name: node for node in weighted(graph)}
    integers: dict[str, Tensor] = {}
    first: dict[str, Tensor] = {}
    stretch: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    groups: list[dict[str, Any]] = []
    for name, node in nodes.items():
        integers[name], first[name] = (part.detach() for part in network.integers(node)[:2])
        stretch[name] = torch.zeros_like(first[name]).requires_grad_()
        groups.append({"params": [stretch[name]], "lr": rate})
        if node.bias:
            biases[name] = graph.values[node.bias].detach().clone().requires_grad_()
            groups.append({"params": [biases[name]], "lr": rate * float(biases[name].detach().abs().mean())})
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)

    def visit(name: str, x: Tensor) -> Tensor:
        scale = network.scale_of(name)
        return x if scale is None or name in network.layout.moved else fake_quantize(x, scale)

    def scales(name: str) -> Tensor:
        return first[name] * stretch[name].exp()

    def weight(name: str) -> Tensor:
        return integers[name] * scales(name).view(-1, *[1] * (integers[name].dim() - 1))

    def apply(node: Node, given: list[Tensor]) -> Tensor:
        mine = weight(node.name) if node.name in nodes else None
        return OPERATORS[node.operator](given, mine, biases.get(node.name), node.attributes)

    for _ in range(steps):
        given, wanted, margin = draw()
        with QuickDilation():
            error = loss(graph.run(given, visit, apply), wanted, margin)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(error)
        optimizer.step()
        schedule.step()
    values = {name: value.detach().clone() for name, value in graph.values.items()}
    with torch.no_grad():
        found = {name: scales(name) for name in nodes}
        for name, node in nodes.items():
            values[node.weight] = weight(name)
            if name in biases:
                values[node.bias] = biases[name].detach()
    return network.with_weights(Graph(graph.input_shape, graph.nodes, graph.output, values), found)
