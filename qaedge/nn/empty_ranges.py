"""Empty ranges: tensors in which calibration saw nothing but zeros, and why.

A range of nothing gives no scale: the one that stands in for it would be wrong for every number that an image brings
later. One dead channel does no harm, because a tensor has one scale for all of its channels. Nor does a layer whose
weights are all 0, as the last of a residual that starts as the identity: it puts out 0 whatever comes in, and every
grid holds 0 exactly.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from qaedge.errors import DataError, TeacherError
from qaedge.nn.graph import OPERATORS, Graph, Node

#: What lies between this and its negative is nothing: float32 hardly holds the scale of it.
NOTHING = 1e-28


def check_ranges(graph: Graph, lows: Mapping[str, float], highs: Mapping[str, float], batches: int) -> None:
    """Refuse ranges that are empty, but for tensors that are 0 whatever comes in.

    Args:
        graph: that was observed, in float.
        lows: the least number of each tensor that has a scale.
        highs: the greatest one.
        batches: how many calibration batches were seen, for the message.

    Raises:
        DataError: the input is 0 everywhere.
        TeacherError: a layer's output is.
    """
    empty = {name for name in lows if max(-lows[name], highs[name]) < NOTHING}
    if not empty:
        return
    seen = f"in all {batches} calibration batches" if batches > 1 else "in the one calibration batch"
    if "input" in empty:
        raise DataError(
            f"The calibration data are 0 everywhere {seen}: no range of activations can be read from them.",
            "Check the images (data.path), data.mean and data.std, and the teacher's weights in the project file.",
        )
    silent = _silent(graph)
    by_name = {node.name: node for node in graph.nodes}
    for node in graph.nodes:  # the first one is the cause of those behind it
        if node.name in empty and node.name not in silent:
            layer = _layer(node, by_name)
            raise TeacherError(
                f"The layer {layer.where or layer.name!r} puts out 0 everywhere {seen}: its activations have no range, "
                "and cannot be quantized.",
                "Train it again (a lower learning rate keeps layers from dying), give more calibration images "
                "(distill.calibration_images), or take the candidate out of the space.",
            )


def _layer(node: Node, by_name: Mapping[str, Node]) -> Node:
    """Return the layer that a clamp ends."""
    while node.operator == "clamp" and node.inputs[0] in by_name:
        node = by_name[node.inputs[0]]
    return node


def _silent(graph: Graph) -> set[str]:
    """Return the tensors that are 0 whatever comes in: behind weights of 0, and what is made of those alone."""
    found: set[str] = set()
    for node in graph.nodes:
        weight, bias = graph.parameters_of(node)
        none = (weight is not None and not bool(weight.any())) and (bias is None or not bool(bias.any()))
        product = node.operator == "mul" and any(name in found for name in node.inputs)
        if none or product:
            found.add(node.name)
        elif all(name in found for name in node.inputs):
            zeros = [torch.zeros(graph.shape(name)) for name in node.inputs]
            with torch.no_grad():
                if not bool(OPERATORS[node.operator](zeros, weight, bias, node.attributes).any()):
                    found.add(node.name)
    return found
