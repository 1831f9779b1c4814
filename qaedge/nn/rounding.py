"""Learned rounding: each layer's weights up or down, so that the layer's output changes least.

AdaRound's problem (Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020): of the
two integers beside a weight, the nearer one is not the better one, because the errors of a row's weights add up. The
squared error of a layer's output is a quadratic form in its weights, whose matrix is computed once from the
calibration images. AdaRound relaxes the choice and follows gradients for thousands of steps; here the form is made
smaller weight by weight, on the choice itself, until nothing changes. That takes a second, and no learning rate. Each
layer sees the layers before it as they were rounded, and so makes up for a part of their errors.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from qaedge.nn.graph import OPERATORS, Graph, Node
from qaedge.nn.quantize import QuantizedGraph, fake_quantize, quantize_weight, weight_scales

#: Positions that a layer's quadratic form is computed from: so many for each weight of a row, within bounds.
PER_WEIGHT, POSITIONS = 32, (2048, 16384)
SWEEPS = 4
#: Weights of a row that are gone through before the others hear of it: products of matrices are fast. So few that
#: torch does not share their thousands of small sums among threads (from 32768 numbers on), which wait for each other.
BLOCK = 32
#: Rounds of: weights for these scales, scales for these weights.
ROUNDS = 2
#: Added to the diagonal, as a share of its mean: calibration images are few.
_RIDGE = 1e-3

#: (node, its inputs as rounded layers give them, the same in float) -> weight, bias and weight scales; None: as before.
Update = Callable[[Node, Tensor, Tensor], "tuple[Tensor, Tensor | None, Tensor | None]"]


@dataclass(frozen=True)
class Form:
    """A layer's output as a function of its rows of weights, in groups: what rounding them costs.

    `matrix` [groups, weights, weights] is the covariance of what comes in from rounded layers, `target` [groups, rows,
    weights] its covariance with the float output, the means [groups, weights] and [groups, rows] what a bias makes up
    for.
    """

    matrix: Tensor
    target: Tensor
    given_mean: Tensor
    wanted_mean: Tensor

    @staticmethod
    def of(node: Node, weight: Tensor, given: Tensor, wanted: Tensor) -> Form:
        """Compute the form from a layer's inputs and the outputs that it should have.

        Args:
            node: a convolution or linear layer.
            weight: its weight, for the shape.
            given: inputs (batch, channels, height, width) or (batch, channels).
            wanted: outputs, without the bias or with it.
        """
        groups = node.attributes.get("groups", 1)
        x, y = _columns(node, weight, given, wanted)
        x, y = x.reshape(groups, -1, x.shape[1]), y.reshape(groups, -1, y.shape[1])
        x_mean, y_mean = x.mean(2), y.mean(2)
        x, y = x - x_mean[:, :, None], y - y_mean[:, :, None]
        matrix = x @ x.transpose(1, 2) / x.shape[2]
        ridge = _RIDGE * matrix.diagonal(dim1=1, dim2=2).mean(1) + 1e-12
        matrix = matrix + ridge[:, None, None] * torch.eye(matrix.shape[1])
        rows = weight.reshape(groups, -1, matrix.shape[1])
        # The ridge draws to the float weights, not to zero.
        return Form(matrix, y @ x.transpose(1, 2) / x.shape[2] + ridge[:, None, None] * rows, x_mean, y_mean)


def _columns(node: Node, weight: Tensor, given: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a row's weights are multiplied by, [channels * kernel, positions], and outputs [out, positions]."""
    if node.operator == "linear":
        return given.T, wanted.T
    a = node.attributes
    height, width = wanted.shape[2:]
    apart, enough = 1, min(max(PER_WEIGHT * weight[0].numel(), POSITIONS[0]), POSITIONS[1])
    while len(wanted) * -(-height // apart) * -(-width // apart) > enough:
        apart += 1
    padded = F.pad(given, (a["padding"][1], a["padding"][1], a["padding"][0], a["padding"][0]))
    parts = []
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            top, left = row * a["dilation"][0], column * a["dilation"][1]
            down = padded[:, :, top : top + (height - 1) * a["stride"][0] + 1 : a["stride"][0] * apart]
            parts.append(down[..., left : left + (width - 1) * a["stride"][1] + 1 : a["stride"][1] * apart])
    x = torch.stack(parts, 2).permute(1, 2, 0, 3, 4)  # channels, kernel, batch, height, width
    return x.flatten(2).flatten(0, 1), wanted[:, :, ::apart, ::apart].transpose(0, 1).flatten(1)


def neighbors(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Return the lower of the two integers beside each weight that its bits can hold, [out, ...] in and out."""
    limit = 2 ** (bits - 1) - 1
    return torch.floor(weight / scales.view(-1, *[1] * (weight.dim() - 1))).clamp(-limit, limit - 1)


def descend(weight: Tensor, scales: Tensor, bits: int, form: Form) -> Tensor:
    """Return the integers [out, ...], each one of its weight's two neighbors, that change the output least.

    Starts from the nearest; each step takes the better of two for one weight of every row, all others held.
    """
    groups, size = form.matrix.shape[:2]
    rows = weight.reshape(groups, -1, size)
    steps = scales.reshape(groups, -1, 1)
    low = neighbors(weight, scales, bits).reshape(rows.shape)
    integers = quantize_weight(weight, scales, bits).reshape(rows.shape).clone()
    slope = (integers * steps) @ form.matrix - form.target
    diagonal = form.matrix.diagonal(dim1=1, dim2=2)
    order = diagonal.mean(0).argsort(descending=True)
    for _ in range(SWEEPS):
        changed = False
        for part in torch.split(order, BLOCK):
            inner = form.matrix[:, part][:, :, part]
            near, kept, floor = slope[:, :, part], integers[:, :, part], low[:, :, part]
            before = kept.clone()
            for j in range(len(part)):
                best = kept[:, :, j] - near[:, :, j] / inner[:, j, j, None] / steps[:, :, 0]
                chosen = floor[:, :, j] + (best > floor[:, :, j] + 0.5)
                near += ((chosen - kept[:, :, j])[:, :, None] * steps) * inner[:, None, j]
                kept[:, :, j] = chosen
            moved = kept - before
            if bool(moved.any()):
                changed = True
                slope += (moved * steps) @ form.matrix[:, part]
                integers[:, :, part] = kept
        if not changed:
            break
    return integers.reshape(weight.shape)


def refit(integers: Tensor, scales: Tensor, form: Form) -> Tensor:
    """Return the scales [out] with which given integers come nearest to the output, a fifth away at most."""
    groups, size = form.matrix.shape[:2]
    rows = integers.reshape(groups, -1, size)
    power = ((rows @ form.matrix) * rows).sum(2).flatten()
    fitted = (rows * form.target).sum(2).flatten() / power.clamp(min=1e-30)
    fitted = torch.minimum(torch.maximum(fitted, 0.8 * scales), 1.2 * scales)
    return torch.where(power > 0, fitted, scales)


def walk(network: QuantizedGraph, reference: Graph, inputs: Tensor, update: Update) -> QuantizedGraph:
    """Return a network whose layers were updated one after the other, each seeing those before it as they are now.

    Args:
        network: its scales and bits stay, unless an update gives others.
        reference: the float graph that it should compute; its nodes are the network's.
        inputs: (batch, channels, height, width) as they enter the graph.
        update: gives a layer's new parameters.
    """
    values = {name: value.detach().clone() for name, value in network.graph.values.items()}
    scales = dict(network.weight_scales)
    layout = network.layout

    def visit(name: str, x: Tensor) -> Tensor:
        scale = network.scale_of(name)
        if scale is None or name in layout.moved:
            return x
        rounded, exact = x.chunk(2)
        return torch.cat([fake_quantize(rounded, scale), exact])

    def apply(node: Node, given: list[Tensor]) -> Tensor:
        operator = OPERATORS[node.operator]
        if not node.weight:
            return operator(given, None, None, node.attributes)
        rounded, exact = given[0].chunk(2)
        weight, bias, found = update(node, rounded, exact)
        values[node.weight] = weight
        if bias is not None and node.bias:
            values[node.bias] = bias
        if found is not None:
            scales[node.name] = found
        bits = network.bits_of(node)
        steps = scales[node.name] if node.name in scales else weight_scales(weight, bits)
        on_grid = quantize_weight(weight, steps, bits) * steps.view(-1, *[1] * (weight.dim() - 1))
        return torch.cat(
            [
                operator([rounded], on_grid, values[node.bias] if node.bias else None, node.attributes),
                operator([exact], *reference.parameters_of(node), node.attributes),
            ]
        )

    with torch.no_grad():
        reference.run(torch.cat([inputs, inputs]), visit, apply)
    graph = Graph(reference.input_shape, reference.nodes, reference.output, values)
    return network.with_weights(graph, scales)


def correct_biases(
    network: QuantizedGraph, reference: Graph, inputs: Tensor, only: Container[str] | None = None
) -> QuantizedGraph:
    """Return a network whose biases make up for the mean error of each output channel (Nagel et al., ICCV 2019).

    Arguments as of `round_layers`.
    """

    def update(node: Node, rounded: Tensor, exact: Tensor) -> tuple[Tensor, Tensor | None, None]:
        integers, scales, _, _ = network.integers(node)
        weight, bias = reference.parameters_of(node)
        assert weight is not None
        on_grid = integers * scales.view(-1, *[1] * (integers.dim() - 1))
        kept = network.graph.values[node.weight].detach()
        if bias is None or (only is not None and node.name not in only):
            return kept, None, None
        operator = OPERATORS[node.operator]
        off = operator([exact], weight, bias, node.attributes) - operator([rounded], on_grid, bias, node.attributes)
        return kept, bias + off.transpose(0, 1).flatten(1).mean(1), None

    return walk(network, reference, inputs, update)


def round_layers(
    network: QuantizedGraph, reference: Graph, inputs: Tensor, only: Container[str] | None = None
) -> QuantizedGraph:
    """Return a network whose weights lie on their grids, each layer rounded to change its output least.

    Biases make up for the mean, and scales follow the weights.

    Args:
        network: gives bits, grids, and the scales to begin with; not changed.
        reference: the float graph that it should compute; its nodes are the network's.
        inputs: (batch, channels, height, width) as they enter the graph.
        only: nodes to round; the others stay as they are.
    """

    def update(node: Node, rounded: Tensor, exact: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        weight, bias = reference.parameters_of(node)
        assert weight is not None
        if only is not None and node.name not in only:
            return network.graph.values[node.weight].detach(), None, None
        wanted = OPERATORS[node.operator]([exact], weight, bias, node.attributes)
        form = Form.of(node, weight, rounded, wanted)
        bits, scales = network.bits_of(node), network.integers(node)[1]
        integers = descend(weight, scales, bits, form)
        for _ in range(ROUNDS - 1):
            scales = refit(integers, scales, form)
            integers = descend(weight, scales, bits, form)
        rows = integers.reshape(form.target.shape) * scales.reshape(*form.wanted_mean.shape, 1)
        mean = (rows @ form.given_mean[:, :, None]).squeeze(2)
        found = None if bias is None else (form.wanted_mean - mean).flatten()
        return integers * scales.view(-1, *[1] * (weight.dim() - 1)), found, scales

    return walk(network, reference, inputs, update)
