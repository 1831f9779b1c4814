"""Networks that differ, and what limits cost, against every network there is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from knapsack_problems import METRICS, enumerate_kept, make_problem, problems
from scipy.optimize import linprog

from qaedge.errors import Infeasible
from qaedge.search.knapsack import optimum
from qaedge.search.problem import choice
from qaedge.search.sensitivity import sensitivities
from qaedge.search.variety import apart, varied


def differences(one, other):
    return sum(a != b for a, b in zip(one.indices, other.indices, strict=True))


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(1, 4), st.integers(1, 4))
def test_each_is_the_best_that_differs_from_all_before(problem, count, differ):
    kept = enumerate_kept(problem)
    if not kept:
        with pytest.raises(Infeasible):
            varied(problem, count, differ)
        return
    found = [one.choice for one in varied(problem, count, differ)]
    for number, one in enumerate(found):
        assert one in kept
        possible = [c for c in kept if all(differences(c, before) >= differ for before in found[:number])]
        assert one in possible
        assert one.loss == pytest.approx(min(c.loss for c in possible), abs=1e-12)
    if len(found) < count:
        assert not [c for c in kept if all(differences(c, before) >= differ for before in found)]


def test_what_an_earlier_network_has_and_the_problem_has_not_is_no_share():
    problem = make_problem(3, 20, METRICS[:1])
    best = optimum(problem).choice
    same = apart(problem, [(best.indices[0], None, best.indices[2])], 1)
    assert same.choice == best
    other = apart(problem, [(best.indices[0], None, best.indices[2])], 2).choice
    assert other.indices[0] != best.indices[0] or other.indices[2] != best.indices[2]
    with pytest.raises(Infeasible, match="differs from those before in 1 or more blocks"):
        apart(make_problem(2, 1, ()), [(0, 0)], 1)


@settings(max_examples=150, deadline=None)
@given(problems(fewest=1))
def test_what_a_limit_costs_is_the_enumerations(problem):
    kept = enumerate_kept(problem)
    if not kept:
        return
    found = optimum(problem)
    told = sensitivities(problem, found)
    assert [one.metric for one in told] == list(problem.limits)
    for one in told:
        without = enumerate_kept(problem, aside=(one.metric,))
        assert one.loss_without == pytest.approx(min(c.loss for c in without), abs=1e-12)
        better = [c for c in without if c.loss < found.choice.loss * (1 - 1e-9)]
        assert one.is_binding == bool(better)
        if better:
            cost = min(c.costs[one.metric] for c in better)
            assert one.next_cost == pytest.approx(cost, abs=1e-9)
            assert one.next_cost > problem.limits[one.metric]
            assert one.next_loss == pytest.approx(
                min(c.loss for c in without if c.costs[one.metric] <= cost + 1e-9), abs=1e-9
            )
        assert one.multiplier is None or one.multiplier >= 0


@pytest.mark.parametrize("seed", range(40))
def test_the_multiplier_of_one_limit_is_that_of_the_linear_program(seed):
    problem = make_problem(5, 12, METRICS[:1], noise=0.3, seed=seed)
    blocks, (limit,) = problem.blocks, problem.constraints
    loss = np.concatenate([block.losses for block in blocks])
    cost = np.concatenate([block.costs[METRICS[0]] for block in blocks])
    owner = np.repeat(np.arange(len(blocks)), [len(block.losses) for block in blocks])
    one_each = (owner[None] == np.arange(len(blocks))[:, None]).astype(float)
    bound = limit.limit - problem.base.get(METRICS[0], 0.0)
    solved = linprog(loss, cost[None], [bound], one_each, np.ones(len(blocks)), bounds=(0, 1))
    wanted = -float(solved.ineqlin.marginals[0])
    (one,) = sensitivities(problem, optimum(problem))
    assert one.multiplier == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_the_multiplier_is_about_what_a_little_more_buys():
    problem = make_problem(6, 200, METRICS[:1], noise=0.05)
    found = optimum(problem)
    (one,) = sensitivities(problem, found)
    step = 0.05 * one.limit
    more = type(problem)(problem.blocks, {}, (type(problem.constraints[0])(METRICS[0], one.limit + step),))
    bought = found.choice.loss - optimum(more).choice.loss
    assert bought / step == pytest.approx(one.multiplier, rel=0.25)
    assert one.is_binding and one.next_cost > one.limit and one.next_loss < found.choice.loss


def test_a_choice_is_that_of_its_indices():
    problem = make_problem(3, 5, METRICS[:2])
    made = choice(problem, np.array([0, 1, 2]))
    assert made.indices == (0, 1, 2)
    assert made.loss == sum(float(b.losses[i]) for b, i in zip(problem.blocks, (0, 1, 2), strict=True))
