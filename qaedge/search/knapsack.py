"""The multiple-choice knapsack, exactly: one candidate per block, least loss, any number of limits.

Limits are on sums, such as latency and size, or on the greatest of all blocks, such as activation memory;
neighbours may cost something together. Method: candidates that another of their block dominates go first.
For one optimum, Lagrange multipliers give a lower bound; candidates and partial networks whose bound lies
beyond a target loss are dropped, what is left is merged block by block, and the target is raised until a
network is found, which is then the optimum with proof. For a whole front, see `qaedge/search/front.py`. (Dyer 1984;
Kellerer, Pferschy, Pisinger, "Knapsack Problems", 2004, chapter 11.)

Rounding is monotone, hence dominance stays exact under it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from qaedge.errors import Infeasible, UsageError
from qaedge.metric import describe_miss, title
from qaedge.search.front import merge_front
from qaedge.search.layers import Layers, build_layers
from qaedge.search.merging import Target, merge
from qaedge.search.pareto import nondominated, staircase
from qaedge.search.problem import Array, Choice, Constraint, Options, Positions, Problem, choice, choices
from qaedge.search.relaxation import maximize_bound, price, within

__all__ = [
    "Choice",
    "Constraint",
    "Optimum",
    "Options",
    "Problem",
    "front",
    "least_costs",
    "least_within",
    "multipliers",
    "nearest_limits",
    "optimum",
    "solve",
    "surface",
]

#: Of more partial networks than this the best are kept, and the answer states its gap: bounds memory and time.
WIDTH = 1 << 19


class Optimum(msgspec.Struct, frozen=True):
    """A network, and how good it is known to be.

    Attributes:
        choice: the network.
        bound: no network within the limits has less loss than this.
    """

    choice: Choice
    bound: float

    @property
    def gap(self) -> float:
        """How much less loss another network could have; 0 where none can."""
        return max(0.0, self.choice.loss - self.bound)

    @property
    def is_proven(self) -> bool:
        """Whether this is the least loss of all, with proof."""
        return self.gap == 0


class _Found(msgspec.Struct, eq=False):
    """Indices of a network [blocks], its objective, and a lower bound of it."""

    indices: Positions
    value: float
    bound: float


def solve(problem: Problem) -> Choice:
    """Return the network of least loss within all limits; see `optimum`."""
    return optimum(problem).choice


def optimum(problem: Problem, width: int = WIDTH) -> Optimum:
    """Return the network of least loss within all limits, with its proof or its gap.

    Ties: least loss, then least costs in the order of the limits, then lowest indices.

    Args:
        problem: what is to be solved.
        width: of more partial networks than this the best are kept; then the answer may have a gap.

    Raises:
        Infeasible: no network keeps all limits; the message says by how much, for each.
    """
    limits = problem.limits
    found = _least(problem, None, limits, width)
    if found is None:
        raise infeasible(problem, limits)
    return Optimum(choice(problem, found.indices), found.bound)


def front(problem: Problem, metric: str) -> list[Choice]:
    """Return every network that no other beats in both loss and `metric`, cheapest first.

    Limits on other metrics are kept; a limit on `metric` itself is not applied. Of networks equal
    in both, the one with the least costs in the other limits that could be missed at all, then the
    one with the lowest indices.

    Raises:
        Infeasible: no network keeps the other limits.
        UsageError: no such metric, or one that is no sum.
    """
    others = _others(problem, (metric,))
    layers = build_layers(problem, None, (metric, *(m for m in others if not problem.is_peak(m))), others)
    if len(layers.start) == 2:
        return choices(problem, merge_front(layers))
    made = merge(layers.thinned())
    return choices(problem, made.places[staircase(made.points)])


def surface(problem: Problem, metrics: Sequence[str]) -> list[Choice]:
    """Return every network that no other beats in loss and all of `metrics`, by rising cost in their order.

    As `front`, for any number of metrics; beyond two, some networks that another beats may be among them.
    """
    others = _others(problem, metrics)
    layers = build_layers(problem, None, (*metrics, *(m for m in others if not problem.is_peak(m))), others)
    made = merge(layers.thinned())
    points = made.points[:, : len(metrics) + 1]
    order = np.lexsort((*made.points.T[: len(metrics) : -1], points[:, 0], *points.T[:0:-1]))
    kept = order[nondominated(points[order])]
    return choices(problem, made.places[kept])


def _others(problem: Problem, metrics: Sequence[str]) -> dict[str, float]:
    """Return the limits on other metrics that could be missed at all; raise Infeasible where they cannot be kept."""
    for metric in metrics:
        problem.check_metric(metric)
        if problem.is_peak(metric):
            raise UsageError(
                f"There is no front over {metric}, which is no sum over the blocks.", "Give a limit on it instead."
            )
    limits = {m: bound for m, bound in problem.limits.items() if m not in metrics}
    if limits and _least(problem, metrics[0], limits, WIDTH, np.inf) is None:
        raise infeasible(problem, limits)
    return {m: bound for m, bound in limits.items() if _extreme(problem, m, np.max, max) > bound}


def multipliers(problem: Problem, loss: float) -> dict[str, float]:
    """Return, for each limited sum, how much loss one more unit of its limit would buy, by the relaxation.

    Args:
        problem: what was solved.
        loss: of its best network.
    """
    limits = problem.limits
    sums = [metric for metric in limits if not problem.is_peak(metric)]
    dual = maximize_bound(build_layers(problem, None, sums, limits).thinned(), loss)
    return dict(zip(sums, dual.weights[1:].tolist(), strict=True))


def least_costs(problem: Problem) -> dict[str, float]:
    """Return the least possible cost of any network in each metric, other limits aside."""
    return {metric: least_cost(problem, metric) for metric in problem.metrics}


def least_cost(problem: Problem, metric: str) -> float:
    """Return the least possible cost of any network in a metric, limits aside."""
    if any(metric in border for border in problem.borders):
        return float(price(build_layers(problem, metric, (), {}), np.ones((1, 1))).totals[0, 0])
    return _extreme(problem, metric, np.min, min)


def _extreme(
    problem: Problem, metric: str, pick: Callable[[Array], np.float64], pick_border: Callable[[float, float], float]
) -> float:
    """Return a bound of the cost of all networks in a metric: that of each block's least or greatest."""
    value = problem.base.get(metric, 0.0)
    if problem.is_peak(metric):
        return max(value, *(float(pick(block.peaks[metric])) for block in problem.blocks))
    for number, block in enumerate(problem.blocks):
        if number and problem.borders and metric in problem.borders[number - 1]:
            value += float(pick(problem.borders[number - 1][metric]))
        value += float(pick(block.costs[metric]))
    return value


