import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from knapsack_problems import METRICS, enumerate_kept, make_problem, problems

from qaedge.errors import Infeasible, NotMeasured, UsageError
from qaedge.search.knapsack import Choice, Constraint, Options, Problem, front, least_costs, solve


@settings(max_examples=400, deadline=None)
@given(problems(borders=False, peaks=False))
def test_the_optimum_is_the_enumerations_ties_included(problem):
    kept = enumerate_kept(problem)
    if not kept:
        with pytest.raises(Infeasible):
            solve(problem)
        return
    assert solve(problem) == min(kept, key=lambda c: (c.loss, *(c.costs[m] for m in problem.limits), c.indices))


@settings(max_examples=300, deadline=None)
@given(problems(fewest=1, borders=False, peaks=False), st.data())
def test_the_front_is_the_enumerations_ties_included(problem, data):
    metric = data.draw(st.sampled_from(list(problem.limits)))
    kept = enumerate_kept(problem, aside=(metric,))
    if not kept:
        with pytest.raises(Infeasible):
            front(problem, metric)
        return
    most = {
        m: problem.base[m] + sum(float(b.costs[m].max()) for b in problem.blocks) for m in problem.limits if m != metric
    }
    ties = [m for m, value in most.items() if value > problem.limits[m]]
    wanted: list[Choice] = []
    for choice in sorted(kept, key=lambda c: (c.costs[metric], c.loss, *(c.costs[m] for m in ties), c.indices)):
        if not wanted or choice.loss < wanted[-1].loss:
            wanted.append(choice)
    assert front(problem, metric) == wanted


@pytest.mark.parametrize("seed", range(3))
def test_each_point_of_a_front_is_the_optimum_at_its_own_cost(seed):
    problem = make_problem(5, 60, METRICS[:2], seed)
    points = front(problem, "latency@local")
    assert len(points) > 10
    for choice in points[:: max(1, len(points) // 15)]:
        limits = (Constraint("latency@local", choice.costs["latency@local"]), problem.constraints[1])
        again = solve(Problem(problem.blocks, problem.base, limits))
        assert again.loss == choice.loss
    best = solve(Problem(problem.blocks, problem.base, problem.constraints[1:]))
    assert points[-1].loss == best.loss


def make_two(limits, base=None):
    """Two blocks; fast candidates are large, small ones slow."""
    block = Options(
        "b", np.array([0.1, 0.2]), {"latency@local": np.array([0.010, 0.002]), "size": np.array([1e5, 9e5])}
    )
    other = Options(
        "c", np.array([0.1, 0.2]), {"latency@local": np.array([0.008, 0.003]), "size": np.array([1e5, 8e5])}
    )
    return Problem((block, other), base or {}, tuple(Constraint(m, v) for m, v in limits))


def test_a_limit_that_cannot_be_kept_is_told_with_how_much_is_missing():
    with pytest.raises(Infeasible) as caught:
        solve(make_two([("latency@local", 0.015), ("size", 1e6)], base={"latency@local": 0.0163}))
    assert caught.value.message == (
        "No network keeps the limits.\n"
        "  latency on local: the fastest network takes 21.3 ms, the limit is 15 ms: 6.3 ms too slow\n"
        "  The limit on size can be kept."
    )
    assert "Raise the limit" in caught.value.hint


def test_every_limit_that_is_missed_is_told():
    with pytest.raises(Infeasible) as caught:
        solve(make_two([("latency@local", 0.004), ("size", 1e5)]))
    lines = caught.value.message.splitlines()
    assert lines[1] == "  latency on local: the fastest network takes 5 ms, the limit is 4 ms: 1 ms too slow"
    assert lines[2].startswith("  size: the smallest network takes 195.31 KiB, the limit is 97.66 KiB")
    assert len(lines) == 3


def test_limits_that_only_together_are_too_much_are_told_nearest_first():
    with pytest.raises(Infeasible) as caught:
        solve(make_two([("latency@local", 0.006), ("size", 1e6)]))
    # The pair that is smallest within 6 ms has 1.7 MB, 70 % over; the fastest within 1 MB takes 10 ms, 67 % over.
    assert caught.value.message == (
        "Each limit can be kept alone, but no network keeps all of them together.\n"
        "  With the limit on size kept, latency on local: the fastest network takes 10 ms, the limit is 6 ms: "
        "4 ms too slow\n"
        "  With the limit on latency on local kept, size: the smallest network takes 1.62 MiB, "
        "the limit is 976.56 KiB: 683.59 KiB too large"
    )
    assert "The first of these is the nearest." in caught.value.hint
    with pytest.raises(Infeasible, match="too large"):
        front(make_two([("size", 1e5)]), "latency@local")


def test_base_costs_count_and_may_be_negative():
    problem = make_two([("latency@local", 0.011)], base={"latency@local": 0.0})
    assert solve(problem).indices == (1, 0)
    problem = make_two([("latency@local", 0.011)], base={"latency@local": -0.007})
    choice = solve(problem)
    assert choice.indices == (0, 0)
    assert choice.costs == {"latency@local": pytest.approx(0.011), "size": 2e5}
    assert least_costs(problem)["latency@local"] == pytest.approx(-0.002)


def test_a_limit_is_not_missed_by_the_rounding_of_a_sum():
    blocks = tuple(Options(f"b{n}", np.array([0.0]), {"size": np.array([0.1])}) for n in range(3))
    assert sum([0.1] * 3) > 0.3
    assert solve(Problem(blocks, {}, (Constraint("size", 0.3),))).indices == (0, 0, 0)


def test_of_several_limits_on_a_metric_the_least_counts():
    loose, tight = Constraint("latency@local", 0.02), Constraint("latency@local", 0.011)
    blocks = make_two([]).blocks
    for constraints in ((loose, tight), (tight, loose)):
        assert solve(Problem(blocks, {}, constraints)).costs["latency@local"] <= 0.011


def test_without_costs_or_limits_the_least_loss_is_chosen():
    blocks = (Options("a", np.array([3.0, 1.0, 1.0]), {}), Options("b", np.array([2.0]), {}))
    assert solve(Problem(blocks)) == Choice((1, 0), 3.0, {})


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("where", ["loss", "size"])
def test_what_is_no_number_is_an_error_and_never_chosen(value, where):
    losses, costs = np.array([1.0, 2.0]), np.array([1.0, 2.0])
    (losses if where == "loss" else costs)[1] = value
    with pytest.raises(NotMeasured, match=rf"Block 'a', candidate 1: the {where} is "):
        Problem((Options("a", losses, {"size": costs}),))


def test_what_does_not_fit_together_is_a_wrong_use():
    one = Options("a", np.array([1.0]), {"size": np.array([1.0])})
    with pytest.raises(UsageError, match="at least one block"):
        Problem(())
    with pytest.raises(UsageError, match="Block 'b' has the costs"):
        Problem((one, Options("b", np.array([1.0]), {})))
    with pytest.raises(UsageError, match="size has the shape"):
        Problem((Options("b", np.array([1.0]), {"size": np.array([1.0, 2.0])}),))
    with pytest.raises(UsageError, match="loss has the shape"):
        Problem((Options("b", np.array([]), {"size": np.array([])}),))
    with pytest.raises(UsageError, match=r"No table gives the metric 'power'\.\nKnown: size\."):
        Problem((one,), {}, (Constraint("power", 1.0),))
    with pytest.raises(UsageError, match="limit on size is nan"):
        Problem((one,), {}, (Constraint("size", math.nan),))
    with pytest.raises(UsageError, match="No table gives the metric 'power'"):
        front(Problem((one,)), "power")
