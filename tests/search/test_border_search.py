"""Searches over activations of 8 and 16 bits, held against what the table predicts of every network."""

import itertools

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from widths import networks_of, row_of, widths_space, widths_tables

from qaedge.borders import borders, borders_in
from qaedge.errors import Infeasible, NotMeasured
from qaedge.search.selection import Selection
from qaedge.search.space_problem import Constraint, build_problem
from qaedge.tables import LatencyTable

LATENCY, SIZE = "latency@local", "size"

schemes = st.permutations(["w8a8", "w8a16", "w4a16"]).flatmap(
    lambda texts: st.integers(1, 3).map(lambda count: texts[:count])
)


@st.composite
def tabled(draw):
    """A space of blocks whose schemes differ, with its tables, and all that is predicted of each network."""
    space = widths_space(draw(st.lists(schemes, min_size=2, max_size=3)))
    losses, table = widths_tables(space, draw(st.integers(0, 2**32 - 1)), whole=draw(st.sampled_from([0, 3])))
    known = {}
    for network in networks_of(space):
        loss = sum(losses.row(b.name, c).loss for b, c in zip(space.blocks, network, strict=True))
        known[network] = (loss, *table.predict_latency(space, network), table.predict_size(space, network))
    return space, losses, table, known


def between(values, share):
    """A limit that no value lies at, with so great a share of the values within it."""
    ordered = sorted(values)
    at = int(share * (len(ordered) - 1))
    return (ordered[at] + ordered[min(at + 1, len(ordered) - 1)]) / 2


def best(known, keeps):
    """The least loss of the networks that keep limits; None where none does."""
    return min((values[0] for values in known.values() if keeps(*values)), default=None)


@settings(max_examples=60, deadline=None)
@given(tabled(), st.sampled_from([0.05, 0.3, 0.7]), st.sampled_from([0.0, 2.0]))
def test_the_best_network_is_that_of_all_predictions(made, share, z):
    space, losses, table, known = made
    limit = between([value + z * error for _, value, error, _ in known.values()], share)
    problem = build_problem(space, losses, {"local": table}, z=z)
    wanted = best(known, lambda _, value, error, size: value + z * error <= limit)
    found = problem.limited([Constraint(LATENCY, limit)])
    choice = found.solve()
    assert choice.loss == pytest.approx(wanted)
    loss, value, _, size = known[found.candidates(choice)]
    assert (choice.loss, choice.costs[LATENCY]) == (pytest.approx(loss), pytest.approx(value, rel=1e-12))
    assert choice.costs[SIZE] == pytest.approx(size, abs=0.5)
    told = found.architecture(choice)
    assert told.costs[LATENCY].value == value
    assert len(told.borders or ()) == len(borders_in(found.space, found.candidates(choice)))

    two = between([size for *_, size in known.values()], 0.6)
    wanted = best(known, lambda _, value, error, size: value + z * error <= limit and size <= two)
    found = problem.limited([Constraint(LATENCY, limit), Constraint(SIZE, two)])
    if wanted is None:
        with pytest.raises(Infeasible):
            found.solve()
    else:
        assert found.solve().loss == pytest.approx(wanted)


@settings(max_examples=40, deadline=None)
@given(tabled())
def test_every_network_costs_what_is_predicted_of_it_and_fronts_are_theirs(made):
    space, losses, table, known = made
    problem = build_problem(space, losses, {"local": table})
    for network, (loss, value, _, _) in known.items():
        found = problem.find(network)
        assert (found.loss, found.costs[LATENCY]) == (pytest.approx(loss), pytest.approx(value, rel=1e-12))
    for metrics, columns in (((LATENCY,), (0, 1)), ((LATENCY, SIZE), (0, 1, 3))):
        points = {network: [values[at] for at in columns] for network, values in known.items()}
        wanted = {
            network
            for network, mine in points.items()
            if not any(all(map(float.__le__, map(float, o), map(float, mine))) and o != mine for o in points.values())
        }
        assert {problem.candidates(choice) for choice in problem.front(*metrics)} == wanted


@settings(max_examples=40, deadline=None)
@given(tabled(), st.sampled_from([0.0, 2.0]))
def test_networks_that_differ_and_are_not_known_are_those_of_all_predictions(made, z):
    space, losses, table, known = made
    limit = between([value + z * error for _, value, error, _ in known.values()], 0.7)
    problem = build_problem(space, losses, {"local": table}, [Constraint(LATENCY, limit)], z=z)
    kept = [n for n, (_, value, error, _) in known.items() if value + z * error <= limit]
    kept.sort(key=lambda network: known[network][0])
    barred = kept[:3]
    first = kept[0]
    wanted = [n for n in kept if n not in barred and sum(a != b for a, b in zip(n, first, strict=True)) >= 2]
    assume(wanted)
    found = problem.apart([first], 2, barred)
    assert known[problem.candidates(found.choice)][0] == pytest.approx(known[wanted[0]][0])