def _least(
    problem: Problem, objective: str | None, limits: dict[str, float], width: int, enough: float = -np.inf
) -> _Found | None:
    """Return the network of the least objective (None: loss) within `limits`; None where there is none.

    The first that is met of at most `enough` is as good.
    """
    sums = [metric for metric in limits if not problem.is_peak(metric)]
    layers = build_layers(problem, objective, sums, limits)
    if layers.is_empty:
        return None
    if not sums:
        found = price(layers, np.ones((1, 1)))
        value = float(found.totals[0, 0])
        return _Found(layers.indices(found.places)[0], value, value)
    # The least cost in the first limited metric, under the other limits, tells whether there is a
    # network at all, and is one to start from.
    metric = sums[0]
    known = _least(problem, metric, {m: b for m, b in limits.items() if m != metric}, width, limits[metric])
    if known is None or known.bound > limits[metric]:
        return None
    if known.value > limits[metric]:
        raise Infeasible(
            "No network was found that keeps the limits, and none was proven not to exist.",
            "Raise a limit, or drop candidates from the space.",
        )
    start = choice(problem, known.indices)
    value = start.loss if objective is None else start.costs[objective]
    if value <= enough:
        return _Found(known.indices, value, -np.inf)
    layers = within(layers.thinned(), np.eye(len(layers.start))[1:], (layers.bounds + layers.rounding)[1:])
    return _search(layers, known.indices, value, width, enough)


