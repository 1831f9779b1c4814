"""What is collected for the page, held against the tables that it comes from."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from small_page import collected
from synthetic import make_measurement

from qaedge.architecture import Predicted
from qaedge.candidate import BlockSpec, Candidate, QuantScheme
from qaedge.errors import UsageError
from qaedge.measurement import DOUBTS
from qaedge.page.conditions import MEANINGS
from qaedge.page.content import Measured, Network
from qaedge.page.layers import draw_layers
from qaedge.page.measured import agree, measured_networks
from qaedge.tables import LatencyTable, LossTable


def test_the_front_is_every_network_that_no_other_beats(source):
    found = collected(source)
    points = []
    for table in source.tables:
        for network in itertools.product(*(block.candidates for block in source.space.blocks)):
            loss = sum(
                source.losses.row(block.name, c).loss for block, c in zip(source.space.blocks, network, strict=True)
            )
            points.append((table.predict_latency(source.space, network)[0], loss))
    wanted = sorted(p for p in set(points) if not any(o[0] <= p[0] and o[1] <= p[1] and o != p for o in points))
    front = [found.networks[place] for place in found.fronts["latency"]]
    assert [(n.latency_s, n.loss) for n in front] == [pytest.approx(point) for point in wanted]
    sizes = [found.networks[place].size_bytes for place in found.fronts["size"]]
    assert sizes == sorted(sizes) and len(set(found.networks)) == len(found.networks)


def test_networks_name_their_candidates_by_their_places(source):
    found = collected(source)
    for network in found.networks:
        table = source.tables[found.kinds[network.kind].format]
        chosen = [block.candidates[at] for block, at in zip(source.space.blocks, network.indices, strict=True)]
        assert network.latency_s == pytest.approx(table.predict_latency(source.space, chosen)[0])
        assert network.size_bytes == pytest.approx(table.predict_size(source.space, chosen), abs=0.5)


def test_chosen_networks_are_predicted_by_the_tables_of_now(source):
    student, within = collected(source).chosen
    network = source.architectures["student"].candidates(source.space)
    value, error = source.tables[0].predict_latency(source.space, network)
    assert (student.network.latency_s, student.network.error_s) == (pytest.approx(value), pytest.approx(error))
    assert student.built.miou == 0.61 and student.limits == {"latency": 0.06}
    assert within.name == "within 75%" and within.network.latency_s <= 0.75 * 0.075


def test_times_of_candidates_are_without_the_call_that_measured_them(source):
    found = collected(source)
    for block, view in zip(source.space.blocks, found.blocks, strict=True):
        for candidate, shown in zip(block.candidates, view.candidates, strict=True):
            for table, cost in zip(source.tables, shown.costs, strict=True):
                row = table.row(candidate.key).measurement
                assert row.overhead_s > 0 and cost is not None
                assert cost.latency_s == pytest.approx(row.median_s - row.overhead_s)


def test_measured_networks_are_held_against_predictions(source):
    found = collected(source)
    assert len(found.measured) == sum(len(measured_networks(t, source.space)) for t in source.tables)
    assert all(m.is_fitted and m.doubts == ("unstable",) for m in found.measured)
    assert [a.kind for a in found.agreement] == [0, 1]
    assert all(a.mape < 0.05 and a.within_10 == 1 for a in found.agreement)


def network_of(predicted: float, measured: float, name: str) -> Measured:
    return Measured(name, Network(0, (0,), predicted, 1.0, 0.1), measured, 0.001, 1, (), False)


def test_agreement_by_hand():
    networks = [
        network_of(1.03, 1.0, "a"),
        network_of(1.84, 2.0, "b"),
        network_of(3.6, 3.0, "c"),
        network_of(4, 4, "d"),
    ]
    found = agree(0, networks)
    assert found.mape == pytest.approx((0.03 + 0.08 + 0.2 + 0) / 4)
    assert (found.within_5, found.within_10) == (0.5, 0.75)
    assert found.spearman == pytest.approx(1) and (found.worst, found.worst_error) == ("c", pytest.approx(0.2))
    assert agree(1, networks) is None
    assert agree(0, networks[:2]).spearman is None


@pytest.mark.parametrize(
    ("changed", "word", "fronts"),
    [
        ({"losses": LossTable([])}, "qaedge distill", False),
        ({"tables": ()}, "qaedge profile", False),
        ({"architectures": {}, "limits": ()}, "No network was chosen", True),
        ({"built": {}}, "qaedge build student.json", True),
    ],
)
def test_what_is_missing_is_said_and_is_no_number(changed, word, fronts, source):
    found = collected(msgspec.structs.replace(source, **changed))
    assert any(word in text for text in found.missing)
    assert bool(found.fronts) is fronts
    assert all(c.network.latency_s is None or c.network.latency_s > 0 for c in found.chosen)


def test_nothing_but_a_space_is_enough(source):
    found = collected(msgspec.structs.replace(source, losses=LossTable([]), tables=()))
    assert found.kinds == found.networks == found.measured == ()
    assert found.chosen[0].network == Network(None, (1, 2, 3), None, None, None)
    assert all(c.loss is None and c.costs == () for block in found.blocks for c in block.candidates)
    assert any("75%" in text for text in found.warnings)


def test_a_candidate_without_a_row_is_left_out_and_told(source):
    table = source.tables[0]
    key = source.space.blocks[1].candidates[2].key
    rows = [row for row in table.rows.values() if row.key != key]
    found = collected(msgspec.structs.replace(source, tables=(LatencyTable("local", rows),)))
    assert found.blocks[1].candidates[2].costs == (None,)
    assert not any(network.indices[1] == 2 for network in found.networks)
    assert any("left out" in text and "1 in stage1" in text for text in found.warnings)


def test_rows_of_another_state_are_a_warning(source):
    table = source.tables[0]
    rows = list(table.rows.values())
    earlier = make_measurement(0.01, fingerprint={"kernel": "6.0"}, started_at="2024-01-01T00:00:00Z")
    rows[-1] = msgspec.structs.replace(rows[-1], measurement=earlier)
    found = collected(msgspec.structs.replace(source, tables=(LatencyTable("local", rows),)))
    assert any("another state of local" in text and "kernel was '6.0'" in text for text in found.warnings)


def test_limits_that_nothing_keeps_are_a_warning_and_nonsense_is_an_error(source):
    found = collected(msgspec.structs.replace(source, limits=("1us",)))
    assert any("No network keeps --latency 1us" in text for text in found.warnings)
    with pytest.raises(UsageError):
        collected(msgspec.structs.replace(source, limits=("25",)))


def test_doubts_are_counted_and_each_has_a_meaning(source):
    assert MEANINGS.keys() == DOUBTS
    counted = {(d.name, d.format): d.rows for d in collected(source).doubts}
    count = len(measured_networks(source.tables[0], source.space))
    assert counted == {("unstable", "onnx"): count, ("unstable", "tflite"): count}


def drawn(text: str, scheme: str, channels: int = 24, layer_bits: tuple[int, ...] = ()):
    candidate = Candidate(BlockSpec.parse(text), QuantScheme.parse(scheme), (channels, 8, 8))
    return draw_layers(candidate, layer_bits)


def test_layers_have_channels_and_bits():
    first, second = drawn("ir_k5_s2_e4_c32+ir_k3_s1_e1_c32", "w4dw8a8")
    assert [(c.name, c.given, c.out, c.bits) for c in first.convolutions] == [
        ("1x1 expand", 24, 96, 4),
        ("5x5 depthwise", 96, 96, 8),
        ("1x1 project", 96, 32, 4),
    ]
    assert [(c.name, c.bits) for c in second.convolutions] == [("3x3 depthwise", 8), ("1x1 project", 4)]


@pytest.mark.parametrize(
    "text", ["conv_k3_s2_c8+ir_k3_s1_e1_c16", "context_k3_c8+logits_c4", "poolcontext_k1_c8+logits_c4"]
)
def test_there_are_as_many_layers_as_runtimes_see(text):
    count = sum(len(layer.convolutions) for layer in drawn(text, "w8a8"))
    assert count == BlockSpec.parse(text).convolutions


def test_bits_of_rows_count_and_unknown_ones_are_none():
    bits = [c.bits for layer in drawn("ir_k3_s1_e2_c24", "w4s2a8", layer_bits=(8, 4, 8)) for c in layer.convolutions]
    assert bits == [8, 4, 8]
    assert {c.bits for layer in drawn("ir_k3_s1_e2_c24", "w4s2a8") for c in layer.convolutions} == {None}
    assert drawn("own_0123456789ab", "w8a8") == ()


def test_a_long_front_is_thinned_and_that_is_told(source, monkeypatch):
    whole = collected(source)
    monkeypatch.setattr("qaedge.page.collect.MOST", 5)
    found = collected(source)
    assert len(found.fronts["latency"]) <= 6 < len(whole.fronts["latency"])
    ends = [found.networks[found.fronts["latency"][at]] for at in (0, -1)]
    assert ends == [whole.networks[whole.fronts["latency"][at]] for at in (0, -1)]
    assert any(f"has {len(whole.fronts['latency'])} networks; one in" in text for text in found.missing)


def test_limits_of_other_devices_are_not_this_ones(source):
    architecture = source.architectures["student"]
    limits = {"latency@local": 0.06, "latency@pi5": 0.01, "size": 1e6, "peak_memory": 1e5}
    changed = msgspec.structs.replace(architecture, limits=limits)
    found = collected(msgspec.structs.replace(source, architectures={"student": changed}))
    assert found.chosen[0].limits == {"latency": 0.06, "size": 1e6}


def test_a_prediction_that_moved_since_is_a_warning(source):
    architecture = source.architectures["student"]
    changed = msgspec.structs.replace(architecture, costs={"latency@local": Predicted(0.5, 0.01)})
    found = collected(msgspec.structs.replace(source, architectures={"student": changed}))
    assert any("student: 500 ms were predicted when it was chosen" in text for text in found.warnings)
