"""TFLite files through the real agent and the real runtime: third parties' and our own, alone and beside ONNX."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fakes import FAKE

from qaedge.artifact import Artifact
from qaedge.errors import AgentFailed, CandidateFailed
from qaedge.hil.agent import AgentSession
from qaedge.hil.bootstrap import profilers_folder
from qaedge.hil.fake import Board, FakeTarget, Script
from qaedge.hil.outputs import outputs_on
from qaedge.hil.profile import Failed, Measured, measure
from qaedge.hil.runtimes import options_for

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (the extra tflite)")


@pytest.fixture
def device(device):
    return msgspec.structs.replace(device, runtimes=("onnxruntime", "tflite"))


@pytest.fixture
def same(tmp_path, monkeypatch):
    """Make a TFLite file that gives back what goes in: same(size, dtype)."""
    monkeypatch.syspath_prepend(str(profilers_folder()))
    import tflite_files

    def make(size: int, dtype: str = "float32") -> Artifact:
        path = tmp_path / f"same{size}.tflite"
        path.write_bytes(tflite_files.identity([("x", dtype, (1, size))]))
        return Artifact.of(path)

    yield make
    for name in ("tflite_files", "onnx_files"):
        sys.modules.pop(name, None)


@pytest.fixture
def model(qaedge_data):
    """A third party's file: model(name)."""

    def make(name: str) -> Artifact:
        path = qaedge_data / "models" / f"{name}.tflite"
        if not path.exists():
            pytest.skip(f"QAEDGE_DATA holds no {path.name}")
        return Artifact.of(path)

    return make


def results(steps):
    return {step.result.artifact.name: step.result for step in steps if step.result is not None}


def test_a_row_tells_the_package_and_the_delegate(device, target, quick, same, nothing_left):
    with AgentSession(device, target) as session:
        assert session.hello.runtimes["tflite"].startswith("ai-edge-litert ")
        found = results(measure(session, [same(4), same(8)], quick, 1))
    rows = [found[name].measurement for name in ("same4", "same8")]
    for row in rows:
        assert (row.runtime, row.fingerprint["runtime"]) == ("tflite", "tflite")
        assert row.runtime_version.startswith("ai-edge-litert ")
        assert row.conditions["delegate"] == "XNNPACK, 1 of 1 operators"
        assert row.reference_s and row.overhead_s > 0 and "xnnpack" not in row.fingerprint
    nothing_left()


def test_without_xnnpack_a_row_is_of_another_state(device, target, quick, same):
    alone = msgspec.structs.replace(device, tflite_xnnpack=False)
    assert options_for(alone, "tflite") == {"xnnpack": False} and options_for(alone, "onnxruntime") == {}
    with AgentSession(alone, target) as session:
        (found,) = results(measure(session, [same(4)], quick, 1)).values()
    row = found.measurement
    assert row.conditions["delegate"] == "none" and row.fingerprint["xnnpack"] is False


@pytest.mark.parametrize("order", [1, -1])
def test_files_of_both_formats_take_turns_each_with_its_runtime(order, device, target, quick, same, relu, nothing_left):
    files = [relu(4), same(4), relu(8), same(8)][::order]
    with AgentSession(device, target) as session:
        found = results(measure(session, files, quick, 1, interleave=True))
    assert all(isinstance(result, Measured) for result in found.values()), found
    rows = {name: result.measurement for name, result in found.items()}
    for name, row in rows.items():
        own = name.startswith("relu")
        assert row.runtime == ("onnxruntime" if own else "tflite")
        assert row.runtime_version == session.hello.runtimes[row.runtime]
        assert ("delegate" in row.conditions) is not own
        # The one that the device prefers has the reference model.
        assert (row.reference_s is not None) is own
        assert row.conditions.get("reference_runtime") == (None if own else "onnxruntime")
        assert len(row.rounds) == quick.interleaved_rounds
    nothing_left()


def test_options_are_each_runtimes_own(device, target, quick, same, relu):
    both = msgspec.structs.replace(device, tflite_xnnpack=False, providers=("CPUExecutionProvider",))
    with AgentSession(both, target) as session:
        found = results(measure(session, [relu(4), same(4)], quick, 1))
    ours, its = found["relu4"].measurement.fingerprint, found["same4"].measurement.fingerprint
    assert ours["providers"] == ["CPUExecutionProvider"] and "xnnpack" not in ours
    assert its["xnnpack"] is False and "providers" not in its


def test_given_inputs_are_what_runs_and_stand_in_the_row(device, target, quick, same, relu):
    inputs = {"x": np.ones((1, 4), np.float32), "of another file": np.ones(1)}
    with AgentSession(device, target) as session:
        found = results(measure(session, [relu(4), same(4)], quick, 1, interleave=True, inputs=inputs))
        (alone,) = results(measure(session, [same(4)], quick, 1, inputs={"": inputs["x"]})).values()
        assert session.missing([a.sha256 for a in (relu(4), same(4))]) == {relu(4).sha256, same(4).sha256}
    for result in (*found.values(), alone):
        assert isinstance(result, Measured), result
    assert set(found["relu4"].measurement.settings["inputs"]) == {"x", "of another file"}


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"y": np.ones((1, 4), np.float32)}, "No values for the input 'x'. The file's inputs: x; given: y"),
        ({"x": np.ones((1, 4))}, "The input 'x' takes float32 [1, 4]; given: float64 [1, 4]"),
        ({"x": np.ones((4,), np.float32)}, "The input 'x' takes float32 [1, 4]; given: float32 [4]"),
    ],
    ids=["name", "type", "shape"],
)
def test_given_inputs_that_do_not_fit_are_told_the_same_by_both(inputs, says, device, target, quick, same, relu):
    with AgentSession(device, target) as session:
        found = results(measure(session, [relu(4), same(4)], quick, 1, interleave=True, inputs=inputs))
    for result in found.values():
        assert isinstance(result, Failed) and says in result.error.message


