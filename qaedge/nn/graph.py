"""A network as a list of few operators with fixed shapes: what is quantized, run and written.

The fake-quantized numerics in torch and the writer of each export format walk the same list, so
they cannot drift apart. `tracing.trace` makes one from a module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Node:
    """One operator: the tensors it reads, by name, and the one it writes, called like the node.

    `weight` and `bias` name parameters of the graph; `attributes` are plain numbers and tuples.
    `where` is the path of the module that it came from, for messages.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    weight: str = ""
    bias: str = ""
    where: str = ""


def _conv(x: Tensor, w: Tensor | None, b: Tensor | None, a: dict[str, Any]) -> Tensor:
    assert w is not None
    return F.conv2d(x, w, b, a["stride"], a["padding"], a["dilation"], a["groups"])


def _linear(x: Tensor, w: Tensor | None, b: Tensor | None, a: dict[str, Any]) -> Tensor:
    assert w is not None
    return F.linear(x, w, b)


#: operator -> its meaning in float: (input tensors, weight, bias, attributes) -> output.
OPERATORS: dict[str, Callable[[list[Tensor], Tensor | None, Tensor | None, dict[str, Any]], Tensor]] = {
    "conv": lambda x, w, b, a: _conv(x[0], w, b, a),
    "linear": lambda x, w, b, a: _linear(x[0], w, b, a),
    "clamp": lambda x, w, b, a: x[0].clamp(a["low"], a["high"]),
    "add": lambda x, w, b, a: x[0] + x[1],
    "mul": lambda x, w, b, a: x[0] * x[1],
    "requantize": lambda x, w, b, a: x[0],
    "cat": lambda x, w, b, a: torch.cat(x, dim=1),
    "mean": lambda x, w, b, a: x[0].mean((2, 3), keepdim=True),
    "expand": lambda x, w, b, a: x[0].expand(-1, -1, *a["size"]),
    "flatten": lambda x, w, b, a: x[0].flatten(1),
    "max_pool": lambda x, w, b, a: F.max_pool2d(x[0], a["kernel"], a["stride"], a["padding"]),
    "resize": lambda x, w, b, a: F.interpolate(x[0], a["size"], mode="bilinear", align_corners=a["align_corners"]),
    "hardswish": lambda x, w, b, a: F.hardswish(x[0]),
    "hardsigmoid": lambda x, w, b, a: F.hardsigmoid(x[0]),
    "sigmoid": lambda x, w, b, a: x[0].sigmoid(),
}


class Graph(nn.Module):
    """Operators in order, with their parameters; one tensor in, one out."""

    def __init__(self, input_shape: tuple[int, ...], nodes: list[Node], output: str, values: dict[str, Tensor]) -> None:
        """Keep the nodes; `values` become parameters.

        Args:
            input_shape: (channels, height, width) of the tensor called "input".
            nodes: in an order in which every input is written before it is read.
            output: the name of the tensor that leaves.
            values: weights and biases by name.
        """
        super().__init__()
        self.input_shape = input_shape
        self.nodes = nodes
        self.output = output
        self.values = nn.ParameterDict({name: nn.Parameter(value.detach().clone()) for name, value in values.items()})

    def forward(self, x: Tensor) -> Tensor:
        """Run in float: (batch, channels, height, width) in, whatever the last node writes out."""
        return self.run(x, lambda name, tensor: tensor)

    def run(
        self,
        x: Tensor,
        visit: Callable[[str, Tensor], Tensor],
        apply: Callable[[Node, list[Tensor]], Tensor] | None = None,
    ) -> Tensor:
        """Run, passing each tensor through `visit` (an observer, or one that changes it).

        `apply` computes a node from its inputs; without it that is float, with the graph's own parameters.
        """
        tensors = {"input": visit("input", x)}
        uses = self.uses()
        for node in self.nodes:
            result = (apply or self._compute)(node, [tensors[i] for i in node.inputs])
            tensors[node.name] = visit(node.name, result)
            for name in set(node.inputs):  # let go of what nobody reads any more
                uses[name] -= node.inputs.count(name)
                if not uses[name] and name != self.output:
                    del tensors[name]
        return tensors[self.output]

    def _compute(self, node: Node, inputs: list[Tensor]) -> Tensor:
        return OPERATORS[node.operator](inputs, *self.parameters_of(node), node.attributes)

    def parameters_of(self, node: Node) -> tuple[Tensor | None, Tensor | None]:
        """Return a node's own weight and bias, None where it has none."""
        return (
            self.values[node.weight] if node.weight else None,
            self.values[node.bias] if node.bias else None,
        )

    def uses(self) -> dict[str, int]:
        """How often each tensor is read."""
        counts = {"input": 0, **{node.name: 0 for node in self.nodes}}
        for node in self.nodes:
            for name in node.inputs:
                counts[name] += 1
        return counts

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, (1, channels, height, width) where it has four axes."""
        return (1, *self.input_shape) if name == "input" else next(n.shape for n in self.nodes if n.name == name)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        total = 0
        for node in self.nodes:
            if node.weight:
                outputs = 1
                for size in node.shape[1:]:
                    outputs *= size
                total += outputs * self.values[node.weight][0].numel()
        return total


def to_array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return a tensor's numbers as files are written from them: on the processor, without a gradient."""
    return tensor.detach().cpu().numpy()
