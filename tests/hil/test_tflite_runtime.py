"""tflite-runtime 2.14, what LiteRT was called before: the agent under it, with its last version, from its own package.

Boards with Python 3.8 have no other. It needs numpy below 2, so it gets an environment of its own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from qaedge.artifact import Artifact
from qaedge.hil.agent import AgentSession
from qaedge.hil.outputs import outputs_on
from qaedge.hil.profile import Failed, Measured, measure
from qaedge.hil.target import LocalTarget

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (the extra tflite)")
pytest.importorskip("torch", reason="torch is not installed (the extra nn)")

PACKAGES = ("tflite-runtime==2.14.0", "numpy<2")
#: What it has wheels for, the newest first.
PYTHONS = ((3, 11), (3, 10), (3, 9), (3, 8))
#: block -> its input. Between them: padding, depthwise, additions, a global mean, a resize, and joined tensors.
BLOCKS = {
    "conv_k3_s2_c6+ir_k5_s1_e1_c8+ir_k5_s1_e2_c8": (3, 23, 31),
    "ir_k3_s1_e6_c8": (8, 12, 16),
    "poolcontext_k3_c12_d2+logits_c5": (16, 6, 9),
}
#: Its kernels for integers are not XNNPACK's: a value between two steps may be rounded otherwise.
WITHIN_ONE_STEP = 0.995

pytestmark = pytest.mark.slow


def _python() -> str | None:
    for major, minor in PYTHONS:
        if sys.version_info[:2] == (major, minor):
            return sys.executable
        own = sorted((Path.home() / ".pyenv/versions").glob(f"{major}.{minor}.*/bin/python"))
        found = [str(path) for path in own] or [shutil.which(f"python{major}.{minor}")]
        if found[-1]:
            return found[-1]
    return None


@pytest.fixture(scope="session")
def older(tmp_path_factory) -> str:
    """A Python that has tflite-runtime."""
    python = _python()
    if python is None:
        pytest.skip("no Python from 3.8 to 3.11 is here, and tflite-runtime has wheels for no other")
    folder = tmp_path_factory.mktemp("tflite-runtime")
    own = str(folder / "bin" / "python")
    for command in (
        [python, "-m", "venv", str(folder)],
        [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines() or ["nothing was said"]
            pytest.skip(f"{' '.join(PACKAGES)} cannot be installed here: {said[-1]}")
    return own


@pytest.fixture
def device(device):
    return msgspec.structs.replace(device, runtimes=("tflite",))


@pytest.fixture
def old_target(older, private) -> LocalTarget:
    return LocalTarget(older, {"TMPDIR": str(private), "QAEDGE_LOCKS": str(private)})


def written(folder: Path, bits: int, blocks=tuple(BLOCKS)) -> list[Artifact]:
    """Our own files of these blocks, their weights of so many bits; 0: in float."""
    import torch

    from qaedge.candidate import BlockSpec, QuantScheme
    from qaedge.nn.blocks import build_block
    from qaedge.nn.export_tflite import write_tflite
    from qaedge.nn.quantize import calibrate
    from qaedge.nn.tracing import trace

    found = []
    for number, text in enumerate(blocks):
        torch.manual_seed(number)
        shape = BLOCKS[text]
        graph = trace(build_block(BlockSpec.parse(text), shape[0]).eval(), shape)
        given = [torch.randn(1, *shape) for _ in range(4)]
        network = calibrate(graph, given, QuantScheme(bits, 8), float_tail=False).freeze() if bits else graph
        found.append(write_tflite(network, folder / f"block{number}_{bits or 'float'}.tflite"))
    return found


def inputs_of(artifact: Artifact) -> dict[str, np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    (given,) = Interpreter(model_path=str(artifact.path)).get_input_details()
    draw, kind = np.random.default_rng(0), np.dtype(given["dtype"])
    if kind.kind == "f":
        return {"": draw.standard_normal(given["shape"]).astype(kind)}
    limits = np.iinfo(kind)
    return {"": draw.integers(limits.min, limits.max, given["shape"], kind, endpoint=True)}


def both(artifact: Artifact, *sessions: AgentSession) -> list[np.ndarray]:
    """The only output of a file in each session, for the same inputs."""
    given = inputs_of(artifact)
    return [next(iter(outputs_on(session, artifact, given, "tflite").values())) for session in sessions]


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """The share of numbers that are at most a step apart."""
    return float((np.abs(one.astype(int) - other.astype(int)) <= 1).mean())


def results(steps):
    return {step.result.artifact.name: step.result for step in steps if step.result is not None}


@pytest.mark.parametrize("xnnpack", [True, False], ids=["xnnpack", "alone"])
def test_our_files_compute_there_what_they_compute_in_litert(
    xnnpack, device, target, old_target, quick, tmp_path, nothing_left
):
    floats, integers = written(tmp_path, 0), written(tmp_path, 8)
    described = msgspec.structs.replace(device, tflite_xnnpack=xnnpack)
    with AgentSession(described, old_target) as old:
        assert old.hello.runtimes["tflite"] == "tflite-runtime 2.14.0"
        found = results(measure(old, [*floats, *integers], quick, 1))
        assert all(isinstance(result, Measured) for result in found.values()), found
        there = {artifact.name: both(artifact, old)[0] for artifact in (*floats, *integers)}
    with AgentSession(described, target) as new:
        assert new.hello.runtimes["tflite"].startswith("ai-edge-litert ")
        here = {artifact.name: both(artifact, new)[0] for artifact in (*floats, *integers)}
    for artifact in floats:
        np.testing.assert_allclose(there[artifact.name], here[artifact.name], rtol=1e-4, atol=1e-4)
        row = found[artifact.name].measurement
        assert row.runtime_version == "tflite-runtime 2.14.0" and row.median_s > 0 and row.reference_s
        assert row.conditions["delegate"].startswith("XNNPACK, " if xnnpack else "none")
    for artifact in integers:
        assert alike(there[artifact.name], here[artifact.name]) >= WITHIN_ONE_STEP, artifact.name
        assert found[artifact.name].measurement.conditions["delegate"] == "none", "it runs integers itself"
    nothing_left()


@pytest.mark.data
@pytest.mark.parametrize("name", ["mobilenet_v1_0.25_128_quant", "tf2_mobilenet_v2_1.0_224_ptq"])
def test_a_third_partys_file_is_measured_and_gives_the_same_class(
    name, device, target, old_target, quick, qaedge_data, nothing_left
):
    path = qaedge_data / "models" / f"{name}.tflite"
    if not path.exists():
        pytest.skip(f"QAEDGE_DATA holds no models/{name}.tflite")
    artifact = Artifact.of(path)
    with AgentSession(device, old_target) as old:
        (found,) = results(measure(old, [artifact], quick, 1)).values()
        assert isinstance(found, Measured), found
        (there,) = both(artifact, old)
    with AgentSession(device, target) as new:
        (here,) = both(artifact, new)
    assert alike(there, here) >= WITHIN_ONE_STEP
    nothing_left()


def test_weights_of_few_bits_are_one_clear_error_and_the_agent_lives(device, old_target, quick, tmp_path, nothing_left):
    (good,), *few = (written(tmp_path, bits, list(BLOCKS)[1:2]) for bits in (8, 4, 2))
    with AgentSession(device, old_target) as old:
        found = results(measure(old, [good, *(artifact for (artifact,) in few)], quick, 1))
        again = results(measure(old, [good], quick, 1))
    assert isinstance(found[good.name], Measured) and isinstance(again[good.name], Measured)
    for (artifact,), kind in zip(few, ("INT4", "INT2"), strict=True):
        failed = found[artifact.name]
        assert isinstance(failed, Failed)
        text = failed.error.message
        assert f"The operator FULLY_CONNECTED has weights of the type {kind}" in text
        assert "tflite-runtime 2.14.0 does not know: use more bits, or a newer runtime" in text
        assert "times" not in text and "kTfLite" not in text and "/tensorflow/" not in text
    nothing_left()
