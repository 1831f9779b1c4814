"""A history: what each model took at each commit, and the steps in it that stay.

JSON lines, a row for each model of each run. A step that the reference model makes, too, is the board's: another
clock, kernel or cooling, and no fault of the commit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from qaedge.regression.changepoint import Change, changes
from qaedge.regression.compare import LEAST_THRESHOLD
from qaedge.regression.outcome import Outcomes
from qaedge.store import Store

FORMAT = "qaedge history"
#: The share of a step that the reference model must make, too, for it to be the board's.
SHARED = 0.5
#: How many runs the two may be apart: a board may change in the middle of a run.
NEAR = 1


class Point(msgspec.Struct, frozen=True):
    """A model in a run."""

    commit: str
    measured_at: str
    model: str
    device: str
    runtime: str
    runtime_version: str
    median_ns: int
    reference_ns: int | None = None
    verdict: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no time; msgspec turns that into an error with the line."""
        if self.median_ns <= 0 or (self.reference_ns is not None and self.reference_ns <= 0):
            raise ValueError(f"a time of {self.median_ns} ns beside a reference of {self.reference_ns} ns")


class Jump(msgspec.Struct, frozen=True):
    """A step: at which commit, from which level to which [s], and whose it is: "model", "board" or "runtime"."""

    at: int
    commit: str
    before_s: float
    after_s: float
    whose: str
    why: str = ""

    @property
    def ratio(self) -> float:
        """The new level over the old one."""
        return self.after_s / self.before_s


class Series(msgspec.Struct, frozen=True):
    """One model on one device by one runtime, over its runs."""

    model: str
    device: str
    runtime: str
    points: tuple[Point, ...]
    jumps: tuple[Jump, ...]


def history_store(path: Path) -> Store[Point]:
    """Return the file of a history."""
    return Store(path, Point, FORMAT)


def append(path: Path, found: Outcomes) -> int:
    """Add what a suite found, less what was not measured or is not judged; return how many rows that were."""
    store = history_store(path)
    rows = [
        Point(
            commit=found.commit,
            measured_at=found.measured_at,
            model=outcome.model,
            device=outcome.device,
            runtime=outcome.result.runtime,
            runtime_version=outcome.result.runtime_version,
            median_ns=round(outcome.result.median_s * 1e9),
            reference_ns=outcome.result.reference_ns,
            verdict=outcome.verdict.value if outcome.verdict else "",
            sha256=outcome.result.sha256,
        )
        for outcome in found.outcomes
        if outcome.result is not None and outcome.result.is_judged
    ]
    for row in rows:
        store.append(row)
    return len(rows)


def series_of(points: Iterable[Point], least: float = LEAST_THRESHOLD) -> tuple[Series, ...]:
    """Return the series of a history with their steps, in the order in which their models came."""
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point.model, point.device, point.runtime), []).append(point)
    return tuple(
        Series(model, device, runtime, tuple(found), _jumps(found, least))
        for (model, device, runtime), found in groups.items()
    )


def _jumps(points: Sequence[Point], least: float) -> tuple[Jump, ...]:
    found = changes([point.median_ns * 1e-9 for point in points], least)
    references = [point.reference_ns for point in points]
    known = [float(reference) for reference in references if reference]
    # A series with gaps cannot be laid beside the other; then nothing is the board's.
    board = changes(known, least / 2) if len(known) == len(points) else ()
    return tuple(_jump(points, change, board) for change in found)


def _jump(points: Sequence[Point], change: Change, board: Sequence[Change]) -> Jump:
    before, after = points[change.at - 1], points[change.at]
    whose, why = "model", ""
    if before.runtime_version != after.runtime_version:  # its reference model is run by it, too
        whose, why = "runtime", f"{before.runtime_version} -> {after.runtime_version}"
    else:
        for other in board:
            part = math.log(other.ratio) / math.log(change.ratio)
            if abs(other.at - change.at) <= NEAR and part >= SHARED:
                whose, why = "board", f"its reference model changed by {100 * (other.ratio - 1):+.1f} % there"
    return Jump(change.at, after.commit, change.before, change.after, whose, why)