def _search(layers: Layers, known: Positions, upper: float, width: int, enough: float) -> _Found:
    """Return the network of the least objective, or one of at most `enough`, where one within the limits is known."""
    dual = maximize_bound(layers, upper)
    if dual.places is not None:
        known, upper = layers.indices(dual.places[None, :])[0], dual.upper
        if upper <= enough:
            return _Found(known, upper, dual.lower)
    offset = float(dual.weights[1:] @ layers.bounds[1:])
    gap = max(upper - dual.lower, 0.0)
    open_ = np.inf
    # Widen the target until a network is found within it: everything within it is kept, so it is the best.
    for share in (1 / 64, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0) if gap > 1e-9 * abs(upper) else (1.0,):
        target = min(dual.lower + gap * share, upper) if share < 1 else upper
        merged = merge(layers, Target(dual.weights, target + offset, width))
        open_ = merged.dropped - offset - float(dual.weights @ layers.rounding)
        if len(merged.points):
            at = np.lexsort(merged.points.T[::-1])[0]
            value = float(merged.points[at, 0])
            if value <= target:
                return _Found(merged.places[at], value, min(value, max(open_, dual.lower)))
            if value < upper:  # one beyond the target is met, too, where it leaves much of its limits
                known, upper = merged.places[at], value
        if open_ < np.inf:
            break
    return _Found(known, upper, min(upper, max(open_, dual.lower)))


def infeasible(problem: Problem, limits: dict[str, float]) -> Infeasible:
    """Say, for every limit, by how much the least network misses it; or that only all together are too much."""
    asked = {m: min(c.limit for c in problem.constraints if c.metric == m) for m in limits}
    least = least_costs(problem)
    missed = [metric for metric in limits if least[metric] > limits[metric]]
    if missed:
        lines = [describe_miss(metric, least[metric], asked[metric]) for metric in missed]
        if alone := [title(metric) for metric in limits if metric not in missed]:
            lines.append(f"The limit on {' and on '.join(alone)} can be kept.")
        text = "\n  ".join(["No network keeps the limits.", *lines])
        miss = sum((least[metric] - asked[metric]) / max(abs(asked[metric]), 1e-300) for metric in missed)
        return Infeasible(text, "Raise the limit, or add cheaper candidates to the space.", miss)
    nearest = []
    for metric, cost in nearest_limits(problem, limits).items():
        kept = " and ".join(title(m) for m in limits if m != metric)
        line = f"With the limit on {kept} kept, {describe_miss(metric, cost, asked[metric])}"
        nearest.append(((cost - asked[metric]) / max(abs(asked[metric]), 1e-300), line))
    lines = [line for _, line in sorted(nearest)] or ["Raising one of them is not enough."]
    text = "\n  ".join(["Each limit can be kept alone, but no network keeps all of them together.", *lines])
    hint = "The first of these is the nearest. " if len(nearest) > 1 else ""
    miss = min((share for share, _ in nearest), default=math.inf)
    return Infeasible(text, f"{hint}Raise a limit, or add cheaper candidates to the space.", miss)


def nearest_limits(problem: Problem, limits: dict[str, float]) -> dict[str, float]:
    """Return, for each limit, the least value at which there is a network while all the others are kept.

    A limit that no value of would help is not there.
    """
    found = {}
    for metric in limits:
        cost = least_within(problem, metric, {m: bound for m, bound in limits.items() if m != metric})
        if cost is not None:
            found[metric] = cost
    return found


def least_within(problem: Problem, metric: str, limits: dict[str, float], width: int = WIDTH) -> float | None:
    """Return the least cost in a metric of a network that keeps limits on others; None where no network does."""
    if problem.is_peak(metric):
        return _least_peak(problem, metric, limits)
    least = _least(problem, metric, limits, width)
    return None if least is None else choice(problem, least.indices).costs[metric]


def _least_peak(problem: Problem, metric: str, others: dict[str, float]) -> float | None:
    """Return the least peak of a network that keeps the other limits; None where no network does."""
    base = problem.base.get(metric, 0.0)
    values = np.unique(np.concatenate([[base], *(np.maximum(block.peaks[metric], base) for block in problem.blocks)]))
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if _least(problem, None, {**others, metric: float(values[middle])}, WIDTH, np.inf) is None:
            low = middle + 1
        else:
            high = middle
    return float(values[low]) if low < len(values) else None
