"""`--runtime`, and rows of a table that another runtime measured."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest
from tiny_files import write_convolutions

from qaedge.artifact import Artifact
from qaedge.cli import plan
from qaedge.device import load_device
from qaedge.hil.profile import Measured, Settings, measure, open_session
from qaedge.tables import LatencyRow


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_convolutions(tmp_path / "light.onnx", 1)
    return tmp_path / "light.onnx"


@pytest.mark.parametrize("verb", [("bench", "light.onnx"), ("profile",)])
def test_an_unknown_runtime_is_told_with_the_known(verb, file, scenes, qaedge):
    ran = qaedge(*verb, "--runtime", "abacus")
    assert ran.status == 2
    assert (
        "No runtime 'abacus'." in ran.err
        and "Known: onnxruntime, tensorrt, tflite; or a format: onnx, tflite, both." in ran.err
    )


def test_one_that_is_not_there_is_told_with_the_way_to_it(file, qaedge):
    ran = qaedge("bench", "light.onnx", "--runtime", "tensorrt")
    assert ran.status == 1
    said = " ".join(ran.err.split())
    assert "No runtime on local" in said and "sudo apt install python3-libnvinfer" in said


def test_one_that_is_there_measures(file, qaedge):
    assert qaedge("bench", "light.onnx", "--runtime", "onnxruntime", "--quiet").status == 0


def test_rows_of_another_runtime_or_provider_are_of_another_state(file):
    device = load_device("local")
    quick = Settings(warmup_s=0.01, warmup_limit_s=0.02, rounds_min=1, rounds_max=1, round_s=0.005, reference=False)
    with open_session(device, wait_s=240.0) as session:
        (found,) = [
            step.result for step in measure(session, [Artifact.of(file)], quick, 1) if isinstance(step.result, Measured)
        ]
        fleet = SimpleNamespace(sessions={"local": session})
        row = LatencyRow("key", "float", 1, 1, found.measurement)

        def changes(row, device=device):
            session.device = device
            return [str(change) for change in plan.changes(row, fleet, [device])]

        assert changes(row) == []
        other = msgspec.structs.replace(
            found.measurement, runtime="tensorrt", fingerprint={**found.measurement.fingerprint, "runtime": "tensorrt"}
        )
        assert "runtime is 'tensorrt', and not 'onnxruntime'" in changes(
            msgspec.structs.replace(row, measurement=other)
        )
        providers = ("CPUExecutionProvider",)
        assert changes(row, msgspec.structs.replace(device, providers=providers)) == [
            "providers is nothing, and not ['CPUExecutionProvider']"
        ]
