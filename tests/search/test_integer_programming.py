"""Optima and fronts against integer programming by HiGHS, on problems too large to enumerate."""

import itertools

import numpy as np
import pytest
from knapsack_problems import METRICS, PEAK, make_problem

from qaedge.errors import Infeasible
from qaedge.search.knapsack import Constraint, Options, Problem, front, optimum, surface
from qaedge.search.sensitivity import sensitivities

FAR = "latency@far"
#: Two devices, size and energy.
MANY = (METRICS[0], FAR, *METRICS[1:])


def by_milp(problem, minimize=None):
    """Return the least loss (or cost in a metric) within the limits; None where no network keeps them.

    A border is a variable for each pair of candidates, tied to both: at least the sum of the two less one.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    sizes = [len(block.losses) for block in problem.blocks]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    pairs = [a * b for a, b in itertools.pairwise(sizes)] if problem.borders else []
    pair_starts = starts[-1] + np.concatenate([[0], np.cumsum(pairs)]).astype(int)
    width = int(pair_starts[-1])

    def row(of_block, metric=None):
        made = np.zeros(width)
        made[: starts[-1]] = np.concatenate([of_block(block) for block in problem.blocks])
        for border, begin, count in zip(problem.borders, pair_starts, pairs, strict=False):
            if metric in border:
                made[begin : begin + count] = border[metric].reshape(-1)
        return made

    rules = []
    for number, size in enumerate(sizes):
        pick = np.zeros((1, width))
        pick[0, starts[number] : starts[number] + size] = 1
        rules.append(LinearConstraint(pick, 1, 1))
    for number in range(len(pairs)):
        left, right = sizes[number], sizes[number + 1]
        grid = np.arange(pair_starts[number], pair_starts[number + 1]).reshape(left, right)
        for places, begin in ((grid, starts[number]), (grid.T, starts[number + 1])):
            tie = np.zeros((len(places), width))
            for at, pair in enumerate(places):
                tie[at, pair], tie[at, begin + at] = 1, -1
            rules.append(LinearConstraint(tie, 0, 0))
    most = np.ones(width)
    for metric, bound in problem.limits.items():
        if problem.is_peak(metric):
            most[: starts[-1]][np.concatenate([block.peaks[metric] for block in problem.blocks]) > bound] = 0
        else:
            costs = row(lambda block, metric=metric: block.costs[metric], metric)
            rules.append(LinearConstraint(costs[None], -np.inf, bound - problem.base.get(metric, 0.0)))
    wanted = row(lambda block: block.losses) if minimize is None else row(lambda b: b.costs[minimize], minimize)
    integral = np.concatenate([np.ones(starts[-1]), np.zeros(width - starts[-1])])
    found = milp(wanted, constraints=rules, integrality=integral, bounds=Bounds(0, most), options={"mip_rel_gap": 0.0})
    return None if found.fun is None else float(found.fun) + (problem.base.get(minimize, 0.0) if minimize else 0.0)


def with_borders(problem, seed):
    """A change between two kinds of candidates costs latency on one device; to a wider one it gains on another."""
    draw = np.random.default_rng(seed)
    kinds = [draw.integers(0, 3, len(block.losses)) for block in problem.blocks]
    change = {METRICS[0]: 0.08 * (1 - np.eye(3)), FAR: draw.uniform(-0.05, 0.05, (3, 3))}
    borders = tuple(
        {metric: table[np.ix_(a, b)] for metric, table in change.items() if metric in problem.metrics}
        for a, b in itertools.pairwise(kinds)
    )
    return Problem(problem.blocks, problem.base, problem.constraints, borders)


def with_peaks(problem, seed, share):
    draw = np.random.default_rng(seed)
    blocks = tuple(Options(b.name, b.losses, b.costs, {PEAK: draw.random(len(b.losses))}) for b in problem.blocks)
    return Problem(blocks, problem.base, (*problem.constraints, Constraint(PEAK, share)), problem.borders)


@pytest.mark.parametrize("metrics", [MANY[:1], MANY[:2], MANY[:3], MANY], ids=len)
@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_under_several_limits(metrics, seed):
    problem = make_problem(5, 40, metrics, seed)
    found = optimum(problem)
    assert found.is_proven
    assert found.choice.loss == pytest.approx(by_milp(problem), abs=1e-9)


@pytest.mark.parametrize("metrics", [MANY[:1], MANY[:2], MANY[:3]], ids=len)
@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_with_borders_and_a_peak(metrics, seed):
    problem = with_peaks(with_borders(make_problem(4, 15, metrics, seed, noise=0.1), seed), seed, 0.7)
    found = optimum(problem)
    assert found.is_proven
    assert found.choice.loss == pytest.approx(by_milp(problem), abs=1e-9)
    assert max(block.peaks[PEAK][i] for block, i in zip(problem.blocks, found.choice.indices, strict=True)) <= 0.7


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("borders", [False, True])
def test_each_point_of_a_front_is_an_optimum_and_nothing_lies_between(borders, seed):
    problem = make_problem(4, 20, MANY[:2], seed, noise=0.1)
    problem = with_borders(problem, seed) if borders else problem
    points = front(problem, METRICS[0])
    assert len(points) > 10
    for before, after in itertools.pairwise(points[:: max(1, len(points) // 6)]):
        # The best within what is just cheaper than the dearer one is the one before it on the front.
        last = points[points.index(after) - 1]
        limits = (Constraint(METRICS[0], after.costs[METRICS[0]] * (1 - 1e-6)), problem.constraints[1])
        assert before.loss >= last.loss
        wanted = by_milp(Problem(problem.blocks, problem.base, limits, problem.borders))
        assert last.loss == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_each_point_of_a_front_over_two_metrics_is_an_optimum(seed):
    problem = make_problem(4, 20, MANY[:2], seed, noise=0.1)
    points = surface(problem, MANY[:2])
    assert len(points) > 10
    for point in points[:: max(1, len(points) // 8)]:
        limits = tuple(Constraint(m, point.costs[m]) for m in MANY[:2])
        assert point.loss == pytest.approx(by_milp(Problem(problem.blocks, {}, limits)), abs=1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_what_a_limit_costs(seed):
    problem = make_problem(4, 20, MANY[:3], seed, tightness=0.4)
    found = optimum(problem)
    for one in sensitivities(problem, found):
        others = tuple(c for c in problem.constraints if c.metric != one.metric)
        assert one.loss_without == pytest.approx(by_milp(Problem(problem.blocks, {}, others)), abs=1e-9)
        if one.next_cost is not None:
            limits = (*others, Constraint(one.metric, one.next_cost))
            assert one.next_loss == pytest.approx(by_milp(Problem(problem.blocks, {}, limits)), abs=1e-9)
            limits = (*others, Constraint(one.metric, one.next_cost * (1 - 1e-6)))
            assert found.choice.loss == pytest.approx(by_milp(Problem(problem.blocks, {}, limits)), abs=1e-9)


def test_the_nearest_limits_of_what_cannot_be_kept():
    problem = make_problem(4, 20, MANY[:2], 0, tightness=0.01)
    assert by_milp(problem) is None
    with pytest.raises(Infeasible) as caught:
        optimum(problem)
    misses = []
    for kept, raised in (problem.constraints, problem.constraints[::-1]):
        least = by_milp(Problem(problem.blocks, {}, (kept,)), raised.metric)
        misses.append((least - raised.limit) / raised.limit)
    assert caught.value.miss == pytest.approx(min(misses), rel=1e-6)
