"""The multiple-choice knapsack, exactly: one candidate per block, least loss, any number of additive limits.

Method: candidates that another of their block dominates go first. For one optimum, Lagrange
multipliers give a lower bound; candidates and partial networks whose bound lies beyond a target
loss are dropped, what is left is merged block by block, and the target is raised until a network
is found, which is then the optimum with proof. For a whole front, partial fronts are merged without
a target. (Dyer 1984; Kellerer, Pferschy, Pisinger, "Knapsack Problems", 2004, chapter 11.)

Sums are taken in block order everywhere, from the base cost on, so that equal networks have equal
sums to the last bit. Rounding is monotone, hence dominance stays exact under it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from qaedge.errors import Infeasible, NotMeasured, UsageError
from qaedge.metric import describe_miss, title
from qaedge.pareto import nondominated, outer_front, staircase

Array: TypeAlias = npt.NDArray[np.float64]
Positions: TypeAlias = npt.NDArray[np.intp]

#: A limit given as a share of a sum must not fail by the rounding of that sum.
TOLERANCE = 1e-9
_ROUNDING = 1e-12  # bounds are sums in another order; they may not drop what lies within this


class Constraint(msgspec.Struct, frozen=True):
    """A limit on one additive metric, such as `latency@pi4` [s] or `size` [bytes]."""

    metric: str
    limit: float

    @property
    def bound(self) -> float:
        """The greatest cost that keeps the limit: the limit, and one part in 10^9 for rounding."""
        return self.limit + TOLERANCE * abs(self.limit)


class Options(msgspec.Struct, frozen=True, eq=False):
    """The candidates of one block: `losses` [n], and for each metric its costs [n]."""

    name: str
    losses: Array
    costs: dict[str, Array]


class Problem(msgspec.Struct, frozen=True, eq=False):
    """What is to be solved; `base` is what a network costs beside its blocks, and may be negative.

    Raises UsageError where the arrays do not fit each other, and NotMeasured where a loss or cost
    is negative or not a number.
    """

    blocks: tuple[Options, ...]
    base: dict[str, float] = {}
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        """Check shapes and values."""
        if not self.blocks:
            raise UsageError("A search needs at least one block.")
        metrics = set(self.blocks[0].costs)
        for block in self.blocks:
            if set(block.costs) != metrics:
                raise UsageError(f"Block {block.name!r} has the costs {sorted(block.costs)}, not {sorted(metrics)}.")
            for what, values in (("loss", block.losses), *block.costs.items()):
                if values.shape != block.losses.shape or values.ndim != 1 or not len(values):
                    raise UsageError(f"Block {block.name!r}: {what} has the shape {values.shape}.")
                if bad := np.flatnonzero(~(np.isfinite(values) & (values >= 0))).tolist():
                    raise NotMeasured(
                        f"Block {block.name!r}, candidate {bad[0]}: the {what} is {values[bad[0]]}.",
                        "Losses and costs are finite and not negative. Measure that candidate again.",
                    )
        for constraint in self.constraints:
            if constraint.metric not in metrics:
                known = ", ".join(sorted(metrics)) or "none"
                raise UsageError(f"No table gives the metric {constraint.metric!r}.", f"Known: {known}.")
            if not np.isfinite(constraint.limit):
                raise UsageError(f"The limit on {constraint.metric} is {constraint.limit}.")

    @property
    def limits(self) -> dict[str, float]:
        """The bound of each limited metric, in the order given; of several on one metric the least."""
        bounds: dict[str, float] = {}
        for constraint in self.constraints:
            bounds[constraint.metric] = min(constraint.bound, bounds.get(constraint.metric, np.inf))
        return bounds


class Choice(msgspec.Struct, frozen=True):
    """One candidate per block, its summed loss, and its whole cost in each metric."""

    indices: tuple[int, ...]
    loss: float
    costs: dict[str, float]


class _Layer(msgspec.Struct, eq=False):
    """What is left of a block: `points` [n, d] (objective, then limited costs), and their candidates."""

    points: Array
    index: Positions

    def keep(self, mask: npt.NDArray[np.bool_] | Positions) -> _Layer:
        return _Layer(self.points[mask], self.index[mask])


def solve(problem: Problem) -> Choice:
    """Return the network of least loss within all limits.

    Ties: least loss, then least costs in the order of the constraints, then lowest indices.

    Raises:
        Infeasible: no network keeps all limits; the message says by how much, for each.
    """
    limits = problem.limits
    found = _least(problem, None, limits)
    if found is None:
        raise _infeasible(problem, limits)
    return _choices(problem, found[None, :])[0]


def front(problem: Problem, metric: str) -> list[Choice]:
    """Return every network that no other beats in both loss and `metric`, cheapest first.

    Limits on other metrics are kept; a limit on `metric` itself is not applied. Of networks equal
    in both, the one with the least costs in the other limits that could be missed at all, then the
    one with the lowest indices.

    Raises:
        Infeasible: no network keeps the other limits.
        UsageError: no such metric.
    """
    if metric not in problem.blocks[0].costs:
        known = ", ".join(problem.blocks[0].costs) or "none"
        raise UsageError(f"No table gives the metric {metric!r}.", f"Known: {known}.")
    limits = {m: bound for m, bound in problem.limits.items() if m != metric}
    if limits and _least(problem, metric, limits) is None:
        raise _infeasible(problem, limits)
    limits = {m: bound for m, bound in limits.items() if _extreme(problem, m, np.max) > bound}
    layers = [layer.keep(nondominated(layer.points)) for layer in _layers(problem, None, (metric, *limits))]
    start = np.array([0.0, *(problem.base.get(m, 0.0) for m in (metric, *limits))])
    bounds = np.array([np.inf, np.inf, *limits.values()])
    indices, points = _merge(layers, start, bounds, None, _rounding(layers, start, bounds))
    keep = staircase(points)
    return _choices(problem, indices[keep])


def least_costs(problem: Problem) -> dict[str, float]:
    """Return the least possible cost of any network in each metric, other limits aside."""
    return {metric: _extreme(problem, metric, np.min) for metric in problem.blocks[0].costs}


def _extreme(problem: Problem, metric: str, pick: Callable[[Array], np.float64]) -> float:
    value = problem.base.get(metric, 0.0)
    for block in problem.blocks:
        value += float(pick(block.costs[metric]))
    return value


def _choices(problem: Problem, indices: Positions) -> list[Choice]:
    """Turn rows of indices [n, blocks] into choices, with the costs in every metric."""
    count = len(indices)
    losses = np.zeros(count)
    costs = {metric: np.full(count, problem.base.get(metric, 0.0)) for metric in problem.blocks[0].costs}
    for block, column in zip(problem.blocks, indices.T, strict=True):
        losses += block.losses[column]
        for metric, values in block.costs.items():
            costs[metric] += values[column]
    rows = zip(*(values.tolist() for values in costs.values()), strict=True) if costs else iter([()] * count)
    return [
        Choice(tuple(row), loss, dict(zip(costs, values, strict=True)))
        for row, loss, values in zip(indices.tolist(), losses.tolist(), rows, strict=True)
    ]


def _layers(problem: Problem, objective: str | None, metrics: Sequence[str]) -> list[_Layer]:
    """Return each block's points: the objective (None: the loss) in column 0, then `metrics`."""
    return [
        _Layer(
            np.column_stack(
                [block.losses if objective is None else block.costs[objective], *(block.costs[m] for m in metrics)]
            ),
            np.arange(len(block.losses)),
        )
        for block in problem.blocks
    ]


