"""`bench`, `compare` and `profile`, measured for real on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tiny_files import write_convolutions
from tiny_tables import write_state

from qaedge.artifact import Artifact
from qaedge.cli import bench
from qaedge.cli.bench import Manifest, Predicted, Row, predicted, show
from qaedge.probes import probes
from qaedge.project import Workspace
from qaedge.space import SearchSpace
from qaedge.tables import LatencyTable, anchor_key, table_keys


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A light and a heavy file, ten times apart; the current folder is theirs."""
    monkeypatch.chdir(tmp_path)
    write_convolutions(tmp_path / "light.onnx", 1)
    write_convolutions(tmp_path / "heavy.onnx", 12)
    return tmp_path


def write_manifest(path, **predicted):
    manifest = {"sha256": Artifact.of(path).sha256, "predicted": predicted, "more": [1]}
    path.with_name(f"{path.name}.json").write_text(json.dumps(manifest))


def test_bench_prints_predicted_beside_measured(files, qaedge):
    write_manifest(files / "light.onnx", latency_s=0.001)
    ran = qaedge("bench", "heavy.onnx", "light.onnx", "--json", "--quiet")
    assert ran.status == 0 and ran.err == ""
    heavy, light = json.loads(ran.out)
    assert (heavy["file"], light["file"]) == ("heavy.onnx", "light.onnx")
    assert 0 < light["median_s"] < heavy["median_s"]
    assert light["p90_s"] >= light["median_s"] and light["samples"] >= 64
    assert (light["p99_s"] is not None) == (light["samples"] >= 662)
    assert light["predicted_s"] == 0.001 and heavy["predicted_s"] is None
    assert light["size_bytes"] == (files / "light.onnx").stat().st_size

    ran = qaedge("bench", "light.onnx")
    assert "predicted" in ran.out and "local: onnxruntime" in ran.out
    assert ran.err.startswith("measuring: ")


def test_more_threads_than_cores_are_refused(files, qaedge):
    cores = os.cpu_count()
    ran = qaedge("bench", "light.onnx", "--threads", cores + 1)
    assert ran.status == 2
    assert f"{cores + 1} threads were asked for, and local has {cores} core" in ran.err
    assert f"--threads {cores}" in ran.err


def test_instructions_and_cycles_are_shown_where_they_are_counted(files, qaedge, monkeypatch, capsys):
    (row,) = json.loads(qaedge("bench", "light.onnx", "--json", "--quiet").out)
    assert {"instructions", "cycles"} <= row.keys()
    plain = msgspec.convert({**row, "instructions": None, "cycles": None}, bench.Row)
    bench.show([plain])
    assert "instructions" not in capsys.readouterr().out
    bench.show([msgspec.structs.replace(plain, instructions=12_340_000.0), plain])
    shown = capsys.readouterr().out
    assert "instructions" in shown and "12.3 M" in shown and "cycles" not in shown


def test_a_prediction_for_another_device_is_not_compared(files, qaedge):
    write_manifest(files / "light.onnx", latency_s=0.001, device="pi4")
    (row,) = json.loads(qaedge("bench", "light.onnx", "--json").out)
    assert row["predicted_s"] is None


def test_a_manifest_of_another_file_predicts_nothing(files, qaedge):
    write_manifest(files / "heavy.onnx", latency_s=0.001)
    (files / "heavy.onnx.json").rename(files / "light.onnx.json")
    ran = qaedge("bench", "light.onnx", "--json", "--quiet")
    assert ran.status == 0 and json.loads(ran.out)[0]["predicted_s"] is None
    assert "warning: light.onnx.json describes another file than light.onnx" in ran.err


@pytest.mark.parametrize("seconds", [0, -0.5])
def test_a_prediction_that_cannot_be_is_refused(seconds, files, qaedge):
    write_manifest(files / "light.onnx", latency_s=seconds)
    ran = qaedge("bench", "light.onnx")
    assert ran.status == 1 and "light.onnx.json: predicted.latency_s: expected seconds above 0" in ran.err


@pytest.mark.parametrize(
    ("key", "name", "said"),
    [
        ("predicted", "predcted", "light.onnx.json: predicted: expected a value, found only 'predcted'."),
        ("sha256", "sha", "light.onnx.json: sha256: expected a value, found only 'sha'."),
        ("latency_s", "latency", "light.onnx.json: predicted.latency: expected a known key (latency_s, "),
        ("latency_s", None, "light.onnx.json: predicted.latency_s: expected seconds, or null"),
    ],
)
def test_a_manifest_with_a_typing_error_is_a_warning(key, name, said, files, qaedge):
    path = files / "light.onnx"
    write_manifest(path, latency_s=0.001)
    manifest = json.loads((files / "light.onnx.json").read_text())
    inside = manifest["predicted"] if key == "latency_s" else manifest
    value = inside.pop(key)
    if name:
        inside[name] = value
    (files / "light.onnx.json").write_text(json.dumps(manifest))
    artifact = Artifact.of(path)
    said_of: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qaedge.report.warn", said_of.append)
        patch.chdir(files)
        assert predicted(msgspec.structs.replace(artifact, path="light.onnx"), "local") is None
    assert len(said_of) == 1 and said_of[0].startswith(said)


