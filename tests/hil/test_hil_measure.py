"""Measuring real files by the real agent."""

import math
import os
import statistics
import subprocess
import sys

import msgspec
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qaedge.artifact import Artifact
from qaedge.device import Device
from qaedge.errors import CandidateFailed, InvalidFile, MissingFile, Unreachable, UsageError
from qaedge.hil.agent import AgentSession
from qaedge.hil.profile import Failed, Measured, Settings, measure, open_session


@pytest.fixture
def session(device, target):
    with AgentSession(device, target) as session:
        yield session


def results(steps):
    return [step.result for step in steps if step.result is not None]


def test_several_files(session, relu, quick, device):
    files = [relu(size) for size in (10, 1000, 100_000)]
    steps = list(measure(session, files, quick, threads=1, seed=3))
    found = {r.artifact.name: r.measurement for r in results(steps)}
    assert set(found) == {f.name for f in files}
    assert [step.done for step in steps if step.result is not None] == [1, 2, 3]
    assert any(step.result is None and "round 1" in step.what for step in steps)
    for artifact in files:
        row = found[artifact.name]
        assert row.sha256 == artifact.sha256
        assert (row.device, row.runtime, row.threads) == (device.name, "onnxruntime", 1)
        assert row.runtime_version == session.hello.runtimes["onnxruntime"]
        assert 2 <= len(row.rounds) <= 3 and all(len(samples) >= 4 for samples in row.rounds)
        assert row.overhead_s > 0 and row.load_s > 0 and row.first_run_s > 0
        assert len(row.warmup_s) >= 3
        assert row.settings["sample_s"] == quick.sample_s and row.settings["seed"] == 3
        assert row.fingerprint["kernel"] == session.hello.kernel
        assert "before" in row.conditions and "after" in row.conditions
        assert row.peak_memory_bytes is None or row.peak_memory_bytes > 0
    # A sample lasts as long as it should: R2.
    assert found["relu10"].repeats > found["relu100000"].repeats >= 1
    assert session.measuring_s > 0


def test_peak_memory_does_not_depend_on_who_is_first(session, relu, quick):
    # The empty model of these tensors is loaded in the first process, and is as large as the file's own.
    files = [relu(3_000_000, name) for name in ("one", "other")]
    found = results(measure(session, files, quick, threads=1, interleave=True))
    one, other = (r.measurement.peak_memory_bytes for r in found)
    assert one == pytest.approx(other, rel=0.05) and one > 20_000_000


def test_a_row_survives_its_file_form(session, relu, quick):
    (found,) = results(measure(session, [relu(10)], quick, threads=1))
    data = msgspec.json.encode(found.measurement)
    assert msgspec.json.decode(data, type=type(found.measurement)) == found.measurement


def test_equal_files_are_measured_once(session, relu, quick):
    files = [relu(10), relu(10, "copy"), relu(20)]
    found = results(measure(session, files, quick, threads=1))
    by_name = {r.artifact.name: r.measurement for r in found}
    assert set(by_name) == {"relu10", "copy", "relu20"}
    assert by_name["relu10"] is by_name["copy"]


def test_more_files_than_a_chunk(session, relu, quick, private):
    files = [relu(size) for size in range(10, 15)]
    small = msgspec.structs.replace(quick, chunk=2)
    assert len(results(measure(session, files, small, threads=1))) == 5
    session.missing(["a" * 64])  # what was said before has been heard when this is answered
    assert not list(private.glob("qaedge-*/files/*"))  # a board's disk holds one chunk


def test_interleaved_files_have_as_many_rounds_each(session, relu, quick):
    same = relu(1000)
    found = results(measure(session, [same, relu(10), same], quick, threads=1, interleave=True))
    assert [len(r.measurement.rounds) for r in found] == [quick.interleaved_rounds] * 3
    assert len({id(r.measurement) for r in found}) == 3  # a file against itself: two measurements


def test_what_is_no_model_fails_by_name(session, relu, quick, tmp_path):
    good = relu(10)
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "relu10.onnx").read_bytes()[:-7])
    (tmp_path / "empty.onnx").write_bytes(b"")
    bad = [Artifact.of(tmp_path / f"{name}.onnx") for name in ("text", "cut", "empty")]
    found = {r.artifact.name: r for r in results(measure(session, [*bad, good], quick, threads=1))}
    assert isinstance(found["relu10"], Measured)
    for name in ("text", "cut", "empty"):
        assert isinstance(found[name], Failed)
        assert isinstance(found[name].error, CandidateFailed)
        assert name in found[name].error.message
        assert session.hello.folder not in found[name].error.message
        assert found[name].artifact.sha256 not in found[name].error.message


def test_dynamic_dimensions_are_named_or_given(session, quick, tmp_path):
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, "width"]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "d.onnx")
    artifact = Artifact.of(tmp_path / "d.onnx")
    (found,) = results(measure(session, [artifact], quick, threads=1))
    assert "width" in found.error.message
    sized = msgspec.structs.replace(quick, sizes={"width": 8})
    assert isinstance(results(measure(session, [artifact], sized, threads=1))[0], Measured)