def test_a_change_that_was_not_measured_is_named_with_the_command():
    space = widths_space([["w8a8", "w8a16"]] * 3)
    losses, table = widths_tables(space, device="pi4")
    gone = "border_a16a8@16x12x16"
    assert gone in borders(space)
    less = LatencyTable("pi4", [row for key, row in table.rows.items() if key != gone])
    with pytest.raises(NotMeasured, match=rf"{gone} was not measured on pi4\.\nRun: qaedge profile --device pi4\nOr"):
        build_problem(space, losses, {"pi4": less})
    alone = Selection.read(space, (), ("scheme=w8a8",))
    found = build_problem(space, losses, {"pi4": less}, selection=alone)
    assert found.problem.borders == ()
    chosen = found.solve()
    value, _ = less.predict_latency(space, found.candidates(chosen))
    assert chosen.costs["latency@pi4"] == pytest.approx(value, rel=1e-12)


def test_what_lies_between_the_teachers_own_blocks_is_needed_by_every_prediction():
    space = widths_space([["w8a16", "w8a8"], ["w8a8"]])
    losses, table = widths_tables(space)
    less = LatencyTable("local", [row for key, row in table.rows.items() if not key.startswith("border")])
    with pytest.raises(NotMeasured, match=r"border_a8a16@8x12x16 was not measured"):
        build_problem(space, losses, {"local": less}, selection=Selection.read(space, (), ("scheme=w8a16",)))


@pytest.mark.parametrize("texts", [["w8a8", "w4a8"], ["w8a16"], ["fp32"], ["fp32", "w8a16"]])
def test_nothing_lies_between_activations_of_one_width(texts):
    space = widths_space([texts] * 3)
    losses, table = widths_tables(space)
    ends = {"border_a8a16@8x12x16", "border_a16a8@32x12x16"} if "w8a16" in texts else set()
    assert set(borders(space)) == ends
    for kind in space.precisions:
        problem = build_problem(space, losses, {"local": table}, is_float=kind)
        assert problem.problem.borders == ()
        found = problem.architecture(problem.solve()).borders
        if kind or not ends:
            assert found is msgspec.UNSET
        else:
            assert [each.between for each in found] == [("input", "stage0"), ("stage2", "output")]


def test_only_blocks_whose_widths_differ_have_a_matrix_for_each_device():
    space = widths_space([["w8a8"], ["w8a8"], ["w8a8", "w8a16"], ["w8a8"]])
    losses, table = widths_tables(space)
    _, other = widths_tables(space, seed=5, device="pi4")
    found = build_problem(space, losses, {"local": table, "pi4": other}).problem.borders
    assert [sorted(border) for border in found] == [[], [LATENCY, "latency@pi4", SIZE], [LATENCY, "latency@pi4", SIZE]]
    for device, each in (("local", table), ("pi4", other)):
        wanted = each.border_s(borders(space)["border_a8a16@24x12x16"])
        assert found[1][f"latency@{device}"].tolist() == [[0.0, wanted, 0.0, wanted]] * 2


def test_a_search_by_size_needs_no_changes():
    space = widths_space([["w8a8", "w8a16"]] * 2)
    losses, _ = widths_tables(space)
    assert build_problem(space, losses, {}).problem.borders == ()


def test_a_dear_change_keeps_neighbours_alike():
    space = widths_space([["w8a8", "w8a16"]] * 2, specs=1)
    losses, table = widths_tables(space)
    rows = {**table.rows, **{key: row_of(key, 1.0) for key in borders(space)}}
    for first, second in itertools.product(*(block.candidates for block in space.blocks)):
        rows[first.key], rows[second.key] = row_of(first.key, 0.01), row_of(second.key, 0.01)
    found = build_problem(space, losses, {"local": LatencyTable("local", rows.values())})
    for point in found.front(LATENCY):
        assert len({c.scheme.activation_bits for c in found.candidates(point)}) == 1 or point.costs[LATENCY] > 1
    alike = found.limited([Constraint(LATENCY, 0.5)])
    assert len({c.scheme.activation_bits for c in alike.candidates(alike.solve())}) == 1
