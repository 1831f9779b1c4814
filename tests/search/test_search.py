import itertools

import msgspec
import pytest
from synthetic import make_loss_row, make_measurement, make_space, make_tables

from qaedge.errors import Infeasible, NotMeasured, UsageError
from qaedge.search.space_problem import Constraint, build_problem, parse_limit
from qaedge.tables import LatencyRow, LatencyTable, LossTable, anchor_key

LATENCY = "latency@local"


def test_a_networks_costs_are_what_the_table_predicts():
    space = make_space()
    losses, table = make_tables(space)
    found = build_problem(space, losses, {"local": table})
    assert found.left_out == found.doubtful == {}
    assert found.teacher == {LATENCY: table.anchor(space, "w8a8").measurement.median_s, "size": 200_000.0}
    for indices in itertools.product(*(range(len(block.candidates)) for block in space.blocks)):
        chosen = [block.candidates[index] for block, index in zip(space.blocks, indices, strict=True)]
        costs = {
            metric: base + sum(float(b.costs[metric][i]) for b, i in zip(found.problem.blocks, indices, strict=True))
            for metric, base in found.problem.base.items()
        }
        assert costs[LATENCY] == pytest.approx(table.predict_latency(space, chosen)[0], rel=1e-12)
        assert costs["size"] == table.predict_size(space, chosen)


def test_blocks_that_alone_take_more_than_the_whole_teacher_do_no_harm():
    space = make_space()
    losses, table = make_tables(space, anchor_s=0.045)
    found = build_problem(space, losses, {"local": table}).limited([Constraint(LATENCY, 0.03)])
    assert found.problem.base[LATENCY] < 0
    chosen = found.solve()
    value, error = table.predict_latency(space, found.candidates(chosen))
    architecture = found.architecture(chosen)
    assert chosen.costs[LATENCY] == pytest.approx(value)
    assert chosen.costs[LATENCY] <= 0.03
    assert architecture.costs[LATENCY].value == value
    assert architecture.costs[LATENCY].error == error
    assert architecture.limits == {LATENCY: 0.03}


def test_the_teachers_own_share_of_100_percent_is_kept_by_the_teacher():
    space = make_space()
    losses, table = make_tables(space)
    found = build_problem(space, losses, {"local": table})
    for share in ("100%", "75%"):
        limit = parse_limit(share, found.teacher[LATENCY], LATENCY)
        chosen = found.limited([Constraint(LATENCY, limit)]).solve()
        assert chosen.costs[LATENCY] <= limit * (1 + 1e-9)
        if share == "100%":
            assert chosen == found.own()
    size = parse_limit("100%", found.teacher["size"], "size")
    assert found.limited([Constraint("size", size)]).solve().indices == (0, 0, 0)


def test_the_front_is_cheapest_first_and_within_the_other_limits():
    space = make_space(blocks=3, candidates=12)
    losses, table = make_tables(space, seed=3)
    found = build_problem(space, losses, {"local": table}, [Constraint("size", 140_000)])
    points = found.front(LATENCY)
    assert len(points) > 3
    assert all(point.costs["size"] <= 140_000 for point in points)
    assert [p.costs[LATENCY] for p in points] == sorted(p.costs[LATENCY] for p in points)
    assert points[-1].loss == found.solve().loss


def test_two_devices_are_two_metrics_and_the_size_is_the_firsts():
    space = make_space()
    losses, here = make_tables(space)
    _, there = make_tables(space, seed=5, device="pi4")
    found = build_problem(space, losses, {"local": here, "pi4": there})
    assert set(found.teacher) == {LATENCY, "latency@pi4", "size"}
    limits = [Constraint(LATENCY, 0.045), Constraint("latency@pi4", 0.045)]
    chosen = found.limited(limits).solve()
    for device, table in (("local", here), ("pi4", there)):
        assert table.predict_latency(space, found.candidates(chosen))[0] <= 0.045
        assert found.architecture(chosen).costs[f"latency@{device}"].value <= 0.045
    assert chosen.costs["size"] == here.predict_size(space, found.candidates(chosen))


def test_candidates_without_a_row_are_left_out_and_counted():
    space = make_space()
    losses, table = make_tables(space)
    best = space.blocks[1].candidates[2]
    fewer = LossTable(row for row in losses.rows.values() if (row.block, row.spec) != ("stage1", str(best.spec)))
    less = LatencyTable("local", (row for key, row in table.rows.items() if key != space.blocks[2].candidates[1].key))
    found = build_problem(space, fewer, {"local": less})
    assert found.left_out == {"stage1": 1, "stage2": 1}
    assert found.kept == ((0, 1, 2, 3), (0, 1, 3), (0, 2, 3))
    for choice in found.front(LATENCY):
        architecture = found.architecture(choice)
        assert architecture.candidates(space) == found.candidates(choice)
        assert best not in found.candidates(choice)


