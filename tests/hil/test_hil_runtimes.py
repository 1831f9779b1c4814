"""Which runtime measures a file; and TensorRT through a real agent, with stand-ins for its package and for CUDA."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from qaedge.device import with_runtime
from qaedge.errors import AgentFailed, CandidateFailed, UsageError
from qaedge.hil.agent import AgentSession
from qaedge.hil.bootstrap import profilers_folder
from qaedge.hil.profile import Failed, Measured, measure
from qaedge.hil.runtimes import first_runtime, options_for, runtime_for
from qaedge.hil.target import LocalTarget
from qaedge.runtime import RUNTIMES

STANDINS = Path(__file__).parents[1] / "profilers"
BOTH = ("tensorrt", "onnxruntime")


def described(device, **changes):
    return msgspec.structs.replace(device, **changes)


@pytest.fixture
def jetson(tmp_path):
    """The agent's files, on a board that has TensorRT and a GPU, it seems."""
    folder = tmp_path / "profilers"
    shutil.copytree(profilers_folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(STANDINS / "tensorrt_standin.py", folder / "tensorrt.py")
    shutil.copy(STANDINS / "cuda_standin.py", folder / "cuda_standin.py")
    with (folder / "cudart.py").open("a") as file:
        file.write("\n\ndef _load() -> Any:\n    import cuda_standin\n\n    return cuda_standin.LIBRARY\n")
    return folder


@pytest.fixture
def board(tmp_path, private):
    return LocalTarget(
        environment={"TMPDIR": str(private), "QAEDGE_LOCKS": str(private), "HOME": str(tmp_path / "home")}
    )


def results(steps):
    return [step.result for step in steps if step.result is not None]


def test_tensorrt_measures_by_the_gpus_own_clock(device, board, jetson, quick, relu, tmp_path, nothing_left):
    (tmp_path / "home").mkdir()
    with AgentSession(described(device, runtimes=BOTH), board, folder=jetson) as session:
        assert session.hello.runtimes["tensorrt"] == "8.6.2" and "onnxruntime" in session.hello.runtimes
        found = results(measure(session, [relu(4), relu(8)], quick, 1))
    rows = [result.measurement for result in found if isinstance(result, Measured)]
    assert len(rows) == 2, found
    for row in rows:
        assert (row.runtime, row.runtime_version) == ("tensorrt", "8.6.2")
        assert row.fingerprint["runtime"] == "tensorrt"
        assert row.samples_s == pytest.approx([2e-3] * len(row.samples_s))
        assert row.overhead_s == pytest.approx(4e-6)
        assert sum(row.warmup_s) >= 0.5, "a GPU's clocks rise slowly"
        assert row.reference_s == pytest.approx(2e-3)
    engines = tmp_path / "home/.cache/qaedge/engines"
    assert len(list(engines.iterdir())) == 3, "two files and the reference model"
    nothing_left()


def test_a_file_that_tensorrt_refuses_is_told_in_its_words(device, board, jetson, quick, tmp_path, relu):
    from onnx import TensorProto, helper, save_model

    from qaedge.artifact import Artifact

    (tmp_path / "home").mkdir()
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"])], "g", value[:1], value[1:])
    save_model(helper.make_model(graph, ir_version=8), tmp_path / "bad.onnx")
    with AgentSession(described(device, runtimes=BOTH), board, folder=jetson) as session:
        found = results(measure(session, [Artifact.of(tmp_path / "bad.onnx"), relu(4)], quick, 1))
    failed = [result for result in found if isinstance(result, Failed)]
    assert len(found) == 2 and len(failed) == 1
    assert "Could not find any implementation for node Softmax_0" in failed[0].error.message


def test_a_missing_runtime_is_no_error_where_another_is_there(device, target, quick, relu):
    with AgentSession(described(device, runtimes=BOTH), target) as session:
        assert "python3-libnvinfer" in session.hello.runtime_failures["tensorrt"]
        (found,) = results(measure(session, [relu(4)], quick, 1))
    assert found.measurement.runtime == "onnxruntime"
    assert "providers" not in found.measurement.fingerprint


def test_where_none_is_there_each_says_why_and_how_to_get_it(device, target):
    with pytest.raises(AgentFailed, match=r"No runtime on .* tensorrt: ImportError: .*system-site-packages") as caught:
        AgentSession(described(device, runtimes=("tensorrt",)), target)
    assert caught.value.hint == "TensorRT comes with JetPack: sudo apt install python3-libnvinfer"


def test_the_first_that_is_there_and_fits_is_used(device, target, relu):
    with AgentSession(described(device, runtimes=("abacus", *BOTH)), target) as session:
        assert runtime_for(session, relu(4)) == first_runtime(session, "onnx") == "onnxruntime"
        assert first_runtime(session, "abacus") is None


def test_a_file_that_none_fits_is_told_with_both(device, target, relu, monkeypatch):
    with AgentSession(device, target) as session:
        only = msgspec.structs.replace(RUNTIMES["onnxruntime"], formats=())
        monkeypatch.setitem(RUNTIMES, "onnxruntime", only)
        with pytest.raises(CandidateFailed, match=r"measured by tensorrt, and here .* measures with onnxruntime"):
            runtime_for(session, relu(4))
        with pytest.raises(CandidateFailed, match=r"measured by tflite, and here .* measures with onnxruntime"):
            runtime_for(session, msgspec.structs.replace(relu(4), format="tflite"))
        with pytest.raises(CandidateFailed, match="no runtime measures 'tfl' files") as caught:
            runtime_for(session, msgspec.structs.replace(relu(4), format="tfl"))
        assert caught.value.hint == "Known: onnx, tflite."


def test_a_runtime_that_fits_and_is_not_there_is_told_with_its_reason(device, target, relu, monkeypatch):
    with AgentSession(described(device, runtimes=BOTH), target) as session:
        only = msgspec.structs.replace(RUNTIMES["onnxruntime"], formats=())
        monkeypatch.setitem(RUNTIMES, "onnxruntime", only)
        with pytest.raises(AgentFailed, match=r"needs tensorrt on .*: .*python3-libnvinfer"):
            runtime_for(session, relu(4))


def test_a_runtime_can_be_asked_for(device):
    two = described(device, runtimes=BOTH)
    assert with_runtime(two, "onnxruntime").runtimes == ("onnxruntime",)
    assert with_runtime(two, "") is two
    assert with_runtime(device, "tflite").runtimes == ("tflite",)  # whether or not the description names it
    with pytest.raises(UsageError, match=r"No runtime 'abacus'\.") as caught:
        with_runtime(two, "abacus")
    assert caught.value.hint == "Known: onnxruntime, tensorrt, tflite; or a format: onnx, tflite, both."


@pytest.mark.parametrize(
    ("word", "runtimes", "chosen"),
    [
        ("onnx", ("tflite", "tensorrt", "onnxruntime"), ("tensorrt", "onnxruntime")),
        ("onnx", ("tflite",), ("onnxruntime", "tensorrt")),
        ("both", ("tflite", "tensorrt"), ("tensorrt", "tflite")),
        ("both", ("onnxruntime",), ("onnxruntime", "tflite")),
    ],
)
def test_a_format_stands_for_what_runs_it_there(word, runtimes, chosen, device):
    assert with_runtime(described(device, runtimes=runtimes), word).runtimes == chosen


def test_half_precision_can_be_forbidden_in_the_description(device):
    assert options_for(device, "tensorrt") == {}
    without = msgspec.structs.replace(device, tensorrt_fp16=False)
    assert options_for(without, "tensorrt") == {"fp16": False} and options_for(without, "onnxruntime") == {}


def test_providers_are_onnxruntimes_and_stored_with_the_row(device, target, quick, relu):
    named = described(device, providers=("CPUExecutionProvider",))
    assert options_for(named, "tensorrt") == options_for(device, "onnxruntime") == {}
    with AgentSession(named, target) as session:
        (found,) = results(measure(session, [relu(4)], quick, 1))
    assert found.measurement.fingerprint["providers"] == ["CPUExecutionProvider"]


def test_a_provider_that_is_not_there_is_an_error(device, target, quick, relu):
    with AgentSession(described(device, providers=("CUDAExecutionProvider",)), target) as session:
        (found,) = results(measure(session, [relu(4)], quick, 1))
    assert isinstance(found, Failed) and "no ['CUDAExecutionProvider']" in found.error.message