def _rounding(layers: list[_Layer], start: Array, bounds: Array) -> Array:
    """How far sums in another order may lie apart, per column [d]."""
    scale = np.abs(start) + sum(layer.points.max(axis=0) for layer in layers)
    return np.asarray(_ROUNDING * (scale + np.where(np.isfinite(bounds), np.abs(bounds), 0.0)))


def _least(problem: Problem, objective: str | None, limits: dict[str, float]) -> Positions | None:
    """Return the indices [blocks] of the least objective (None: loss) within `limits`, or None."""
    start = np.array([0.0 if objective is None else problem.base.get(objective, 0.0)])
    start = np.concatenate([start, [problem.base.get(m, 0.0) for m in limits]])
    bounds = np.array([np.inf, *limits.values()])
    layers = _layers(problem, objective, tuple(limits))
    if not limits:
        return np.array([layer.points[:, 0].argmin() for layer in layers])
    # The least cost in the first limited metric, under the other limits, tells whether there is a
    # network at all, and is one to start from.
    metric, *others = limits
    known = _least(problem, metric, {m: limits[m] for m in others})
    if known is None or (best := _sum(layers, known, start))[1] > bounds[1]:
        return None
    rounding = _rounding(layers, start, bounds)
    slack = bounds - start - sum(layer.points.min(axis=0) for layer in layers) + rounding
    layers = [layer.keep((layer.points - layer.points.min(axis=0) <= slack).all(axis=1)) for layer in layers]
    layers = [layer.keep(nondominated(layer.points)) for layer in layers]
    lower, weights, upper = _dual(layers, start, bounds, best[0])
    # Widen the target until a network is found within it: everything within it is kept, so it is the best.
    gap = max(upper - lower, 0.0)
    for share in (1 / 64, 1 / 16, 1 / 4, 1.0):
        target = lower + gap * share if share < 1 else upper
        indices, points = _merge(layers, start, bounds, (weights, target), rounding)
        if len(points) and (share == 1 or points[:, 0].min() <= target):
            return np.asarray(indices[np.lexsort(points.T[::-1])[0]])
    raise AssertionError("the network that gave the target lies within it")


