"""Several kinds of files of one space: the best of all, against every network as every kind."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import make_space, make_tables

from qaedge.errors import Infeasible
from qaedge.metric import SIZE, latency_on
from qaedge.search import rivals
from qaedge.search.space_problem import Constraint, build_problem
from qaedge.tables import LatencyTable

METRIC = latency_on("local")
SPACE = make_space(candidates=3)


def problems(seeds: tuple[int, ...], limits: list[Constraint], power: float = 1.0):
    losses, _ = make_tables(SPACE)
    found = []
    for name, seed in zip(("onnx", "tflite"), seeds, strict=True):
        _, table = make_tables(SPACE, seed=seed)
        rows = [msgspec.structs.replace(row, format=name) for row in table.rows.values()]
        found.append(
            build_problem(SPACE, losses, {"local": LatencyTable("local", rows, name)}, power=power).limited(limits)
        )
    return found


def everything(found):
    for problem in found:
        for network in itertools.product(*(block.candidates for block in SPACE.blocks)):
            yield problem, problem.find(network)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 50), st.integers(0, 50), st.floats(0.3, 1.3))
def test_the_best_of_all_kinds_is_found(one, other, share):
    teacher = min(p.teacher[METRIC] for p in problems((one, other), []))
    found = problems((one, other), [Constraint(METRIC, share * teacher)])
    possible = [(p, c) for p, c in everything(found) if p.keeps_limits(c)]
    if not possible:
        with pytest.raises(Infeasible):
            rivals.best(found, METRIC)
        return
    won = rivals.best(found, METRIC)
    assert won.choice.loss == pytest.approx(min(c.loss for _, c in possible))
    network = won.problem.candidates(won.choice)
    same = [c.costs[METRIC] for p, c in possible if p.candidates(c) == network]
    assert won.choice.costs[METRIC] == pytest.approx(min(same)), "each network is the faster of its files"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 50), st.integers(0, 50))
def test_the_front_is_that_of_all_kinds(one, other):
    found = problems((one, other), [])
    front = rivals.front(found, METRIC)
    points = [(c.costs[METRIC], c.loss) for _, c in everything(found)]
    wanted = sorted(
        {(t, v) for t, v in points if not any((t2 <= t and v2 < v) or (t2 < t and v2 <= v) for t2, v2 in points)}
    )
    assert [(pytest.approx(t), pytest.approx(v)) for t, v in wanted] == [
        (c.choice.costs[METRIC], c.choice.loss) for c in front
    ]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 50), st.integers(0, 50), st.sampled_from([1.0, 3.0]))
def test_the_front_over_two_metrics_is_that_of_all_kinds(one, other, power):
    found = problems((one, other), [], power)
    points = {(sum(v**power for v in p.block_losses(c)), c.costs[METRIC], c.costs[SIZE]) for p, c in everything(found)}
    wanted = {p for p in points if not any(q != p and all(a <= b for a, b in zip(q, p, strict=True)) for q in points)}
    front = rivals.front(found, METRIC, SIZE)
    assert sorted((c.score, c.choice.costs[METRIC], c.choice.costs[SIZE]) for c in front) == [
        pytest.approx(point) for point in sorted(wanted)
    ]
    assert [c.choice.costs[METRIC] for c in front] == sorted(c.choice.costs[METRIC] for c in front)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 50), st.integers(0, 50), st.floats(0.5, 1.2), st.integers(1, 3), st.sampled_from([1.0, 3.0]))
def test_the_top_are_each_the_best_that_differs_from_all_before(one, other, share, differ, power):
    teacher = min(p.teacher[METRIC] for p in problems((one, other), []))
    found = problems((one, other), [Constraint(METRIC, share * teacher)], power)
    possible = [
        (sum(v**power for v in p.block_losses(c)), p.candidates(c)) for p, c in everything(found) if p.keeps_limits(c)
    ]
    if not possible:
        return
    before: list[tuple[object, ...]] = []
    for won in rivals.top(found, METRIC, 4, differ):
        left = [v for v, n in possible if all(_apart(n, known) >= differ for known in before)]
        assert won.score == pytest.approx(min(left))
        before.append(won.problem.candidates(won.choice))
    if len(before) < 4:
        assert not [n for _, n in possible if all(_apart(n, known) >= differ for known in before)]


def _apart(one, other):
    return sum(a != b for a, b in zip(one, other, strict=True))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 50), st.integers(0, 50), st.floats(0.5, 1.1))
def test_what_a_limit_costs_is_told_of_all_kinds(one, other, share):
    teacher = min(p.teacher[METRIC] for p in problems((one, other), []))
    limit = share * teacher
    found = problems((one, other), [Constraint(METRIC, limit)])
    possible = [(c.loss, c.costs[METRIC]) for _, c in everything(found)]
    kept = [loss for loss, cost in possible if cost <= limit]
    if not kept:
        return
    (told,) = rivals.sensitivities(found, rivals.best(found, METRIC))
    better = [cost for loss, cost in possible if loss < min(kept) * (1 - 1e-9)]
    assert told.is_binding == bool(better)
    assert told.loss_without == pytest.approx(min(loss for loss, _ in possible))
    if better:
        assert told.next_cost == pytest.approx(min(better))


def test_the_nearest_miss_is_told():
    found = problems((1, 2), [Constraint(SIZE, 1.0)])
    with pytest.raises(Infeasible) as caught:
        rivals.best(found, METRIC)
    with pytest.raises(Infeasible):
        rivals.front(found, METRIC)
    assert 0 < caught.value.miss < float("inf")