def test_a_block_without_any_row_names_the_commands():
    space = make_space()
    losses, table = make_tables(space)
    fewer = LossTable(row for row in losses.rows.values() if row.block != "stage1")
    with pytest.raises(NotMeasured) as caught:
        build_problem(space, fewer, {"local": table})
    assert caught.value.message == ("No candidate of block stage1 has a row in every table: of 4, 4 lack a block loss.")
    assert caught.value.hint == "Run: qaedge distill"
    own = {block.candidates[0].key for block in space.blocks}
    less = LatencyTable(
        "pi4", (row for key, row in table.rows.items() if key in own or key == anchor_key(space, "w8a8"))
    )
    part = LossTable(row for row in losses.rows.values() if not row.spec.startswith("own"))
    with pytest.raises(NotMeasured, match=r"1 lack a block loss and 3 lack a latency on pi4") as caught:
        build_problem(space, part, {"pi4": less})
    assert caught.value.hint == "Run: qaedge distill\n     qaedge profile --device pi4"


@pytest.mark.parametrize("gone", ["teacher", "own"])
def test_without_the_teacher_nothing_is_predicted(gone):
    space = make_space()
    losses, table = make_tables(space)
    less = LatencyTable("local", (row for key, row in table.rows.items() if not key.startswith(gone)))
    with pytest.raises(NotMeasured, match="Run: qaedge profile --device local"):
        build_problem(space, losses, {"local": less})


def test_a_search_by_loss_alone_needs_no_latency_table():
    space = make_space()
    losses, _ = make_tables(space)
    found = build_problem(space, losses, {})
    assert found.solve().indices == (0, 0, 0)
    assert found.architecture(found.solve()).costs == {}
    with pytest.raises(UsageError, match=r"No table gives the metric 'latency@local'\.\nKnown: none"):
        found.limited([Constraint(LATENCY, 0.1)])


def test_doubtful_measurements_are_counted():
    space = make_space()
    losses, table = make_tables(space)
    rows = dict(table.rows)
    key = space.blocks[0].candidates[1].key
    rows[key] = LatencyRow(key, "u8u8", 10_000, 9_000, make_measurement(0.01, doubts=("unstable",)))
    assert build_problem(space, losses, {"local": LatencyTable("local", rows.values())}).doubtful == {LATENCY: 1}


def test_a_negative_loss_is_an_error():
    space = make_space()
    losses, table = make_tables(space)
    row = make_loss_row("stage1", space.blocks[1].candidates[2], -0.5)
    with pytest.raises(NotMeasured, match=r"Block 'stage1', candidate 2: the loss is -0\.5"):
        build_problem(space, LossTable([*losses.rows.values(), row]), {"local": table})


def test_nothing_that_fits_is_told_in_milliseconds():
    space = make_space()
    losses, table = make_tables(space)
    with pytest.raises(
        Infeasible, match=r"latency on local: the fastest network takes .* ms, the limit is 1 ms: .* ms too"
    ):
        build_problem(space, losses, {"local": table}, [Constraint(LATENCY, 0.001)]).solve()


def test_without_the_own_block_the_teacher_is_no_choice():
    space = make_space()
    losses, table = make_tables(space)
    part = LossTable(msgspec.structs.replace(row) for row in losses.rows.values() if not row.spec.startswith("own"))
    assert build_problem(space, part, {"local": table}).own() is None


@pytest.mark.parametrize("power", [1.0, 1.5, 3.0])
def test_a_power_weighs_block_losses_and_what_is_told_stays_plain(power):
    space = make_space()
    losses, table = make_tables(space, seed=3)
    plain = build_problem(space, losses, {"local": table})
    limit = Constraint(LATENCY, 0.8 * plain.teacher[LATENCY])
    found = build_problem(space, losses, {"local": table}, power=power).limited([limit])
    chosen = found.solve()

    def block_losses(indices):
        return [
            losses.row(block.name, block.candidates[index]).loss
            for block, index in zip(space.blocks, indices, strict=True)
        ]

    def cost(indices):
        candidates = [block.candidates[index] for block, index in zip(space.blocks, indices, strict=True)]
        return table.predict_latency(space, candidates)[0]

    everything = itertools.product(*(range(len(block.candidates)) for block in space.blocks))
    kept = [indices for indices in everything if cost(indices) <= limit.limit]
    best = min(kept, key=lambda indices: sum(loss**power for loss in block_losses(indices)))
    assert chosen.indices == best
    assert found.block_losses(chosen) == pytest.approx(block_losses(best))
    assert chosen.loss == pytest.approx(sum(block_losses(best)))
    assert found.architecture(chosen).loss == chosen.loss