@pytest.mark.parametrize(("value", "found"), [('"7ms"', "text"), ("true", "true or false")])
def test_a_prediction_of_another_type_is_refused(value, found, files, qaedge):
    (files / "light.onnx.json").write_text(f'{{"sha256": "x", "predicted": {{"latency_s": {value}}}}}')
    ran = qaedge("bench", "light.onnx")
    assert ran.status == 1 and "light.onnx.json: predicted.latency_s: expected a number or nothing" in ran.err
    assert f"found {found}" in ran.err


def test_manifests_have_the_keys_that_bench_knows():
    manifest = pytest.importorskip("qaedge.nn.manifest")
    assert Predicted.__struct_fields__ == manifest.Predicted.__struct_fields__
    assert set(Manifest.__struct_fields__) <= set(manifest.Manifest.__struct_fields__)


def test_quantiles_of_too_few_samples_are_not_estimable(capsys):
    row = Row("x.onnx", "0" * 64, 10, 0.001, None, None, 1e-6, 30, None, (), "local", "r", "1", 1, 0.1, 0.1, None)
    many = msgspec.structs.replace(row, samples=700, p90_s=0.002, p99_s=0.003)
    show([row, many])
    few, enough = capsys.readouterr().out.splitlines()[-2:]
    assert few.count("not estimable") == 2
    assert "not estimable" not in enough and "2 ms" in enough and "3 ms" in enough


def test_a_broken_file_does_not_hide_the_others(files, qaedge):
    (files / "broken.onnx").write_bytes(b"not a network")
    ran = qaedge("bench", "light.onnx", "broken.onnx", "--json")
    assert ran.status == 1
    assert [row["file"] for row in json.loads(ran.out)] == ["light.onnx"]
    assert "error: 1 of 2 files were not measured: broken.onnx." in ran.err


@pytest.mark.parametrize(("name", "said"), [("absent.onnx", "No file absent.onnx"), ("light.onnx", "No device 'pi9'")])
def test_bench_says_what_is_not_there(name, said, files, qaedge):
    ran = qaedge("bench", name, "--device", "local" if "absent" in name else "pi9")
    assert ran.status == 1 and said in ran.err


def test_energy_without_a_sensor_says_what_was_looked_for(files, qaedge):
    if any(path.read_text() == "ina3221\n" for path in Path("/sys/class/hwmon").glob("hwmon*/name")):
        pytest.skip("this machine has a sensor")
    ran = qaedge("bench", "light.onnx", "--energy")
    assert ran.status == 1
    assert "no sensor for its power" in ran.err and "--meter" in ran.err


@pytest.mark.slow
def test_energy_from_a_meter(files, qaedge):
    # A meter whose watts follow how busy this machine is: idle, then one core.
    Path("meter.py").write_text(
        "import json, time\n"
        "def idle():\n"
        "    with open('/proc/stat') as file:\n"
        "        return int(file.readline().split()[4])\n"
        "while True:\n"
        "    before = idle()\n"
        "    time.sleep(0.1)\n"
        "    print(json.dumps({'watts': max(1.0, 50.0 - (idle() - before))}), flush=True)\n"
    )
    (row,) = json.loads(qaedge("bench", "light.onnx", "--json", "--meter", f"{sys.executable} meter.py").out)
    if row["energy_j"] is None:
        assert "no energy" in row["doubts"]  # a machine that is busy with something else
    else:
        assert row["energy_samples"] >= 50 and 0 < row["energy_j"] < 50


def test_compare_finds_ten_times_the_work_slower(files, qaedge):
    ran = qaedge("compare", "light.onnx", "heavy.onnx", "--json")
    found = json.loads(ran.out)
    assert (ran.status, found["verdict"]) == (3, "slower")
    assert found["low"] > 1 and found["size_ratio"] > 1
    assert "comparing again" in ran.err

    ran = qaedge("compare", "heavy.onnx", "light.onnx", "--quiet")
    assert ran.status == 0 and "faster" in ran.out and ran.err == ""


def test_compare_of_a_file_with_itself_is_never_slower(files, qaedge):
    ran = qaedge("compare", "light.onnx", "light.onnx", "--threshold", "50%")
    assert ran.status in (0, 4), ran.out
    assert ran.out.splitlines()[-1].startswith(("the same", "not decided"))


@pytest.mark.parametrize("threshold", ["5", "5ms", "five"])
def test_a_threshold_is_a_share(threshold, files, qaedge):
    ran = qaedge("compare", "light.onnx", "light.onnx", "--threshold", threshold)
    assert ran.status == 2 and "5%" in ran.err


SPACE = """
name = "few"
[[block]]
name = "stage5"
expansions = [2]
schemes = ["w7a8"]
[[block]]
name = "head"
kind = "context"
kernels = [1]
widths = [16]
pooling = [true, false]
schemes = ["w7a8"]
"""


