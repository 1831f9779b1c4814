import itertools
import random

import msgspec
import pytest
from synthetic import make_loss_row, make_measurement, make_space, make_tables

from qaedge.errors import InvalidFile, NotMeasured
from qaedge.probes import probes
from qaedge.search.space_problem import build_problem
from qaedge.tables import LatencyRow, LatencyTable, LossTable, anchor_key


def test_tables_survive_their_files(tmp_path):
    space = make_space()
    losses, latencies = make_tables(space)
    loss_store, latency_store = LossTable.store(tmp_path / "loss.jsonl"), LatencyTable.store(tmp_path / "latency.jsonl")
    for row in losses.rows.values():
        loss_store.append(row)
    for row in latencies.rows.values():
        latency_store.append(row)
    assert LossTable(loss_store.rows()).rows == losses.rows
    assert LatencyTable("local", latency_store.rows()).rows == latencies.rows


def test_the_last_row_of_a_key_counts():
    space = make_space()
    candidate = space.blocks[0].candidates[1]
    table = LossTable([make_loss_row("stage0", candidate, 0.5), make_loss_row("stage0", candidate, 0.25)])
    assert table.row("stage0", candidate).loss == 0.25
    assert table.has("stage0", candidate)
    assert not table.has("stage1", candidate)


def test_a_missing_row_names_the_command():
    space = make_space()
    losses, latencies = LossTable([]), LatencyTable("pi4", [])
    with pytest.raises(NotMeasured, match=r"No block loss of .* in stage0\.\nRun: qaedge distill"):
        losses.row("stage0", space.blocks[0].candidates[0])
    with pytest.raises(NotMeasured, match=r"was not measured on pi4\.\nRun: qaedge profile --device pi4"):
        latencies.row("a@w8a8@1x1x1")
    with pytest.raises(NotMeasured, match="teacher_abababababab@w8a8@8x12x16"):
        latencies.predict_latency(space, [block.candidates[0] for block in space.blocks])


def test_the_teachers_own_blocks_are_predicted_as_the_measured_teacher():
    space = make_space()
    _, table = make_tables(space)
    own = [block.candidates[0] for block in space.blocks]
    anchor = table.anchor(space, "w8a8")
    value, error = table.predict_latency(space, own)
    assert (value, error) == (anchor.measurement.median_s, pytest.approx(anchor.measurement.error_s))
    assert table.predict_size(space, own) == anchor.size_bytes


def test_a_network_is_the_teacher_and_the_differences():
    space = make_space()
    _, table = make_tables(space)
    draw = random.Random(1)
    for _ in range(20):
        chosen = [draw.choice(block.candidates) for block in space.blocks]
        value, error = table.predict_latency(space, chosen)
        rows = [(table.row(c.key), table.row(b.candidates[0].key)) for b, c in zip(space.blocks, chosen, strict=True)]
        anchor = table.anchor(space, "w8a8")
        assert value == pytest.approx(
            anchor.measurement.median_s + sum(m.measurement.median_s - o.measurement.median_s for m, o in rows)
        )
        assert table.predict_size(space, chosen) == anchor.size_bytes + sum(
            m.size_bytes - o.size_bytes for m, o in rows
        )
        changed = [(m, o) for m, o in rows if m is not o]
        assert error**2 == pytest.approx(
            anchor.measurement.error_s**2 + sum(m.measurement.error_s**2 + o.measurement.error_s**2 for m, o in changed)
        )


