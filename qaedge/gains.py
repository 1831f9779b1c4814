"""Gains: what each step of quantization takes off the block loss, scheme by scheme, as the loss table has it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import msgspec

from qaedge.project import QUANTIZE_STEPS
from qaedge.tables import LossRow

NEAREST = "nearest"
_FLOAT = "float"


class StepGain(msgspec.Struct, frozen=True):
    """What a step did to the candidates of one scheme, in all blocks.

    Attributes:
        scheme: as it is written in the space.
        step: "nearest", where all begin, or one of `project.QUANTIZE_STEPS`.
        candidates: how many rows tell of it.
        loss: the median block loss after it, on the calibration images; of rows that were only rounded to the
            nearest, on those that score.
        gain: the median share that it takes off the loss of each candidate; negative where it adds. None for the first.
        kept: how many candidates kept it, or a later step: the recipe in their row has it.
    """

    scheme: str
    step: str
    candidates: int
    loss: float
    gain: float | None
    kept: int


def step_gains(rows: Iterable[LossRow]) -> list[StepGain]:
    """Return what each step did, by scheme in the order of the rows and by step in the order they are taken.

    Rows in float have no steps.
    """
    found: dict[str, dict[str, list[tuple[float, float | None, bool]]]] = {}
    for row in rows:
        if row.recipe == _FLOAT:
            continue
        steps = found.setdefault(row.scheme, {})
        kept = row.recipe.split("+")
        before: float | None = None
        for step, loss in (row.gains or {NEAREST: row.loss}).items():
            # A loss of 0 has nothing to take off.
            gain = None if before is None else 1 - loss / before if before > 0 else 0.0
            steps.setdefault(step, []).append((loss, gain, step in kept))
            before = loss
    order = (NEAREST, *QUANTIZE_STEPS)
    return [
        StepGain(
            scheme=scheme,
            step=step,
            candidates=len(told),
            loss=statistics.median(loss for loss, _, _ in told),
            gain=statistics.median(gains) if (gains := [gain for _, gain, _ in told if gain is not None]) else None,
            kept=sum(keeps for _, _, keeps in told),
        )
        for scheme, steps in found.items()
        for step, told in sorted(steps.items(), key=lambda item: order.index(item[0]))
    ]
