"""The margin: how far below a limit a prediction has to stay, so that the network keeps the limit when it is measured.

A prediction has a standard error, and the errors of a network's blocks add up by their squares. The limit is on
`cost + z * sqrt(variance + (relative_error * cost)^2)`, which is no sum; but it grows with both the cost and the
variance, which are. So limits on these two, in boxes that are split until the best network keeps the real one, find
the same optimum with proof.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from qaedge.errors import Infeasible
from qaedge.metric import format_cost, title
from qaedge.search.knapsack import Choice, Constraint, Optimum, Problem, least_costs
from qaedge.search.problem import TOLERANCE, Array
from qaedge.search.problem import choice as make_choice

#: So many boxes are looked at; then the best network that was found is returned with its gap.
BOXES = 256

Solve = Callable[[Problem], Optimum]


class Margin(msgspec.Struct, frozen=True, eq=False):
    """How uncertain one metric is.

    Attributes:
        z: how many standard errors a network stays below the limit; 1.64 keeps 95 % of them.
        base: the variance of what every network has.
        variances: of each block, the variance of each candidate [n].
        relative_error: what the table as a whole is off, as a share of the cost.
    """

    z: float
    base: float
    variances: tuple[Array, ...]
    relative_error: float = 0.0

    def variance(self, indices: tuple[int, ...]) -> float:
        """Return what the rows of a network's blocks add up to."""
        return self.base + float(sum(v[i] for v, i in zip(self.variances, indices, strict=True)))

    def error(self, cost: float, variance: float) -> float:
        """Return the standard error of a cost."""
        return math.sqrt(variance + (self.relative_error * cost) ** 2)

    def needs(self, cost: float, variance: float) -> float:
        """Return the least limit that a cost keeps at some variance."""
        return self._used(cost, variance)

    def most(self, limit: float, variance: float) -> float:
        """Return the greatest cost that keeps a limit at some variance; -inf where none does."""
        low, high = -abs(limit), limit
        if self._used(low, variance) > limit:
            return -math.inf
        if self._used(high, variance) <= limit:
            return high
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if self._used(middle, variance) <= limit else (low, middle)
        return low

    def _used(self, cost: float, variance: float) -> float:
        return cost + self.z * self.error(max(cost, 0.0), variance)


class _Box(msgspec.Struct, frozen=True):
    """Between which variances of each metric a network lies."""

    low: dict[str, float]
    high: dict[str, float]


def within(problem: Problem, margins: Mapping[str, Margin], solve: Solve) -> Optimum:
    """Return what `solve` finds of the networks that stay below their limits by their margins.

    Args:
        problem: with its limits; those on metrics without a margin are as they are.
        margins: metric -> how uncertain it is.
        solve: finds the network of least loss of a problem, within its limits and what else it asks for.

    Raises:
        Infeasible: no network keeps the limits; the message tells of the margin.
    """
    limited = {m: margin for m, margin in margins.items() if m in problem.limits and margin.z > 0}
    if not limited:
        return solve(problem)
    start = _Box(
        {m: margin.base + float(sum(v.min() for v in margin.variances)) for m, margin in limited.items()},
        dict.fromkeys(limited, math.inf),
    )
    order = itertools.count()
    try:
        found = solve(_relaxed(problem, limited, start))
    except Infeasible as error:
        raise _told(_without_margin(problem, solve) or error, problem, limited, start) from error
    boxes = [(found.bound, next(order), start, found)]
    best: Optimum | None = None
    looked = 0
    while boxes and (best is None or (looked < BOXES and boxes[0][0] < best.choice.loss)):
        looked += 1
        _, _, box, found = heapq.heappop(boxes)
        missed = [m for m in limited if not keeps(problem, m, limited[m], found.choice)]
        if not missed:
            if best is None or found.choice.loss < best.choice.loss:
                best = found
            continue
        for part in _split(box, missed[0], limited[missed[0]], problem.limits[missed[0]], found.choice):
            try:
                answer = solve(_relaxed(problem, limited, part))
            except Infeasible:
                continue
            heapq.heappush(boxes, (answer.bound, next(order), part, answer))
    if best is None:
        raise Infeasible(
            "No network stays below its limits by its margin.",
            "Its predicted cost does, but not by the error of that. " + _kept_back(problem, limited, start),
        )
    lowest = min((bound for bound, *_ in boxes), default=math.inf)
    return _plain(problem, Optimum(best.choice, min(best.bound, lowest)))