@pytest.mark.parametrize("slope", [0.8, 1.0, 1.15])
def test_probes_tell_how_much_of_a_difference_is_left_in_a_network(slope):
    space = make_space()
    _, table = make_tables(space)
    t0 = table.anchor(space, "w8a8").measurement.median_s

    def alone(network):
        return sum(
            table.row(c.key).measurement.median_s - table.row(b.candidates[0].key).measurement.median_s
            for b, c in zip(space.blocks, network, strict=True)
        )

    assert table.fit(space).model == "sum" and table.fit(space).networks == 0, "no probe was measured"
    measured = [
        LatencyRow(key, "u8u8", 1, 1, make_measurement(t0 + slope * alone(network)))
        for key, network in probes(space).items()
    ]
    probed = LatencyTable("local", [*table.rows.values(), *measured])
    assert probed.fit(space).common_slope == pytest.approx(slope, rel=2e-3)
    assert probed.fit(space).relative_error == pytest.approx(0.0, abs=1e-3)
    for chosen in itertools.islice(itertools.product(*(block.candidates for block in space.blocks)), 20):
        assert probed.predict_latency(space, chosen)[0] == pytest.approx(t0 + slope * alone(chosen), rel=2e-3)
    problem = build_problem(space, make_tables(space)[0], {"local": probed})
    found = problem.solve()
    assert found.costs["latency@local"] == pytest.approx(probed.predict_latency(space, problem.candidates(found))[0])


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_probes_tell_how_much_of_what_is_beside_weights_is_in_a_network(slope):
    space = make_space()
    losses, table = make_tables(space)
    anchor = table.anchor(space, "w8a8")

    def apart(network):
        """Bytes of weights, and of all else: of the blocks chosen less the teacher's own."""
        pairs = [(table.row(c.key), table.row(b.candidates[0].key)) for b, c in zip(space.blocks, network, strict=True)]
        weights = sum(a.weight_bytes - b.weight_bytes for a, b in pairs)
        return weights, sum(a.size_bytes - b.size_bytes for a, b in pairs) - weights

    def whole(network):
        weights, beside = apart(network)
        return anchor.size_bytes + weights + slope * beside

    measured = [
        LatencyRow(k, "u8u8", round(whole(n)), anchor.weight_bytes + apart(n)[0], anchor.measurement)
        for k, n in probes(space).items()
    ]
    probed = LatencyTable("local", [*table.rows.values(), *measured])
    problem = build_problem(space, losses, {"local": probed})
    for chosen in itertools.islice(itertools.product(*(block.candidates for block in space.blocks)), 20):
        assert probed.predict_size(space, chosen) == pytest.approx(whole(chosen), rel=1e-3)
    found = problem.solve()
    assert found.costs["size"] == pytest.approx(probed.predict_size(space, problem.candidates(found)), abs=0.5)


def test_probes_that_disagree_are_in_the_error():
    space = make_space()
    _, table = make_tables(space)
    t0 = table.anchor(space, "w8a8").measurement.median_s
    rows = [
        LatencyRow(key, "u8u8", 1, 1, make_measurement(t0 * (0.7 + 0.1 * number)))
        for number, key in enumerate(probes(space))
    ]
    probed = LatencyTable("local", [*table.rows.values(), *rows])
    chosen = [block.candidates[-1] for block in space.blocks]
    assert probed.fit(space).relative_error > 0.01
    assert probed.predict_latency(space, chosen)[1] > table.predict_latency(space, chosen)[1]


def test_probes_are_the_same_each_time_and_none_is_the_teacher():
    space = make_space()
    found = probes(space)
    assert found == probes(make_space()) and len(set(found.values())) == len(found) > 1
    assert tuple(block.candidates[0] for block in space.blocks) not in found.values()
    least = next(iter(found.values()))
    assert all(not candidate.spec.is_own for candidate in least), "the least network has no block of the teacher"
    alone = msgspec.structs.replace(
        space, blocks=tuple(msgspec.structs.replace(b, candidates=b.candidates[:1]) for b in space.blocks)
    )
    assert probes(alone) == {}


def test_a_row_whose_samples_cannot_be_times_is_an_error_with_its_line(tmp_path):
    path = tmp_path / "latency.jsonl"
    store = LatencyTable.store(path)
    store.append(LatencyRow("a", "u8u8", 1, 1, make_measurement()))
    path.write_bytes(path.read_bytes().replace(b'"load_s":0.02', b'"load_s":-0.02'))
    with pytest.raises(InvalidFile, match=r"latency\.jsonl: line 2: expected a qaedge-latency row, .*-0\.02"):
        list(store.rows())


def test_the_anchor_key_tells_teacher_scheme_and_input():
    assert anchor_key(make_space(), "w7a8") == "teacher_abababababab@w7a8@8x12x16"
    other = msgspec.structs.replace(make_space(), teacher="12" * 32)
    assert anchor_key(other, "w7a8") != anchor_key(make_space(), "w7a8")