def _sum(layers: list[_Layer], chosen: Sequence[int] | Positions, start: Array) -> Array:
    """Return the whole cost [d] of one point per layer, summed in block order."""
    total = start.copy()
    for layer, position in zip(layers, chosen, strict=True):
        total += layer.points[position]
    return total


def _dual(layers: list[_Layer], start: Array, bounds: Array, upper: float) -> tuple[float, Array, float]:
    """Return a lower bound of the objective, the multipliers [d] that give it, and the best network's on the way.

    Any multipliers give a valid bound; good ones only save time. One limit: the crossing of two lines
    of the dual, repeated, ends at its maximum. Several: subgradient steps after Polyak.
    """
    columns = sum(layer.points.max(axis=0) - layer.points.min(axis=0) for layer in layers)
    scale = np.where(columns[1:] > 0, columns[1:], 1.0)

    def value(weights: Array) -> tuple[float, Array]:
        total = _sum(layers, [int((layer.points @ weights).argmin()) for layer in layers], start)
        return float(total[0] + weights[1:] @ (total[1:] - bounds[1:])), total

    weights = np.zeros(len(start))
    weights[0] = 1.0
    lower, total = value(weights)
    best = weights.copy()
    if (total <= bounds).all():
        return lower, best, min(upper, float(total[0]))
    above, below = total, _sum(layers, [int(layer.points[:, 1].argmin()) for layer in layers], start)
    pace, stale = 1.0, 0
    for _ in range(120):
        if len(start) == 2:
            if above[1] <= below[1]:
                break
            weights = np.array([1.0, max(0.0, (below[0] - above[0]) / (above[1] - below[1]))])
        else:
            slope = (total[1:] - bounds[1:]) / scale
            square = float(slope @ slope)
            if square == 0 or upper <= lower:
                break
            step = pace * max(upper - lower, 0.0) / square
            weights = np.concatenate([[1.0], np.maximum(0.0, weights[1:] + step * slope / scale)])
        bound, total = value(weights)
        if (total <= bounds).all():
            upper = min(upper, float(total[0]))
        stale = 0 if bound > lower else stale + 1
        if bound > lower:
            lower, best = bound, weights.copy()
        if len(start) == 2:
            if stale:
                break
            above, below = (total, below) if total[1] > bounds[1] else (above, total)
        elif stale == 4:
            pace, stale, weights = pace / 2, 0, best.copy()
    return lower, best, upper


