"""What each step of quantization gains, as the loss table has it."""

from __future__ import annotations

import pytest

from qaedge.gains import StepGain, step_gains
from qaedge.tables import LossRow


def row(scheme: str, recipe: str, gains: dict[str, float], loss: float = 0.5) -> LossRow:
    return LossRow("b", "ir", scheme, 0.1, loss, 1, 1.0, 1.0, "", "own", {}, recipe, gains)


def test_gains_are_medians_of_what_each_step_takes_off_each_candidate():
    rows = [
        row("w4a8", "nearest+ranges+rounding", {"nearest": 1.0, "ranges": 0.5, "rounding": 0.1}),
        row("w4a8", "nearest", {"nearest": 1.0, "ranges": 1.5, "rounding": 1.2}),
        row("w4a8", "nearest+ranges", {"nearest": 2.0, "ranges": 1.0, "rounding": 1.1}),
        row("w8a8", "nearest", {}, loss=0.25),
        row("fp32", "float", {}),
    ]
    assert step_gains(rows) == [
        StepGain("w4a8", "nearest", 3, 1.0, None, 3),
        StepGain("w4a8", "ranges", 3, 1.0, 0.5, 2),
        StepGain("w4a8", "rounding", 3, 1.1, pytest.approx(0.2), 1),
        StepGain("w8a8", "nearest", 1, 0.25, None, 1),
    ]


def test_steps_stand_in_the_order_they_are_taken_and_nothing_is_no_loss():
    rows = [
        row("w2a8", "nearest+rounding", {"nearest": 0.0, "rounding": 0.0}),
        row("w2a8", "nearest", {"nearest": 0.4, "biases": 0.2, "rounding": 0.1}),
    ]
    assert [(one.step, one.gain) for one in step_gains(rows)] == [
        ("nearest", None),
        ("biases", pytest.approx(0.5)),
        ("rounding", pytest.approx(0.25)),
    ]