@pytest.mark.data
def test_a_file_whose_only_operator_fails_is_told_by_its_name_and_the_agent_lives(device, target, quick, same, model):
    with AgentSession(device, target) as session:
        found = results(measure(session, [model("model_invoking_error"), same(4)], quick, 1))
        with pytest.raises(CandidateFailed, match="fake-op-double"):
            outputs_on(session, model("model_invoking_error"), {"": np.zeros((1, 3), np.uint8)}, "tflite")
        assert set(results(measure(session, [same(8)], quick, 1))) == {"same8"}
    assert isinstance(found["same4"], Measured)
    failed = found["model_invoking_error"]
    assert isinstance(failed, Failed) and failed.error.message.count("fake-op-double") == 1


@pytest.mark.data
@pytest.mark.parametrize("kept", [0.001, 0.3, 0.6, 0.9])
def test_a_file_that_was_cut_off_never_gets_to_the_runtime(kept, device, target, quick, same, model, tmp_path):
    whole = Path(model("mobilenet_v1_0.25_128_quant").path).read_bytes()
    path = tmp_path / "cut.tflite"
    path.write_bytes(whole[: int(kept * len(whole))])
    with AgentSession(device, target) as session:
        found = results(measure(session, [Artifact.of(path), same(4)], quick, 1))
        with pytest.raises(CandidateFailed, match="cut off or damaged"):
            outputs_on(session, Artifact.of(path), {}, "tflite")
    assert isinstance(found["same4"], Measured)
    assert isinstance(found["cut"], Failed) and "cut: it is cut off or damaged" in found["cut"].error.message


def test_a_text_is_told_as_no_tflite_file(device, target, quick, tmp_path):
    (tmp_path / "text.tflite").write_text("To whom it may concern")
    with AgentSession(device, target) as session:
        (found,) = results(measure(session, [Artifact.of(tmp_path / "text.tflite")], quick, 1)).values()
    assert "text: it is no TFLite file: it begins with b'To whom it m'" in found.error.message


@pytest.mark.data
def test_third_parties_files_are_measured(device, target, quick, model, nothing_left):
    names = ["mobilenet_v1_0.25_128_quant", "tf2_mobilenet_v2_1.0_224_ptq"]
    with AgentSession(device, target) as session:
        found = results(measure(session, [model(name) for name in names], quick, 1, interleave=True))
    small, large = (found[name].measurement for name in names)
    assert 0 < small.median_s < large.median_s
    nothing_left()


@pytest.mark.data
@pytest.mark.parametrize("xnnpack", [True, False])
def test_a_published_mask_comes_out(xnnpack, device, target, model, qaedge_data):
    image = pytest.importorskip("PIL.Image")
    # uint8, scale 1/128, zero point 128: what [-1, 1] means are the pixels as they are.
    picture = np.asarray(image.open(qaedge_data / "models" / "bird_segmentation.bmp").convert("RGB"))
    mask = np.asarray(image.open(qaedge_data / "models" / "bird_segmentation_mask.bmp"))
    assert picture.shape == (513, 513, 3)
    described = msgspec.structs.replace(device, tflite_xnnpack=xnnpack)
    with AgentSession(described, target) as session:
        network = model("deeplabv3_mnv2_pascal_quant")
        (found,) = outputs_on(session, network, {"MobilenetV2/MobilenetV2/input": picture[None]}, "tflite").values()
    assert found.dtype == np.int64 and found.shape == (1, 513, 513)
    assert (found[0] == mask).mean() >= 0.97
    assert {0, 3} <= set(np.unique(found)), "background, and a bird"


def test_a_fake_board_lets_both_formats_take_turns_too(same, relu, quick):
    described = msgspec.structs.replace(FAKE, runtimes=("onnxruntime", "tflite"))
    with AgentSession(described, FakeTarget(Board("fake", Script()), described.runtimes)) as session:
        found = results(measure(session, [relu(4), same(4)], quick, 1, interleave=True))
        order = {"runtime": "onnxruntime", "energy": False, "entries": [{"id": 0, "sha256": "", "runtime": "abacus"}]}
        with pytest.raises(AgentFailed, match="KeyError: 'abacus'"):
            list(session.measure(order))
    assert [found[name].measurement.runtime for name in ("relu4", "same4")] == ["onnxruntime", "tflite"]


def test_where_the_package_is_missing_onnx_files_are_still_measured(device, target, quick, same, relu, tmp_path):
    folder = tmp_path / "profilers"
    folder.mkdir()
    for path in profilers_folder().glob("*.py"):
        (folder / path.name).write_text(path.read_text())
    text = (folder / "runtime_tflite.py").read_text()
    missing = text.replace("ai_edge_litert", "ai_edge_absent").replace("tflite_runtime", "tflite_absent")
    (folder / "runtime_tflite.py").write_text(missing)
    with AgentSession(device, target, folder=folder) as session:
        assert "pip install ai-edge-litert" in session.hello.runtime_failures["tflite"]
        found = results(measure(session, [relu(4), same(4)], quick, 1, interleave=True))
    assert isinstance(found["relu4"], Measured)
    error = found["same4"].error
    assert isinstance(error, AgentFailed) and "needs tflite on" in error.message
    assert "pip install ai-edge-litert" in error.hint
