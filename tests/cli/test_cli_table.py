"""`table check` and `search --verify`, on a tiny teacher that is distilled and measured on this machine."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from pathlib import Path

import pytest
from tiny_scenes import write_project

from qaedge import cli
from qaedge.influence import Influence, influence_rows
from qaedge.network_key import FITTED, HELD_OUT
from qaedge.network_loss import network_losses
from qaedge.probes import held_out, probes
from qaedge.project import Workspace
from qaedge.space import SearchSpace
from qaedge.tables import LatencyTable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that is distilled and profiled."""
    folder = tmp_path_factory.mktemp("tables")
    write_project(folder)
    for arguments in (["distill"], ["profile", "--device", "local", "--wait", "4min"]):
        assert cli.run([*arguments, "--quiet", "--project", str(folder / "qaedge.toml")]) == 0
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy that a test may spoil; the current folder is its own."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return Workspace.open()


def space_of(project: Workspace) -> SearchSpace:
    return SearchSpace.load(project.space_json)


def table_of(project: Workspace) -> LatencyTable:
    return LatencyTable.read(project.latency_file("local"), "local")


def test_profile_measures_networks_that_predictions_learn_from(project):
    space, table = space_of(project), table_of(project)
    assert table.fit(space).networks == len(probes(space)) > 3
    assert len(table.networks(space, FITTED)) == len(probes(space))
    assert not table.networks(space, HELD_OUT)


def test_distill_tells_what_each_block_does_to_the_network(project, qaedge):
    space = space_of(project)
    store = influence_rows(project.loss_file(space.origin))
    rows = list(store.rows())
    assert {row.block for row in rows} == {block.name for block in space.blocks}
    specs = [(row.block, row.spec) for row in rows]
    assert len(set(specs)) == len(specs) and all(row.divergence >= 0 and row.loss > 0 for row in rows)
    assert Influence.of(rows, space) is not None

    lines = store.path.read_text().splitlines()
    store.path.write_text("\n".join(lines[:-2]) + "\n")  # as if it had been stopped
    assert qaedge("distill", "--quiet").status == 0
    assert sorted(map(str, store.rows())) == sorted(map(str, rows)), "only what was missing is done again"


def test_search_sums_harm_unless_a_power_is_asked_for(project, qaedge):
    found = json.loads(qaedge("search", "--latency", "none", "--json").out)
    assert found["summed"] == "harm" and found["power"] is None
    plain = json.loads(qaedge("search", "--latency", "none", "--power", "1", "--json").out)
    assert plain["summed"] == "loss"
    assert plain["architecture"]["loss"] <= found["architecture"]["loss"]
    front = json.loads(qaedge("search", "--pareto", "--json").out)["front"]
    assert [row["summed"] for row in front] == sorted((row["summed"] for row in front), reverse=True)


def test_search_says_where_it_sums_plain_losses_for_want_of_harm(project, qaedge):
    path = influence_rows(project.loss_file(space_of(project).origin)).path
    kept = path.read_text()
    try:
        path.unlink()
        ran = qaedge("search", "--latency", "none", "--json")
        assert ran.status == 0 and json.loads(ran.out)["summed"] == "loss"
        assert "plain block losses are summed" in ran.err and "qaedge distill" in ran.err
        assert "plain block losses" not in qaedge("search", "--latency", "none", "--power", "1", "--json").err
        path.write_text(kept.replace('"divergences":[', '"divergences":[-1.0,', 1))
        ran = qaedge("search", "--latency", "none", "--json")
        assert ran.status == 1 and "line 2" in ran.err and "Delete it and run: qaedge distill" in ran.err
    finally:
        path.write_text(kept)


def test_held_out_networks_are_measured_once_and_held_against_the_table(project, qaedge):
    ran = qaedge("table", "check", "--networks", "6", "--wait", "4min", "--json", "--plot", "p.png")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    table, space = table_of(project), space_of(project)
    assert found["n"] == len(found["networks"]) == 6 and found["device"] == "local" and found["format"] == "onnx"
    for row in found["networks"]:
        key = next(k for k, _ in held_out(space) if f"_{row['network']}@" in k)
        assert row["measured_s"] == table.row(key).measurement.median_s
        network = dict(held_out(space))[key]
        assert (row["predicted_s"], row["error_s"]) == pytest.approx(table.predict_latency(space, network))
    offs = [abs(row["predicted_s"] / row["measured_s"] - 1) for row in found["networks"]]
    assert found["mape"] == pytest.approx(sum(offs) / 6)
    assert found["fit"]["networks"] == len(probes(space)), "what is held out is not learned from"
    assert Path("p.png").stat().st_size > 1000

    before = table.rows
    again = qaedge("table", "check", "--networks", "6")
    assert again.status == 0 and "measuring" not in again.err
    assert table_of(project).rows.keys() == before.keys()
    assert "MAPE" in again.out and "Spearman" in again.out and "the teacher, measured in turn with them" in again.out
    fewer = json.loads(qaedge("table", "check", "--networks", "0", "--json").out)
    assert fewer["n"] == 6


