"""The problem of the search as arrays: the options of each block, what neighbours cost each other, the limits.

Sums are taken in block order everywhere, from the base cost on, a border's cost before its block's, so
that equal networks have equal sums to the last bit.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from qaedge.errors import NotMeasured, UsageError

Array: TypeAlias = npt.NDArray[np.float64]
Positions: TypeAlias = npt.NDArray[np.intp]

#: A limit given as a share of a sum must not fail by the rounding of that sum.
TOLERANCE = 1e-9


class Constraint(msgspec.Struct, frozen=True):
    """A limit on one metric, such as `latency@pi4` [s], `size` or `peak` [bytes]."""

    metric: str
    limit: float

    @property
    def bound(self) -> float:
        """The greatest cost that keeps the limit: the limit, and one part in 10^9 for rounding."""
        return self.limit + TOLERANCE * abs(self.limit)


class Options(msgspec.Struct, frozen=True, eq=False):
    """The candidates of one block: `losses` [n], and for each metric its costs [n].

    `costs` are added up over the blocks; of `peaks` a network has the greatest of its blocks'.
    """

    name: str
    losses: Array
    costs: dict[str, Array]
    peaks: dict[str, Array] = {}


class Problem(msgspec.Struct, frozen=True, eq=False):
    """What is to be solved.

    Attributes:
        blocks: in the order of the network.
        base: metric -> what a network costs beside its blocks; may be negative. Of a peak: the least it can be.
        constraints: the limits.
        borders: for each two neighbours, metric -> what candidate i of the first and j of the second cost
            together, beside their own costs [i, j]; a metric that is not there costs nothing. Empty: no border does.

    Raises UsageError where the arrays do not fit each other, and NotMeasured where a loss or cost
    is negative or not a number. A border's cost may be negative: some neighbours run better together.
    """

    blocks: tuple[Options, ...]
    base: dict[str, float] = {}
    constraints: tuple[Constraint, ...] = ()
    borders: tuple[dict[str, Array], ...] = ()

    def __post_init__(self) -> None:
        """Check shapes and values."""
        if not self.blocks:
            raise UsageError("A search needs at least one block.")
        first = self.blocks[0]
        for block in self.blocks:
            for mine, wanted in ((block.costs, first.costs), (block.peaks, first.peaks)):
                if set(mine) != set(wanted):
                    raise UsageError(f"Block {block.name!r} has the costs {sorted(mine)}, not {sorted(wanted)}.")
            for what, values in (("loss", block.losses), *block.costs.items(), *block.peaks.items()):
                if values.shape != block.losses.shape or values.ndim != 1 or not len(values):
                    raise UsageError(f"Block {block.name!r}: {what} has the shape {values.shape}.")
                if not (values.min() >= 0 and values.max() < np.inf):  # NaN fails both
                    bad = int(np.flatnonzero(~(np.isfinite(values) & (values >= 0)))[0])
                    raise NotMeasured(
                        f"Block {block.name!r}, candidate {bad}: the {what} is {values[bad]}.",
                        "Losses and costs are finite and not negative. Measure that candidate again.",
                    )
        if both := set(first.costs) & set(first.peaks):
            raise UsageError(f"The metric {min(both)!r} is both a sum and a peak.")
        for constraint in self.constraints:
            self.check_metric(constraint.metric)
            if not np.isfinite(constraint.limit):
                raise UsageError(f"The limit on {constraint.metric} is {constraint.limit}.")
        self._check_borders()

    def _check_borders(self) -> None:
        if self.borders and len(self.borders) != len(self.blocks) - 1:
            raise UsageError(f"{len(self.blocks)} blocks have {len(self.blocks) - 1} borders, not {len(self.borders)}.")
        for left, right, border in zip(self.blocks, self.blocks[1:], self.borders, strict=False):
            for metric, values in border.items():
                where = f"Between {left.name!r} and {right.name!r}"
                if metric not in left.costs:
                    known = ", ".join(left.costs) or "none"
                    raise UsageError(f"{where}: {metric!r} is no sum over the blocks.", f"Known: {known}.")
                if values.shape != (len(left.losses), len(right.losses)):
                    raise UsageError(f"{where}: {metric} has the shape {values.shape}.")
                if not np.isfinite(values).all():
                    raise NotMeasured(f"{where}: {metric} is not finite.", "Measure that change again.")

    def check_metric(self, metric: str) -> None:
        """Raise UsageError where no table gives a metric."""
        if metric not in self.metrics:
            known = ", ".join(sorted(self.metrics)) or "none"
            raise UsageError(f"No table gives the metric {metric!r}.", f"Known: {known}.")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric: the sums, then the peaks."""
        return (*self.blocks[0].costs, *self.blocks[0].peaks)

    @property
    def limits(self) -> dict[str, float]:
        """The bound of each limited metric, in the order given; of several on one metric the least."""
        bounds: dict[str, float] = {}
        for constraint in self.constraints:
            bounds[constraint.metric] = min(constraint.bound, bounds.get(constraint.metric, np.inf))
        return bounds

    def is_peak(self, metric: str) -> bool:
        """Whether a network has the greatest of its blocks' in this metric, and not their sum."""
        return metric in self.blocks[0].peaks


class Choice(msgspec.Struct, frozen=True):
    """One candidate per block, its summed loss, and its whole cost in each metric."""

    indices: tuple[int, ...]
    loss: float
    costs: dict[str, float]


def choices(problem: Problem, indices: Positions) -> list[Choice]:
    """Turn rows of indices [n, blocks] into choices, with the costs in every metric."""
    count = len(indices)
    losses = np.zeros(count)
    costs = {metric: np.full(count, problem.base.get(metric, 0.0)) for metric in problem.metrics}
    for number, (block, column) in enumerate(zip(problem.blocks, indices.T, strict=True)):
        losses += block.losses[column]
        if number and problem.borders:
            for metric, matrix in problem.borders[number - 1].items():
                costs[metric] += matrix[indices[:, number - 1], column]
        for metric, values in block.costs.items():
            costs[metric] += values[column]
        for metric, values in block.peaks.items():
            np.maximum(costs[metric], values[column], out=costs[metric])
    rows = zip(*(values.tolist() for values in costs.values()), strict=True) if costs else iter([()] * count)
    return [
        Choice(tuple(row), loss, dict(zip(costs, values, strict=True)))
        for row, loss, values in zip(indices.tolist(), losses.tolist(), rows, strict=True)
    ]


def choice(problem: Problem, indices: Positions) -> Choice:
    """Return the choice of one row of indices [blocks]."""
    return choices(problem, indices[None, :])[0]
