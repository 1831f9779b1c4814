"""Outputs of a file on a device, by the real agent and the real runtime."""

from __future__ import annotations

import numpy as np
import pytest

from qaedge.errors import CandidateCrashed, CandidateFailed
from qaedge.hil.agent import AgentSession
from qaedge.hil.outputs import outputs_on
from qaedge.hil.profile import Measured, measure


def test_outputs_are_what_the_network_computes(device, target, relu, rng, nothing_left):
    size = 1 << 18  # its output needs more than one frame
    value = rng.standard_normal((1, size)).astype(np.float32)
    with AgentSession(device, target) as session:
        found = outputs_on(session, relu(size), {"x": value}, "onnxruntime")
    assert found.keys() == {"y"}
    np.testing.assert_array_equal(found["y"], np.maximum(value, 0))
    nothing_left()


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [("x", (1, 5), r"takes float32 \[1, 4\]; given: float32 \[1, 5\]"), ("z", (1, 4), "x")],
    ids=["shape", "name"],
)
def test_inputs_that_do_not_fit_are_told_and_the_agent_lives(name, shape, text, device, target, relu, quick):
    with AgentSession(device, target) as session:
        with pytest.raises(CandidateFailed, match=text):
            outputs_on(session, relu(4), {name: np.zeros(shape, np.float32)}, "onnxruntime")
        (step,) = [s for s in measure(session, [relu(4)], quick, threads=1) if s.result is not None]
    assert isinstance(step.result, Measured)


def test_a_file_that_kills_its_process_harms_itself_alone(device, target, stub, word, quick):
    text = (stub / "runtime_onnx.py").read_text()
    (stub / "runtime_onnx.py").write_text(
        text.replace("def load(path, threads, options)", "def load(path, threads, options, inputs=None)")
    )
    with AgentSession(device, target, folder=stub) as session:
        with pytest.raises(CandidateCrashed, match="SIGABRT"):
            outputs_on(session, word("abort"), {}, "onnxruntime")
        (step,) = [s for s in measure(session, [word("run")], quick, threads=1) if s.result is not None]
    assert isinstance(step.result, Measured)