def test_what_is_measured_several_times_keeps_all_samples_and_tells_each_median(project, qaedge):
    # What was interrupted, or asked for less, is gone on with.
    assert qaedge("table", "check", "--networks", "2", "--repeat", "2", "--wait", "4min").status == 0
    (first, _) = table_of(project).networks(space_of(project), HELD_OUT)
    ran = qaedge("table", "check", "--networks", "3", "--repeat", "3", "--wait", "4min", "--json")
    assert ran.status == 0, ran.err
    (same, *_) = table_of(project).networks(space_of(project), HELD_OUT)
    assert same[1].measurement.rounds[: len(first[1].measurement.rounds)] == first[1].measurement.rounds
    found = json.loads(ran.out)
    for _, row in table_of(project).networks(space_of(project), HELD_OUT):
        times = row.measurement.conditions["repeated_s"]
        assert len(times) == 3 and times == sorted(times)
        assert row.measurement.loads == 3 and times[0] <= row.measurement.median_s <= times[2]
    assert found["repeatability"] > 0


def test_rows_are_scaled_to_what_the_table_has_of_the_teacher(project, qaedge):
    assert qaedge("table", "check", "--networks", "2", "--wait", "4min").status == 0
    for _, row in table_of(project).networks(space_of(project), HELD_OUT):
        found = row.measurement
        scale = found.conditions["teacher_scale"]
        assert 0.2 < scale < 5 and len(found.scales) == len(found.rounds)
        raw = [s for samples in found.rounds for s in samples]
        assert found.scales == pytest.approx([found.scales[0]] * len(found.scales), rel=0.12), (
            "R14 scales a little, too"
        )
        assert found.median_s == pytest.approx(statistics.median(raw) * found.scales[0], rel=0.12)
        assert ("drifted" in found.doubts) or abs(scale - 1) <= 0.05


def test_a_table_that_nothing_was_held_against_says_so(project, qaedge):
    ran = qaedge("table", "check", "--networks", "0")
    assert ran.status == 1 and "No random network was measured on local." in ran.err
    ran = qaedge("table", "check", "--runtime", "tflite")
    assert ran.status == 1 and "qaedge profile --device local --runtime tflite" in ran.err
    ran = qaedge("table", "check", "--runtime", "tensorflow")
    assert ran.status == 2 and "Known: onnx, tflite, both." in ran.err
    ran = qaedge("table", "check", "--loss", "--networks", "0")
    assert ran.status == 1 and "No network of this space was judged." in ran.err


def test_verify_ends_with_a_measured_network_that_keeps_its_limit(project, qaedge):
    # On a busy machine the margin of so small networks is a good part of any limit: it begins with the least there is.
    told = re.search(
        r"a limit on latency on local of ([\d.]+) (us|ms) is the least", qaedge("search", "--latency", "1us").err
    )
    assert told is not None
    limit = f"{1.5 * float(told[1]):.4g}{told[2]}"
    ran = qaedge("search", "--latency", limit, "--verify", "2", "--wait", "4min", "--json", "--output", "best.json")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    turns = found["turns"]
    last = turns[-1]
    assert last["keeps"] and last["measured_s"] <= last["limit_s"] and found["measured_s"] == last["measured_s"]
    space = space_of(project)
    chosen = "-".join(str(choice["index"]) for choice in found["architecture"]["choices"])
    assert chosen == last["network"]
    measured = {"-".join(map(str, places(space, n))): row for n, row in table_of(project).networks(space, FITTED)}
    assert all(measured[turn["network"]].measurement.median_s == turn["measured_s"] for turn in turns)
    assert Path("best.json").exists()

    again = qaedge("search", "--latency", limit, "--verify", "2")
    assert again.status == 0 and "found, measured" in again.out
    assert "turn 1: the best network was measured:" in again.out, "and nothing is measured twice"


def places(space: SearchSpace, network) -> list[int]:
    return [block.candidates.index(c) for block, c in zip(space.blocks, network, strict=True)]


def test_verify_says_when_no_measured_network_can_keep_the_limit(project, qaedge):
    ran = qaedge("search", "--latency", "1us", "--verify", "2", "--wait", "4min")
    assert ran.status == 1 and "too slow" in ran.err and "Traceback" not in ran.err


def test_loss_sums_are_held_against_assembled_networks(project, qaedge):
    ran = qaedge("table", "check", "--loss", "--networks", "5", "--images", "3", "--json", "--plot", "r.png")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert found["n"] == 5 and found["images"] == 3
    assert [rank["summed"] for rank in found["ranks"]] == ["harm", "loss", "loss^1.5"]
    assert all(rank["divergence"] is None or -1 <= rank["divergence"] <= 1 for rank in found["ranks"])
    assert all(0 <= row["miou"] <= 1 and row["divergence"] > 0 for row in found["networks"])
    assert Path("r.png").stat().st_size > 1000
    space = space_of(project)
    store = network_losses(project.loss_file(space.origin).with_name("networks.jsonl"))
    assert len(list(store.rows())) == 5
    again = qaedge("table", "check", "--loss", "--networks", "5")
    assert "judging" not in again.err and "tau with divergence" in again.out


def test_the_teacher_itself_loses_next_to_nothing(project):
    from qaedge.cli.form import choose_for
    from qaedge.device import load_device
    from qaedge.nn.judge import judge
    from qaedge.nn.student import open_splits
    from qaedge.nn.teacher import load_teacher

    space, teacher = space_of(project), load_teacher(project)
    own = tuple(block.candidates[0] for block in space.blocks)
    worst = tuple(block.candidates[-1] for block in space.blocks)
    steps = judge(
        project,
        teacher,
        space,
        {"own": own, "worst": worst},
        open_splits(project),
        choose_for(load_device("local"), project),
        4,
    )
    rows = {step.result.key: step.result for step in steps if step.result is not None}
    assert 0 <= rows["own"].divergence < 0.05 < 10 * rows["worst"].divergence
    assert rows["own"].divergence < rows["worst"].divergence
