"""Small ONNX files of known relative cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def write_convolutions(path: Path, count: int, channels: int = 16, size: int = 24) -> Path:
    """Write a chain of `count` 3x3 convolutions on [1, channels, size, size]."""
    onnx = pytest.importorskip("onnx")
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "input"
    for number in range(count):
        values = (rng.standard_normal((channels, channels, 3, 3)) / 20).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(values, f"w{number}"))
        nodes.append(onnx.helper.make_node("Conv", [last, f"w{number}"], [f"y{number}"], pads=[1, 1, 1, 1]))
        last = f"y{number}"
    shape = [1, channels, size, size]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("input", last)]
    graph = onnx.helper.make_graph(nodes, "convolutions", ends[:1], ends[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path