def test_tensors_in_other_files_are_refused(session, quick, tmp_path):
    weight = numpy_helper.from_array(__import__("numpy").ones((64, 64), "float32"), "secret")
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 64]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "secret"], ["y"])], "g", value[:1], value[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    (found,) = results(measure(session, [Artifact.of(tmp_path / "e.onnx")], quick, threads=1))
    assert "'secret' lies in another file" in found.error.message


def test_files_that_went_away_changed_or_are_of_another_kind(session, relu, quick, tmp_path):
    gone, changed, good = relu(10), relu(20), relu(30)
    (tmp_path / "relu10.onnx").unlink()
    (tmp_path / "relu20.onnx").write_bytes(b"other")
    (tmp_path / "m.tflite").write_bytes(b"TFL3")
    other = Artifact.of(tmp_path / "m.tflite")
    found = {r.artifact.name: r for r in results(measure(session, [gone, changed, other, good], quick, threads=1))}
    assert isinstance(found["relu10"].error, MissingFile)
    assert isinstance(found["relu20"].error, InvalidFile)
    assert isinstance(found["m"].error, CandidateFailed)
    assert isinstance(found["relu30"], Measured)


def test_nothing_to_measure(session, quick):
    assert list(measure(session, [], quick, threads=1)) == []


def test_a_caller_may_stop_early_and_go_on(session, relu, quick):
    long = msgspec.structs.replace(quick, rounds_min=50, rounds_max=50)
    steps = measure(session, [relu(10), relu(20)], long, threads=1)
    next(steps)
    steps.close()
    assert len(results(measure(session, [relu(10)], quick, threads=1))) == 1


def test_pinned_and_with_two_threads(device, target, relu, quick):
    pinned = msgspec.structs.replace(device, pin=True)
    with AgentSession(pinned, target) as session:
        (found,) = results(measure(session, [relu(100_000)], quick, threads=2))
    assert 1 <= len(found.measurement.fingerprint["cores"]) <= 2
    assert found.measurement.threads == 2


@pytest.fixture
def neighbors():
    """Processes that take each core for a quarter of the time, and often."""
    code = "import time\nwhile True:\n  end = time.time() + 0.001\n  while time.time() < end: pass\n  time.sleep(0.003)"
    running = []
    for core in os.sched_getaffinity(0):
        process = subprocess.Popen([sys.executable, "-c", code])
        os.sched_setaffinity(process.pid, {core})
        running.append(process)
    yield
    for process in running:
        process.kill()
        process.wait()


def test_what_was_taken_beside_others_is_set_aside(device, target, relu, quick, neighbors):
    pinned = msgspec.structs.replace(device, pin=True)
    patient = msgspec.structs.replace(quick, quiet_share=50.0, quiet_s=5.0, deadline_s=60.0, round_s=0.1)
    for _ in range(5):  # whether they meet a look at the moment is chance; more so where others work here, too
        with AgentSession(pinned, target) as session:
            (found,) = results(measure(session, [relu(300_000)], patient, threads=1))
        row = found.measurement
        assert not (row.aside_s and "disturbed" in row.doubts), "either enough others count, or all"
        if row.aside_s and statistics.median(row.aside_s) > row.median_s:  # another process ran in them, too
            break
    else:
        pytest.fail("in five sessions beside others nothing slow was set aside")
    data = msgspec.json.encode(row)
    assert msgspec.json.decode(data, type=type(row)) == row
    assert len(row.with_load(row).aside_s) == 2 * len(row.aside_s)


def test_instability_is_marked(session, relu, quick):
    strict = msgspec.structs.replace(quick, rounds_within=1e-12, confidence_within=1e-12)
    (found,) = results(measure(session, [relu(1000)], strict, threads=1))
    assert "unstable" in found.measurement.doubts
    assert len(found.measurement.rounds) == strict.rounds_max
    assert math.isfinite(found.measurement.median_s)


def test_a_device_that_is_not_here_needs_a_target():
    with pytest.raises(Unreachable, match="Nobody has said where nowhere-at-all is"):
        open_session(Device(name="nowhere-at-all", description="", connection="ssh"))


def test_open_session_on_this_machine(monkeypatch, private, device, nothing_left):
    monkeypatch.setenv("TMPDIR", str(private))
    monkeypatch.setenv("QAEDGE_LOCKS", str(private))
    with open_session(device) as session:
        assert session.hello.arch and session.hello.cores >= 1
        assert isinstance(session.hello.cpu_flags, frozenset)
    nothing_left()


def test_the_environment_may_say_how_long_quiet_moments_are_waited_for(monkeypatch):
    monkeypatch.delenv("QAEDGE_QUIET_S", raising=False)
    assert Settings().quiet_s == 5.0
    monkeypatch.setenv("QAEDGE_QUIET_S", "0.5")
    assert Settings().quiet_s == 0.5
    for text in ("soon", "-1", "nan", ""):
        monkeypatch.setenv("QAEDGE_QUIET_S", text)
        with pytest.raises(UsageError, match="QAEDGE_QUIET_S"):
            Settings()


def test_temperatures_are_the_devices_unless_set(device):
    assert Settings().on(device).temperature_pause_c == device.temperature_pause_c
    own = Settings(temperature_start_c=40.0, temperature_pause_c=50.0)
    assert own.on(device) == own


@pytest.mark.parametrize(
    "change",
    [
        {"sample_s": 0},
        {"rounds_min": 10},
        {"chunk": -1},
        {"round_samples": 0},
        {"drift_accept": 0.1},
        {"drift_limit": 0.5},
        {"temperature_start_c": 70.0, "temperature_pause_c": 60.0},
        {"energy_s": 0},
    ],
)
def test_settings_that_measure_nothing(change):
    with pytest.raises(UsageError):
        Settings(**change)
