from __future__ import annotations

import numpy as np
import pytest

from qaedge.hil.sample_file import CHANNELS, SIZE, sample_onnx


@pytest.mark.parametrize("operators", [1, 40, 110, 300])
def test_it_is_a_chain_that_runs_and_neither_dies_out_nor_overflows(operators):
    import onnxruntime

    session = onnxruntime.InferenceSession(sample_onnx(operators), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).standard_normal((1, CHANNELS, SIZE, SIZE)).astype(np.float32)
    (out,) = session.run(None, {"x": image})
    assert out.shape == image.shape and 1e-6 < np.abs(out).mean() < 1e6


def test_it_is_a_valid_file_with_so_many_operators():
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(sample_onnx(7))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Conv"] * 7