def _merge(
    layers: list[_Layer], start: Array, bounds: Array, target: tuple[Array, float] | None, rounding: Array
) -> tuple[Positions, Array]:
    """Merge the layers into whole networks: their indices [n, blocks] and points [n, d].

    Dropped on the way: partial networks that another dominates, that cannot keep the limits any
    more, and, with a target (multipliers, objective), whose bound lies beyond it.
    """
    slack = bounds + rounding
    if target is not None:
        weights, most = target
        most += float(weights @ np.where(np.isfinite(bounds), bounds, 0.0)) + float(weights @ rounding)
        spare = most - float(start @ weights) - sum(float((layer.points @ weights).min()) for layer in layers)
        layers = [
            layer.keep((priced := layer.points @ weights) - priced.min() <= spare + float(weights @ rounding))
            for layer in layers
        ]
    points, parents, chosen = start[None, :], [], []
    for number, layer in enumerate(layers):
        rest = layers[number + 1 :]
        room = slack - sum(later.points.min(axis=0) for later in rest)
        left = most - sum(float((later.points @ weights).min()) for later in rest) if target is not None else None

        def keeps(made: Array, room: Array = room, left: float | None = left) -> npt.NDArray[np.bool_]:
            mask = np.ones(len(made), dtype=bool)
            for column in np.flatnonzero(np.isfinite(room)):
                mask &= made[:, column] <= room[column]
            if left is not None:
                mask &= made @ weights <= left
            return mask

        positions, points = outer_front(points, layer.points, keeps)
        parents.append(positions // len(layer.points))
        chosen.append(layer.index[positions % len(layer.points)])
    at = np.flatnonzero((points <= bounds).all(axis=1))
    points = points[at]
    columns = []
    for parent, choice in zip(reversed(parents), reversed(chosen), strict=True):
        columns.append(choice[at])
        at = parent[at]
    return np.column_stack(columns[::-1]), points


def _infeasible(problem: Problem, limits: dict[str, float]) -> Infeasible:
    """Say, for every limit, by how much the least network misses it; or that only all together are too much."""
    asked = {m: min(c.limit for c in problem.constraints if c.metric == m) for m in limits}
    least = least_costs(problem)
    missed = [metric for metric in limits if least[metric] > limits[metric]]
    if missed:
        lines = [describe_miss(metric, least[metric], asked[metric]) for metric in missed]
        if alone := [title(metric) for metric in limits if metric not in missed]:
            lines.append(f"The limit on {' and on '.join(alone)} can be kept.")
        text = "\n  ".join(["No network keeps the limits.", *lines])
        return Infeasible(text, "Raise the limit, or add cheaper candidates to the space.")
    nearest = []
    for metric in limits:
        others = {m: bound for m, bound in limits.items() if m != metric}
        found = _least(problem, metric, others)
        if found is not None:
            cost = _choices(problem, found[None, :])[0].costs[metric]
            kept = " and ".join(title(m) for m in others)
            line = f"With the limit on {kept} kept, {describe_miss(metric, cost, asked[metric])}"
            nearest.append(((cost - asked[metric]) / max(abs(asked[metric]), 1e-300), line))
    lines = [line for _, line in sorted(nearest)] or ["Raising one of them is not enough."]
    text = "\n  ".join(["Each limit can be kept alone, but no network keeps all of them together.", *lines])
    hint = "The first of these is the nearest. " if len(nearest) > 1 else ""
    return Infeasible(text, f"{hint}Raise a limit, or add cheaper candidates to the space.")
