"""What lies between blocks of unlike activations, in every command that lists, counts or sums rows of a table."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from tiny_tables import measured, write_state
from widths import row_of, widths_space, widths_tables

from qaedge.architecture import Architecture
from qaedge.borders import borders
from qaedge.cli import profile, sizes, space_check
from qaedge.cli.form import choose_for
from qaedge.cli.plan import plan
from qaedge.cli.resolve import Inputs
from qaedge.device import load_devices
from qaedge.errors import InvalidFile
from qaedge.files import write_json
from qaedge.layer_bits import LayerBits
from qaedge.project import Workspace
from qaedge.search.space_problem import Constraint, build_problem
from qaedge.sizes import SizeRow, SizeTable
from qaedge.space import SearchSpace
from qaedge.tables import LatencyRow, LatencyTable, LossTable, table_keys
from qaedge.units import format_seconds

#: The teacher's own blocks are in 8, 16 and 8 bits; what lies between two blocks, either way.
SCHEMES = (("w8a8", "w8a16"), ("w8a16", "w8a8"), ("w8a8", "w4a8"))


def write_widths(workspace: Workspace, without: str = "-", extra: tuple[LatencyRow, ...] = ()) -> SearchSpace:
    """Write a space and its tables into a project; rows whose key starts with `without` are left out."""
    space = widths_space(SCHEMES)
    losses, table = widths_tables(space)
    space.save(workspace.space_json)
    write_json(workspace.space_json.with_name("space.inputs.json"), Inputs.of(workspace))
    write_json(workspace.activations_json, {})
    for row in losses.rows.values():
        LossTable.store(workspace.loss_file(space.origin)).append(row)
    for row in (*table.rows.values(), *extra):
        if not row.key.startswith(without):
            now = msgspec.structs.replace(row.measurement, started_at="2026-01-01T00:00:00Z")
            row = msgspec.structs.replace(row, measurement=now)
            LatencyTable.store(workspace.latency_file("local")).append(row)
    return space


@pytest.fixture
def widths(scenes: Path) -> SearchSpace:
    return write_widths(Workspace.open())


def table_of(workspace: Workspace) -> LatencyTable:
    return LatencyTable.read(workspace.latency_file("local"), "local")


def test_search_says_how_many_changes_there_are_and_what_they_take(widths, qaedge, tmp_path):
    flags = ("--latency", "none", "--power", "1", "--fix", "stage0=own@w8a8", "--fix", "stage1=own@w8a16")
    ran = qaedge("search", *flags, "--json", "--output", tmp_path / "arch.json")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)["architecture"]
    table, known = table_of(Workspace.open()), borders(widths)
    wanted = [table.border_s(known[key]) for key in ("border_a8a16@16x12x16", "border_a16a8@24x12x16")]
    assert found["borders"] == [
        {"between": ["stage0", "stage1"], "bits": [8, 16], "latency_s": {"local": wanted[0]}},
        {"between": ["stage1", "stage2"], "bits": [16, 8], "latency_s": {"local": wanted[1]}},
    ]
    loaded = Architecture.load(tmp_path / "arch.json", widths)
    assert [border.bits for border in loaded.borders] == [(8, 16), (16, 8)]
    value, _ = table.predict_latency(widths, loaded.candidates(widths))
    assert found["costs"]["latency@local"]["value"] == value
    told = f"Borders: 2 changes of activation width, {format_seconds(sum(wanted))} in all.\n"
    assert told in qaedge("search", *flags).out
    one = qaedge("search", *flags[:5], "stage0=own@w8a16", *flags[6:])
    ends = table.border_s(known["border_a8a16@8x12x16"]) + wanted[1]
    assert f"Borders: 2 changes of activation width, {format_seconds(ends)} in all.\n" in one.out


def test_a_network_of_one_width_says_nothing_of_changes(widths, qaedge):
    flags = ("--latency", "none", "--forbid", "scheme=w8a16")
    assert "borders" not in json.loads(qaedge("search", *flags, "--json").out)["architecture"]
    assert "Borders" not in qaedge("search", *flags).out


def test_each_network_of_several_has_its_changes(widths, qaedge):
    value = json.loads(qaedge("search", "--latency", "none", "--top", "4", "--differ", "1", "--json").out)
    value |= json.loads(qaedge("search", "--pareto", "--json").out)
    assert len(value["top"]) == 4 and len(value["front"]) > 2
    networks = [[choice["scheme"] for choice in one["choices"]] for one in value["top"]]
    networks += [[text.split("@")[1] for text in one["candidates"]] for one in value["front"]]
    for schemes, one in zip(networks, (*value["top"], *value["front"]), strict=True):
        bits = [8, *(int(scheme.split("a")[1]) for scheme in schemes), 8]
        changes = [[a, b] for a, b in itertools.pairwise(bits) if a != b]
        assert [border["bits"] for border in one.get("borders", [])] == changes
        assert ("borders" in one) == bool(changes)


def test_changes_in_a_file_are_checked(widths, qaedge, tmp_path):
    path = tmp_path / "arch.json"
    flags = ("--fix", "stage0=own@w8a8", "--fix", "stage1=own@w8a16", "--latency", "none")
    assert qaedge("search", *flags, "--output", path).status == 0
    value = json.loads(path.read_text())
    value["borders"][0]["latency_s"]["local"] = -1.0
    path.write_text(json.dumps(value))
    with pytest.raises(InvalidFile, match=r"borders\[0\]\.latency_s\.local"):
        Architecture.load(path, widths)


def test_search_by_size_tells_of_changes_without_their_time():
    space = widths_space(SCHEMES)
    losses, _ = widths_tables(space)
    found = build_problem(space, losses, {})
    told = found.architecture(found.find([block.candidates[0] for block in space.blocks]))
    assert [border.bits for border in told.borders] == [(8, 16), (16, 8)]
    assert all(border.latency_s == {} for border in told.borders)


def test_changes_on_two_devices_are_told_for_each(capsys):
    from qaedge.cli.found import show_choice

    space = widths_space(SCHEMES)
    losses, here = widths_tables(space)
    _, there = widths_tables(space, seed=3, device="pi4")
    found = build_problem(space, losses, {"local": here, "pi4": there}, [Constraint("latency@pi4", 1.0)])
    own = found.find([block.candidates[0] for block in space.blocks])
    show_choice(found, own, found.architecture(own), 0.0)
    sums = [format_seconds(t.borders_s(found.space, found.candidates(own))) for t in (here, there)]
    told = f"Borders: 2 changes of activation width, {sums[0]} in all on local, {sums[1]} in all on pi4.\n"
    assert told in capsys.readouterr().out


def test_a_change_that_was_not_measured_is_an_error_with_the_command(scenes, qaedge):
    write_widths(Workspace.open(), without="border_a16a8@16")
    ran = qaedge("search", "--latency", "none")
    assert ran.status == 1 and "border_a16a8@16x12x16 was not measured on local." in ran.err
    assert "Run: qaedge profile --device local" in ran.err and "--forbid scheme=SCHEME" in ran.err
    assert qaedge("search", "--latency", "none", "--forbid", "scheme=w8a16").status == 0
    assert qaedge("report", "--no-pictures").status == 0, "a page says what is missing, and is written"
    listing = json.loads(qaedge("space", "--json").out)
    assert listing["missing_borders"] == {"local": 1}


def test_space_counts_changes_that_are_missing(scenes, qaedge):
    workspace = Workspace.open()
    space = write_widths(workspace, without="border_a16a8")
    listing = json.loads(qaedge("space", "--json").out)
    assert listing["missing_borders"] == {"local": 2} and listing["missing_latency"] == {"local": 0}
    assert listing["unique_candidates"] == len({c.key for c in space.unique()}), "a change is no candidate"
    assert listing["missing_teacher"] == {"local": 0}
    assert "2 latencies are missing on local" in qaedge("space").err


def test_a_space_of_one_width_misses_none(tables, qaedge):
    assert json.loads(qaedge("space", "--json").out)["missing_borders"] == {}


def test_a_change_of_another_state_of_the_device_is_a_warning(widths, qaedge):
    write_state(Workspace.open(), "border_a16a8@24x12x16", "governor", "powersave")
    ran = qaedge("search", "--latency", "none")
    assert ran.status == 0 and "1 of the" in ran.err and "another state" in ran.err
    assert json.loads(qaedge("space", "--json").out)["missing_borders"] == {"local": 1}


def test_changes_are_planned_in_the_form_of_the_widest_weights(widths):
    fleet = SimpleNamespace(sessions={"x": SimpleNamespace(hello=SimpleNamespace(cpu_flags=(), arch="x86_64"))})
    layers = LayerBits(widths, LossTable(()))

    def planned(rows):
        return plan(LatencyTable("local", rows), widths, load_devices("local"), fleet, False, False, layers)

    pytest.importorskip("torch")
    empty = planned([])
    assert empty.missing >= borders(widths).keys() and empty.missing - borders(widths).keys() == (
        table_keys(widths) - borders(widths).keys()
    )
    forms = {bits: form for bits, (form, _) in empty.forms.items()}
    assert {empty.wanted[key] for key in borders(widths)} == {forms[8]}
    rows = [msgspec.structs.replace(row_of(key, 0.01), form=form) for key, form in empty.wanted.items()]
    assert not planned(rows).missing and not planned(rows).rebitted
    key = next(iter(borders(widths)))
    spoiled = [
        msgspec.structs.replace(row, measurement=msgspec.structs.replace(row.measurement, doubts=("throttled",)))
        if row.key == key
        else row
        for row in rows
    ]
    assert planned(spoiled).missing == {key}
    assert layers.of_row(key) == ()


def test_profile_lists_changes_apart_from_candidates(widths, capsys):
    table = table_of(Workspace.open())
    gone = next(iter(borders(widths)))
    less = LatencyTable("local", [row for key, row in table.rows.items() if key != gone])
    planned = SimpleNamespace(forms={}, kept=0)
    summary = profile.summarize(widths, less, planned, 0, [])
    assert sum(block.measured for block in summary.blocks) == sum(len(block.candidates) for block in widths.blocks)
    assert [(b.before, b.after, b.shape) for b in summary.borders] == [
        (b.before, b.after, b.shape) for b in borders(widths).values()
    ]
    assert [b.latency_s is None for b in summary.borders] == [True, False, False, False]
    profile._show(summary)
    times = [b.latency_s for b in summary.borders if b.latency_s is not None]
    told = f"3 of 4 changes of activation width were measured: {format_seconds(min(times))} to"
    assert told in capsys.readouterr().out
    alone = profile.summarize(widths_space([["w8a8"]]), table, planned, 0, [])
    profile._show(alone)
    assert alone.borders == () and "changes of activation" not in capsys.readouterr().out
    assert "--forbid scheme=SCHEME" in profile._without(widths, {gone, "another"})
    assert profile._without(widths, {"another"}) == ""


def test_a_table_of_sizes_has_no_changes(widths, monkeypatch):
    workspace = Workspace.open()
    store = SizeTable.store(workspace.size_file("local"))
    for key in table_keys(widths) - borders(widths).keys():
        store.append(SizeRow(key, "onnx", "u8u8", 1000))
    found = sizes.size_table(workspace, widths, "local", "onnx", quiet=True)
    assert found.rows.keys().isdisjoint(borders(widths)), "and none is exported"


def test_the_form_of_files_is_not_read_from_changes(scenes):
    workspace = Workspace.open()
    odd = msgspec.structs.replace(row_of("border_a8a16@16x12x16", 0.001), form="odd")
    write_widths(workspace, extra=(odd,))
    assert choose_for(load_devices("local")[0], workspace)(8)[0] == "u8u8"


def test_one_change_of_each_sort_is_tried_before_any_training(widths, monkeypatch, capsys):
    tried = []
    monkeypatch.setattr(space_check, "_problem", lambda *arguments: tried.append(arguments[-1]) or "")
    steps = space_check._try(Workspace.open(), None, widths, load_devices("local")[0], None, ["onnxruntime"])
    rows = [step.result for step in steps]
    assert sorted(key.split("@")[0] for key in tried if key.startswith("border")) == ["border_a16a8", "border_a8a16"]
    mine = [row for row in rows if row.candidate.startswith("the change")]
    assert [(row.block, row.candidates) for row in mine] == [("", 0)] * 2
    assert "the change of activations from 8 to 16 bits" in {row.candidate for row in mine}
    space_check._show(rows, load_devices("local")[0])
    count = sum(len(block.candidates) for block in widths.blocks)
    assert f"({count} candidates), and the whole teacher, and each change of activations" in capsys.readouterr().out
    bad = [msgspec.structs.replace(row, problem="no such operator") if row in mine else row for row in rows]
    assert space_check._failing(bad) == ", ".join(row.candidate for row in mine)


def test_a_page_shows_networks_with_changes_and_counts_their_rows(widths, qaedge, scenes):
    pytest.importorskip("plotly", reason="plotly is not installed: qaedge[page]")
    ran = qaedge("report", "--no-pictures", "--json", "--latency", "90%")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert found["front"]["latency"] > 2
    table = table_of(Workspace.open())
    best = found["chosen"][0]["network"]
    network = [block.candidates[at] for block, at in zip(widths.blocks, best["indices"], strict=True)]
    assert best["latency_s"] == pytest.approx(table.predict_latency(widths, network)[0])
    rows = len(table_keys(widths) & table.rows.keys())
    assert re.search(rf">rows</td><td[^>]*>{rows}</td>", (scenes / "report.html").read_text())


def test_a_tiny_measurement_has_no_overhead_to_take_off():
    key = next(iter(borders(widths_space(SCHEMES))))
    table = LatencyTable("local", [LatencyRow(key, "u8u8", 1, 1, measured(2))])
    assert table.border_s(borders(widths_space(SCHEMES))[key]) == pytest.approx(0.002)
