import itertools
import random

import msgspec
import pytest
from synthetic import make_loss_row, make_measurement, make_space, make_tables
from widths import networks_of, row_of, widths_space, widths_tables

from qaedge.borders import SIZE_BYTES, borders, borders_in
from qaedge.errors import InvalidFile, NotMeasured
from qaedge.measurement import REPEATED
from qaedge.network_key import HELD_OUT, network_key, places_of
from qaedge.predictions import Predictions
from qaedge.probes import origin_network, probes
from qaedge.search.space_problem import build_problem
from qaedge.tables import LatencyRow, LatencyTable, LossTable, anchor_key, table_keys


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


def test_probes_of_a_space_of_two_widths_are_of_both():
    def bits(texts):
        space = widths_space([texts] * 4, specs=4)
        return [{c.scheme.activation_bits for c in network} for network in probes(space).values()]

    assert {8, 16} in bits(["w8a8", "w8a16"]) and bits(["w8a8", "w8a16"]).count({8}) >= 4
    assert set(map(frozenset, bits(["w8a8", "w4a8"]))) == {frozenset([8])}
    assert set(map(frozenset, bits(["fp32", "w8a8", "w8a16"]))) == {frozenset([32])}, "as the teacher's row is"
    assert {32} not in bits(["w8a16", "w8a8", "fp32"]), "no network mixes float with integers"


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


def test_what_calls_take_is_in_no_prediction():
    space = make_space()
    losses, table = make_tables(space)
    draw = random.Random(0)
    rows = [
        msgspec.structs.replace(
            row, measurement=msgspec.structs.replace(row.measurement, overhead_s=draw.uniform(1e-4, 0.03))
        )
        for row in table.rows.values()
    ]
    called = LatencyTable("local", rows)
    inside = [row.measurement.inside_s for row in rows]
    assert inside == [max(0.0, row.measurement.median_s - row.measurement.overhead_s) for row in rows]
    assert 0 in inside and any(inside), "some take less than their call"
    for network in itertools.product(*(block.candidates for block in space.blocks)):
        assert called.predict_latency(space, network) == table.predict_latency(space, network)
    build_problem(space, losses, {"local": called})  # and a search finds them


def test_a_border_costs_its_row_less_the_call_and_never_less_than_nothing():
    space = widths_space([["w8a8", "w8a16"]] * 2)
    up, down = (borders(space)[f"border_{way}@16x12x16"] for way in ("a8a16", "a16a8"))
    table = LatencyTable("local", [row_of(up.key, 0.003, overhead_s=0.001), row_of(down.key, 1e-4, overhead_s=2e-4)])
    assert table.border_s(up) == pytest.approx(0.002) and table.border_s(down) == 0
    with pytest.raises(NotMeasured, match=r"border_a8a16@16x12x16 was not measured on pi4\.\nRun: qaedge profile"):
        LatencyTable("pi4", []).border_s(up)


def test_a_network_pays_for_its_borders_less_those_of_the_network_that_was_measured():
    space = widths_space([["w8a8", "w8a16"], ["w8a16", "w8a8"], ["w8a8", "w8a16"]])
    _, table = widths_tables(space)
    key, own = origin_network(space)
    assert [b.key for b in borders_in(space, own)] == ["border_a8a16@16x12x16", "border_a16a8@24x12x16"]
    assert table.predict_latency(space, own)[0] == table.row(key).measurement.median_s
    for network in networks_of(space):
        alone = sum(
            table.row(c.key).measurement.median_s - table.row(o.key).measurement.median_s
            for c, o in zip(network, own, strict=True)
        )
        beside = table.borders_s(space, network) - table.borders_s(space, own)
        value, error = table.predict_latency(space, network)
        assert value == pytest.approx(table.row(key).measurement.median_s + alone + beside)
        changed = [(c, o) for c, o in zip(network, own, strict=True) if c != o]
        assert error**2 == pytest.approx(
            table.row(key).measurement.error_s ** 2
            + sum(table.row(c.key).measurement.error_s ** 2 for pair in changed for c in pair)
        ), "borders add no error"


def test_a_border_without_a_row_is_missed_only_where_a_network_has_it():
    space = widths_space([["w8a8", "w8a16"]] * 2)
    _, table = widths_tables(space)
    less = LatencyTable("local", [row for key, row in table.rows.items() if key != "border_a16a8@16x12x16"])
    for network in networks_of(space):
        if less.rows.keys() < {b.key for b in borders_in(space, network)} | less.rows.keys():
            with pytest.raises(NotMeasured, match="border_a16a8@16x12x16"):
                less.predict_latency(space, network)
        else:
            assert less.predict_latency(space, network) == table.predict_latency(space, network)