@pytest.fixture
def few(scenes):
    """A project of two blocks with five candidates in all."""
    pytest.importorskip("qaedge.nn.candidates")
    (scenes / "space.toml").write_text(SPACE)
    file = scenes / "qaedge.toml"
    lines = [
        line
        for line in file.read_text().splitlines()
        if not line.startswith(("stage1", "stage2", "stage3", "stage4", "stage6"))
    ]
    file.write_text("\n".join(lines).replace("count = 128", "count = 8"))
    return scenes


@pytest.fixture
def profiled(few, qaedge):
    """The same project, profiled."""
    assert qaedge("profile", "--quiet").status == 0
    return few


def count() -> int:
    """How many rows a whole table of the project has: five candidates, the teacher, and the probes."""
    found = len(table_keys(SearchSpace.load(Workspace.open().space_json)))
    assert found > 6
    return found


def rows() -> LatencyTable:
    return LatencyTable("local", LatencyTable.store(Workspace.open().latency_file("local")).rows())


def test_profile_fills_the_table_and_keeps_it(few, qaedge):
    ran = qaedge("profile", "--json")
    assert ran.status == 0, ran.err
    summary = json.loads(ran.out)
    space = SearchSpace.load(Workspace.open().space_json)
    wanted = {c.key for c in space.unique()} | {anchor_key(space, "w7a8")}
    wanted |= probes(space).keys()
    table = rows()
    assert set(table.rows) == wanted
    assert (summary["kept"], summary["measured"], summary["failed"]) == (0, count(), [])
    assert summary["slower"] == summary["slower_bits"] == [], "there is one scheme alone"
    for block, listed in zip(space.blocks, summary["blocks"], strict=True):
        found = [table.row(candidate.key).measurement for candidate in block.candidates]
        times = [row.median_s - row.overhead_s for row in found]
        assert all(row.overhead_s > 0 for row in found)
        assert (listed["own_s"], listed["fastest_s"], listed["slowest_s"]) == (times[0], min(times), max(times))
        assert listed["measured"] == listed["candidates"] == len(times)
    assert summary["teacher_s"] == table.rows[anchor_key(space, "w7a8")].measurement.median_s
    form = summary["forms"]["7"]
    assert f"7-bit weights are stored as {form}: " in ran.err
    assert {row.form for row in table.rows.values()} == {form}

    ran = qaedge("profile")
    assert ran.status == 0 and f"{count()} of {count()} rows are kept, 0 to measure" in ran.err
    assert "teacher's own" in ran.out and "the whole teacher on local" in ran.out
    listing = json.loads(qaedge("space", "--json").out)
    assert listing["missing_latency"] == {"local": 0} and listing["missing_teacher"] == {"local": 0}


def test_profile_measures_again_at_another_time_and_all_samples_count(profiled, qaedge):
    once = rows().rows
    first = next(iter(once))
    ran = qaedge("profile", "--repeat", "2", "--json")
    assert ran.status == 0, ran.err
    summary = json.loads(ran.out)
    assert (summary["kept"], summary["measured"], summary["failed"]) == (0, count(), [])
    twice = rows().rows
    assert once.keys() == twice.keys()
    for key, row in twice.items():
        before, now = once[key].measurement, row.measurement
        assert now.loads == 2 and len(now.rounds) > len(before.rounds)
        assert now.rounds[: len(before.rounds)] == before.rounds
    assert qaedge("profile", "--repeat", "2", "--quiet", "--json").out.find(f'"kept": {count()}') > 0
    assert json.loads(qaedge("profile", "--json").out)["kept"] == count(), "fewer loads are enough for it"

    # A row that is of another state begins anew, and is loaded as often as the others.
    write_state(Workspace.open(), first, "runtime_version", "0.1")
    ran = qaedge("profile", "--repeat", "2", "--json")
    assert json.loads(ran.out)["measured"] == 2 and "Turn 2 of 2: 1 file." in ran.err
    assert rows().rows[first].measurement.loads == 2


def test_rows_of_another_state_are_measured_again(profiled, qaedge):
    states = {
        "runtime_version": "0.1",
        "governor": {"policy0": "another"},
        "boot_id": "before",
        "pin": False,
        "cores": [4096],
    }
    for key, (field, value) in zip(list(rows().rows), states.items(), strict=False):
        write_state(Workspace.open(), key, field, value)
    ran = qaedge("profile")
    assert ran.status == 0, ran.err
    assert f"{count() - 5} of {count()} rows are kept, 5 to measure" in ran.err
    assert all(f"{field} is {value!r}, and not" in " ".join(ran.err.split()) for field, value in states.items())
    assert f"{count()} of {count()} rows are kept, 0 to measure" in qaedge("profile").err


def test_a_killed_run_loses_nothing_finished(few, spawn):
    process: subprocess.Popen[str] = spawn("profile")
    file = Workspace.open().latency_file("local")
    for line in process.stderr:
        if line.startswith("measuring") and file.exists():
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = len(rows().rows)
    process = spawn("profile", "--json")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out)["kept"] == kept and json.loads(out)["measured"] == count() - kept
