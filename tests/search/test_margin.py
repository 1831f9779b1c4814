"""Limits with a margin, held against trying every network."""

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qaedge.errors import Infeasible
from qaedge.search.knapsack import Constraint, Options, Problem, optimum
from qaedge.search.margin import Margin, keeps, tightened, within
from qaedge.search.problem import choice
from qaedge.search.variety import apart

METRIC = "latency@a"


def drawn(seed, relative, z=1.64, blocks=4, count=4):
    random = np.random.default_rng(seed)
    options = tuple(
        Options(str(i), random.integers(0, 30, count).astype(float), {METRIC: random.integers(1, 30, count) * 1.0})
        for i in range(blocks)
    )
    variances = tuple(random.choice([0.0, 0.01, 1.0, 25.0, 100.0], count) for _ in range(blocks))
    limit = float(random.uniform(0.5, 1.2) * sum(o.costs[METRIC].mean() for o in options))
    problem = Problem(options, {METRIC: float(random.integers(-3, 5))}, (Constraint(METRIC, limit),))
    return problem, {METRIC: Margin(z, 0.25, variances, relative)}


def every(problem):
    for indices in itertools.product(*(range(len(b.losses)) for b in problem.blocks)):
        yield choice(problem, np.array(indices))


def certain(problem, margins, network):
    margin, cost = margins[METRIC], network.costs[METRIC]
    variance = margin.base + sum(v[i] for v, i in zip(margin.variances, network.indices, strict=True))
    error = np.sqrt(variance + (margin.relative_error * max(cost, 0)) ** 2)
    return cost + margin.z * error <= problem.constraints[0].limit * (1 + 1e-9)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), relative=st.sampled_from([0.0, 0.03, 0.2]))
def test_the_best_network_that_keeps_its_limit_with_its_margin(seed, relative):
    problem, margins = drawn(seed, relative)
    wanted = [network.loss for network in every(problem) if certain(problem, margins, network)]
    if not wanted:
        with pytest.raises(Infeasible, match="margin"):
            within(problem, margins, optimum)
        return
    found = within(problem, margins, optimum)
    assert certain(problem, margins, found.choice) and keeps(problem, METRIC, margins[METRIC], found.choice)
    assert found.choice.loss == pytest.approx(min(wanted)) or found.gap > 0
    assert found.bound <= min(wanted) + 1e-9
    assert set(found.choice.costs) == {METRIC}, "what the search needed is not in the answer"


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_next_best_that_differs_keeps_its_margin_too(seed):
    problem, margins = drawn(seed, 0.05)
    first = next(iter(every(problem)))
    wanted = [
        network.loss
        for network in every(problem)
        if certain(problem, margins, network) and sum(map(int.__ne__, network.indices, first.indices)) >= 2
    ]
    if wanted:
        found = within(problem, margins, lambda p: apart(p, [first.indices], 2))
        assert found.choice.loss == pytest.approx(min(wanted)) or found.gap > 0


def test_without_a_margin_nothing_changes():
    problem, margins = drawn(1, 0.1, z=0)
    assert within(problem, margins, optimum).choice == optimum(problem).choice


def test_what_is_infeasible_only_with_the_margin_says_so():
    problem, margins = drawn(3, 0.0)
    least = min(network.costs[METRIC] for network in every(problem))
    problem = msgspec.structs.replace(problem, constraints=(Constraint(METRIC, least),))
    optimum(problem)
    with pytest.raises(Infeasible, match=r"is kept as margin for the error of the table \(--margin 0: none\)"):
        within(problem, margins, optimum)


def test_a_limit_that_nothing_keeps_is_named_as_it_was_asked_for():
    problem, margins = drawn(3, 0.0)
    problem = msgspec.structs.replace(problem, base={METRIC: 1.0}, constraints=(Constraint(METRIC, 1e-6),))
    with pytest.raises(Infeasible) as plain:
        optimum(problem)
    with pytest.raises(Infeasible, match="margin") as told:
        within(problem, margins, optimum)
    assert told.value.message == plain.value.message and told.value.miss == plain.value.miss


def test_a_limit_less_its_margin():
    problem, margins = drawn(5, 0.1)
    network = next(iter(every(problem)))
    tight = tightened(problem, margins, network)
    limit, margin = problem.constraints[0].limit, margins[METRIC]
    most = tight.constraints[0].limit
    assert most < limit
    assert most + margin.z * margin.error(most, margin.variance(network.indices)) == pytest.approx(limit)