def _split(box: _Box, metric: str, margin: Margin, limit: float, choice: Choice) -> tuple[_Box, _Box]:
    """Return two boxes that hold every network of one but this, which misses the limit by its margin.

    Its cost keeps the limit up to some variance, which is less than its own. Between the two, in one part the
    variance is too great for it, and in the other the cost that is allowed is too small.
    """
    cost, variance = choice.costs[metric], margin.variance(choice.indices)
    allowed = max(0.0, (limit - cost) / margin.z) ** 2 - (margin.relative_error * max(cost, 0.0)) ** 2
    at = (max(allowed, box.low[metric]) + variance) / 2
    return _Box(box.low, {**box.high, metric: at}), _Box({**box.low, metric: at}, box.high)


def tightened(problem: Problem, margins: Mapping[str, Margin], choice: Choice | None = None) -> Problem:
    """Return the problem with each limit less the margin that a network needs; None: that the surest one needs."""
    at = {
        m: g.variance(choice.indices) if choice else g.base + float(sum(v.min() for v in g.variances))
        for m, g in margins.items()
    }
    return _relaxed(problem, margins, _Box(at, dict.fromkeys(at, math.inf)))


def keeps(problem: Problem, metric: str, margin: Margin, choice: Choice) -> bool:
    """Whether a network stays below the limit on a metric by its margin."""
    most = margin.most(problem.limits[metric], margin.variance(choice.indices))
    return choice.costs[metric] <= Constraint(metric, most).bound


def _relaxed(problem: Problem, margins: Mapping[str, Margin], box: _Box) -> Problem:
    """Return the problem of a box: costs as if each variance were its least, and no variance beyond its greatest."""
    constraints = []
    for constraint in problem.constraints:
        margin = margins.get(constraint.metric)
        if margin is not None:
            most = margin.most(constraint.limit, box.low[constraint.metric])
            constraint = Constraint(constraint.metric, most if math.isfinite(most) else -abs(constraint.limit))
        constraints.append(constraint)
    blocks, base = list(problem.blocks), dict(problem.base)
    for metric, margin in margins.items():
        if math.isfinite(box.high[metric]):
            name = f"variance of {metric}"
            constraints.append(Constraint(name, box.high[metric]))
            base[name] = margin.base
            blocks = [
                msgspec.structs.replace(block, costs={**block.costs, name: values})
                for block, values in zip(blocks, margin.variances, strict=True)
            ]
    return Problem(tuple(blocks), base, tuple(constraints), problem.borders)


def _without_margin(problem: Problem, solve: Solve) -> Infeasible | None:
    """Return why there is no network where the limits are missed without any margin, too: they are what was asked."""
    try:
        solve(problem)
    except Infeasible as error:
        return error
    return None


def _told(error: Infeasible, problem: Problem, margins: Mapping[str, Margin], box: _Box) -> Infeasible:
    """Return an error that tells of the margins, too."""
    told = [error.hint, _kept_back(problem, margins, box)]
    least = least_costs(problem)
    for metric, margin in margins.items():
        needed = margin.needs(least[metric], box.low[metric])
        if needed > max(problem.limits[metric], least[metric] * (1 + TOLERANCE)):
            told.append(f"With that margin, a limit on {title(metric)} of {format_cost(metric, needed)} is the least.")
    return Infeasible(error.message, "\n".join(filter(None, told)), error.miss)


def _kept_back(problem: Problem, margins: Mapping[str, Margin], box: _Box) -> str:
    """Say how much of each limit is kept for the error of the table, where that is anything."""
    told = []
    for metric, margin in margins.items():
        limit = problem.limits[metric]
        most = margin.most(limit, box.low[metric])
        if limit - most > TOLERANCE * abs(limit):
            kept = format_cost(metric, limit - most) if math.isfinite(most) else "more than all"
            told.append(
                f"Of the limit on {title(metric)}, {format_cost(metric, limit)}, {kept} is kept as margin for the "
                "error of the table (--margin 0: none)."
            )
    return "\n".join(told)


def _plain(problem: Problem, found: Optimum) -> Optimum:
    """Return an answer with the costs of the problem that was asked, and no others."""
    return Optimum(make_choice(problem, np.array(found.choice.indices)), found.bound)
