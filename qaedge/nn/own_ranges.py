"""The teacher's own blocks, looked at before any training: a search needs them all, quantized."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np

from qaedge.errors import QaedgeError, TeacherError, UnsupportedOperator
from qaedge.nn.features import Features, to_tensor
from qaedge.nn.graph import Graph
from qaedge.nn.quantize import observe
from qaedge.nn.teacher import Teacher
from qaedge.nn.tracing import trace

#: Images that a first look takes; where it finds something, all of them decide.
FIRST = 2


def check_own_ranges(teacher: Teacher, features: Features, blocks: Container[str]) -> None:
    """Refuse a teacher of which a block has activations without a range, or ones that are not finite.

    Args:
        teacher: whose blocks.
        features: what goes into them.
        blocks: which of them are quantized.

    Raises:
        TeacherError: names the block and its layer.
    """
    for block in teacher.blocks:
        if block.name not in blocks:
            continue
        try:
            graph = trace(block.module, block.input_shape)
        except UnsupportedOperator:
            continue  # whoever scores the block tells
        inputs = features.inputs(block.name)

        def look(count: int, graph: Graph = graph, inputs: np.ndarray[Any, Any] = inputs) -> None:
            chosen = np.linspace(0, len(inputs) - 1, count).astype(int)
            observe(graph, (to_tensor(inputs[[i]]) for i in chosen), False)

        try:
            look(min(FIRST, len(inputs)))
        except QaedgeError:
            try:
                look(len(inputs))
            except QaedgeError as error:
                raise TeacherError(
                    f"The teacher's own block {block.name!r} cannot be quantized. {error.message}", error.hint
                ) from error
