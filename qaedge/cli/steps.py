"""What the steps of quantization gain, as `qaedge distill` and `qaedge space --gains` show it."""

from __future__ import annotations

from collections.abc import Sequence

from qaedge import report
from qaedge.gains import StepGain, step_gains
from qaedge.space import SearchSpace
from qaedge.tables import LossTable

#: Steps as people read them.
_WORDS = {
    "nearest": "nearest: each number to the nearest",
    "ranges": "ranges: by squared error",
    "equalize": "equalize: channels",
    "biases": "biases: correct the mean",
    "rounding": "rounding: learned, layer by layer",
    "reconstruct": "reconstruct: by the block loss",
}


def steps_of(space: SearchSpace, losses: LossTable) -> list[StepGain]:
    """Return what each step did to the candidates of a space that are in the table."""
    there = ((block.name, str(c.spec), str(c.scheme)) for block in space.blocks for c in block.candidates)
    return step_gains(losses.rows[key] for key in there if key in losses.rows)


def show_steps(steps: Sequence[StepGain]) -> bool:
    """Print what each step did, scheme by scheme; nothing, and say so, where no scheme has one beside the first."""
    if all(one.gain is None for one in steps):
        return False
    report.line()
    report.table(
        ("scheme", "step", ">candidates", ">loss after it", ">takes off", ">kept by"),
        [
            (
                one.scheme,
                _WORDS.get(one.step, one.step),
                one.candidates,
                f"{one.loss:.4f}",
                None if one.gain is None else f"{100 * one.gain:.1f} %",
                one.kept,
            )
            for one in steps
        ],
        title="What each step of quantization does to the block loss: medians over the candidates of all blocks",
    )
    return True