@pytest.mark.parametrize("count", [6, 20])
def test_borders_do_not_bend_the_slopes(count):
    space = widths_space([["w8a8", "w8a16"]] * 3, specs=3)
    _, table = widths_tables(space, border_s=0.05)
    draw, t0 = random.Random(3), table.anchor(space, "w8a8").measurement.median_s
    rows = dict(table.rows)

    def takes(network):
        owns = [block.candidates[0] for block in space.blocks]
        alone = sum(
            table.row(c.key).measurement.median_s - table.row(o.key).measurement.median_s
            for c, o in zip(network, owns, strict=True)
        )
        return t0 + 0.8 * alone + table.borders_s(space, network)

    for network in draw.sample(networks_of(space)[1:], count):
        key = network_key(space, places_of(space, network))
        rows[key] = row_of(key, takes(network))
    fitted = LatencyTable("local", rows.values())
    assert fitted.fit(space).networks == count and fitted.fit(space).common_slope == pytest.approx(0.8, rel=0.02)
    assert fitted.fit(space).relative_error == pytest.approx(0, abs=2e-3)
    for network in draw.sample(networks_of(space), 20):
        assert fitted.predict_latency(space, network)[0] == pytest.approx(takes(network), rel=5e-3)

    gone = "border_a16a8@16x12x16"
    less = LatencyTable("local", [row for key, row in rows.items() if key != gone])
    with_it = [n for n, _ in fitted.networks(space) if gone in {b.key for b in borders_in(space, n)}]
    assert with_it and less.fit(space).networks == count - len(with_it), "those are not learned from"
    unknown = LatencyTable("local", [row for key, row in rows.items() if not key.startswith("border")])
    assert unknown.fit(space).networks == sum(not borders_in(space, n) for n, _ in fitted.networks(space))


def test_networks_held_out_with_borders_widen_the_error_and_are_predicted():
    space = widths_space([["w8a8", "w8a16"]] * 3)
    _, table = widths_tables(space)
    rows = dict(table.rows)
    for network in networks_of(space)[1:31]:
        key = network_key(space, places_of(space, network), HELD_OUT)
        rows[key] = row_of(key, table.predict_latency(space, network)[0] / 1.2)
    held = LatencyTable("local", rows.values())
    assert held.fit(space).relative_error == pytest.approx(0.2)
    assert Predictions.of(held, space).mape == pytest.approx(0.2)
    gone = "border_a16a8@16x12x16"
    less = LatencyTable("local", [row for key, row in rows.items() if key != gone])
    assert less.fit(space).relative_error == pytest.approx(0.2), "the others tell it still"


def test_loads_that_differ_widen_the_error():
    space = widths_space([["w8a8", "w8a16"]] * 3)
    _, table = widths_tables(space)
    steady, restless = dict(table.rows), dict(table.rows)
    for network in networks_of(space)[1:31]:
        key = network_key(space, places_of(space, network), HELD_OUT)
        predicted = table.predict_latency(space, network)[0]
        steady[key] = row = row_of(key, predicted)
        told = {**row.measurement.conditions, REPEATED: [predicted / 1.1, predicted, predicted / 0.9]}
        measurement = msgspec.structs.replace(row.measurement, conditions=told)
        restless[key] = msgspec.structs.replace(row, measurement=measurement)
    assert steady[key].measurement.load_medians_s == pytest.approx((predicted,))
    assert LatencyTable("local", steady.values()).fit(space).relative_error < 0.01
    # Their medians are what was predicted; one load of one of them is off by a tenth, or not at all.
    assert LatencyTable("local", restless.values()).fit(space).relative_error == pytest.approx((0.02 / 3) ** 0.5)


def test_borders_are_wanted_and_are_no_networks():
    space = widths_space([["fp32", "w8a8", "w8a16"]] * 2)
    _, table = widths_tables(space)
    between = {"border_a8a16@16x12x16", "border_a16a8@16x12x16"}
    assert set(borders(space)) == between | {"border_a8a16@8x12x16", "border_a16a8@24x12x16"}, "and at both ends"
    assert set(borders(space)) <= table_keys(space)
    assert table.networks(space) == table.networks(space, HELD_OUT) == []
    assert not set(borders(make_space())) and not any(key.startswith("border") for key in table_keys(make_space()))
    network = (space.blocks[0].candidates[1], space.blocks[1].candidates[2])
    parts = [
        table.row(c.key).size_bytes - table.row(o.key).size_bytes
        for c, o in zip(network, [block.candidates[1] for block in space.blocks], strict=True)
    ]
    assert table.predict_size(space, network) == 4_000_000 + sum(parts) + 2 * SIZE_BYTES["onnx"]
