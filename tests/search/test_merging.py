"""Fronts and optima under borders, peaks and several limits, against every network there is."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from knapsack_problems import METRICS, PEAK, enumerate_all, enumerate_kept, make_problem, problems

from qaedge.errors import Infeasible, NotMeasured, UsageError
from qaedge.search.knapsack import (
    Constraint,
    Options,
    Problem,
    front,
    least_costs,
    nearest_limits,
    optimum,
    solve,
    surface,
)


def key_of(choice, *metrics):
    return tuple(round(v, 9) for v in (choice.loss, *(choice.costs[m] for m in metrics)))


@settings(max_examples=300, deadline=None)
@given(problems())
def test_the_optimum_is_the_enumerations_with_borders_and_peaks(problem):
    kept = enumerate_kept(problem)
    if not kept:
        with pytest.raises(Infeasible):
            solve(problem)
        return
    found = optimum(problem)
    assert found.is_proven
    assert found.choice in kept
    assert found.choice.loss == min(c.loss for c in kept)


@settings(max_examples=300, deadline=None)
@given(problems(fewest=1), st.data())
def test_the_front_is_the_enumerations_with_borders_and_peaks(problem, data):
    metric = data.draw(st.sampled_from([m for m in problem.limits if m != PEAK]))
    kept = enumerate_kept(problem, aside=(metric,))
    if not kept:
        with pytest.raises(Infeasible):
            front(problem, metric)
        return
    wanted = []
    for choice in sorted(kept, key=lambda c: (c.costs[metric], c.loss)):
        if not wanted or choice.loss < wanted[-1][1]:
            wanted.append((choice.costs[metric], choice.loss))
    found = front(problem, metric)
    assert [(c.costs[metric], c.loss) for c in found] == wanted
    assert all(c in kept for c in found)


@settings(max_examples=300, deadline=None)
@given(problems(fewest=2), st.data())
def test_the_front_over_two_metrics_is_the_enumerations(problem, data):
    one, two = data.draw(st.permutations([m for m in problem.limits if m != PEAK]))[:2]
    kept = enumerate_kept(problem, aside=(one, two))
    if not kept:
        with pytest.raises(Infeasible):
            surface(problem, (one, two))
        return
    points = {(c.loss, c.costs[one], c.costs[two]) for c in kept}
    wanted = {p for p in points if not any(q != p and all(a <= b for a, b in zip(q, p, strict=True)) for q in points)}
    found = surface(problem, (one, two))
    assert {(c.loss, c.costs[one], c.costs[two]) for c in found} == wanted
    assert len(found) == len(wanted)
    assert [c.costs[one] for c in found] == sorted(c.costs[one] for c in found)
    assert all(c in kept for c in found)


@settings(max_examples=150, deadline=None)
@given(problems(fewest=1), st.integers(1, 4))
def test_what_is_too_wide_states_a_gap_that_holds(problem, width):
    kept = enumerate_kept(problem)
    try:
        found = optimum(problem, width)
    except Infeasible:
        return  # none was found within that width: the message does not say that there is none
    best = min(c.loss for c in kept)
    assert found.choice in kept
    assert found.bound <= best + 1e-9
    assert found.choice.loss <= best + found.gap + 1e-9
    if found.is_proven:
        assert found.choice.loss <= best + 1e-9


@settings(max_examples=100, deadline=None)
@given(problems(fewest=1))
def test_the_nearest_limits_are_the_enumerations(problem):
    limits = problem.limits
    found = nearest_limits(problem, limits)
    for metric in limits:
        kept = enumerate_kept(problem, aside=(metric,))
        assert (metric in found) == bool(kept)
        if kept:
            assert found[metric] == pytest.approx(min(c.costs[metric] for c in kept), abs=1e-9)
    everything = enumerate_all(problem)
    for metric, cost in least_costs(problem).items():
        assert cost == pytest.approx(min(c.costs[metric] for c in everything), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_a_long_front_with_borders_is_that_of_plain_merging(seed):
    """Two kinds of candidates, and a change of kind costs: long enough that bounds and runs matter."""
    draw = np.random.default_rng(seed)
    problem = make_problem(5, 300, METRICS[:1], seed, noise=0.02)
    kinds = [draw.integers(0, 2, 300) for _ in problem.blocks]
    borders = tuple({METRICS[0]: np.where(a[:, None] == b[None], 0.0, 0.05)} for a, b in itertools.pairwise(kinds))
    costs, losses, last = np.zeros(1), np.zeros(1), np.zeros(1, dtype=int)
    for number, block in enumerate(problem.blocks):
        added = block.costs[METRICS[0]][None] + (0.05 * (last[:, None] != kinds[number][None]) if number else 0.0)
        costs = (costs[:, None] + added).reshape(-1)
        losses = (losses[:, None] + block.losses[None]).reshape(-1)
        last = np.broadcast_to(kinds[number][None], (len(last), 300)).reshape(-1)
        kept = []
        for kind in (0, 1):
            order = np.flatnonzero(last == kind)[np.lexsort((losses[last == kind], costs[last == kind]))]
            least = np.minimum.accumulate(losses[order])
            kept.append(order[np.concatenate([[True], least[1:] < least[:-1]])])
        at = np.concatenate(kept)
        costs, losses, last = costs[at], losses[at], last[at]
    order = np.lexsort((losses, costs))
    least = np.minimum.accumulate(losses[order])
    wanted = order[np.concatenate([[True], least[1:] < least[:-1]])]
    found = front(Problem(problem.blocks, {}, (), borders), METRICS[0])
    assert len(found) > 500
    assert np.array([c.costs[METRICS[0]] for c in found]) == pytest.approx(costs[wanted], abs=1e-12)
    assert np.array([c.loss for c in found]) == pytest.approx(losses[wanted], abs=1e-12)


def test_a_border_may_be_worth_a_slower_neighbour():
    def block(name, *rows):
        return Options(name, np.array([r[0] for r in rows]), {"latency@local": np.array([r[1] for r in rows])})

    # Alone the second of each is better; going from int8 to float and back costs more than it gains.
    blocks = (block("a", (0.1, 2.0)), block("b", (0.1, 2.0), (0.1, 1.0)), block("c", (0.1, 2.0)))
    change = np.array([[0.0, 0.7]])
    limits = (Constraint("latency@local", 6.0),)
    found = solve(Problem(blocks, {}, limits, ({"latency@local": change}, {"latency@local": change.T})))
    assert found.indices == (0, 0, 0)
    assert found.costs == {"latency@local": 6.0}
    assert solve(Problem(blocks, {}, limits)).indices == (0, 1, 0)


def test_a_peak_is_the_greatest_of_all_and_no_front_is_over_it():
    block = Options("a", np.array([0.1, 0.2]), {}, {"peak": np.array([5.0, 3.0])})
    problem = Problem((block, block), {"peak": 4.0}, (Constraint("peak", 4.5),))
    assert solve(problem).indices == (1, 1)
    assert solve(problem).costs == {"peak": 4.0}
    with pytest.raises(Infeasible, match="peak"):
        solve(Problem((block, block), {"peak": 4.0}, (Constraint("peak", 3.5),)))
    with pytest.raises(UsageError, match="no front over peak"):
        front(problem, "peak")


def test_borders_that_do_not_fit_are_a_wrong_use():
    block = Options("a", np.array([0.1, 0.2]), {"size": np.array([5.0, 3.0])}, {"peak": np.array([5.0, 3.0])})
    good = {"size": np.zeros((2, 2))}
    with pytest.raises(UsageError, match="2 blocks have 1 borders, not 2"):
        Problem((block, block), {}, (), (good, good))
    with pytest.raises(UsageError, match="'peak' is no sum over the blocks"):
        Problem((block, block), {}, (), ({"peak": np.zeros((2, 2))},))
    with pytest.raises(UsageError, match=r"size has the shape \(2, 3\)"):
        Problem((block, block), {}, (), ({"size": np.zeros((2, 3))},))
    with pytest.raises(NotMeasured, match="size is not finite"):
        Problem((block, block), {}, (), ({"size": np.full((2, 2), np.nan)},))
    with pytest.raises(UsageError, match="both a sum and a peak"):
        Problem((Options("a", np.zeros(1), {"size": np.zeros(1)}, {"size": np.zeros(1)}),))
