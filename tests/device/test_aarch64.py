"""From nothing to a measured network on a real aarch64 Linux without internet, over real SSH.

`QAEDGE_ARM_TARGET` names a script that starts one: `SCRIPT start` prints `ARM_TARGET_PORT=...`,
`_HOST`, `_USER` and `_KEY`, `SCRIPT stop` ends it. `make test-aarch64` runs this file.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qaedge.artifact import Artifact
from qaedge.device import Device, load_device
from qaedge.hil.agent import AgentSession
from qaedge.hil.connect import target_for
from qaedge.hil.outputs import outputs_on
from qaedge.hil.profile import Measured, Settings, measure, open_session
from qaedge.nn.parity import BOUNDS
from qaedge.tables import LatencyRow, LatencyTable

pytestmark = [pytest.mark.device, pytest.mark.slow, pytest.mark.timeout(2700)]

#: Candidates whose instructions are counted in two runs of the agent.
COUNTED = 6
#: Where a kernel has what the agent reads, and what it then says; a place that is not there says nothing.
PLACES = {
    "/sys/devices/system/cpu/cpufreq/policy0": {"governor", "clock_khz", "clock_limits_khz", "time_in_state_s"},
    "/sys/class/thermal/thermal_zone0": {"temperature_c", "chip_c"},
    "/sys/class/hwmon/hwmon0": {"rails_w", "power_rails", "throttle_counts"},
    "/sys/class/devfreq": {"gpu_clock_khz", "gpu_clock_limits_khz"},
    "/sys/bus/platform/drivers/raspberrypi-firmware": {
        "throttle_bits",
        "throttle_seen",
        "firmware_counts",
        "raspberry",
    },
    "/usr/sbin/nvpmodel": {"power_mode"},
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A running aarch64 machine: host, port, user and key, and the fingerprint of its own."""
    script = os.environ.get("QAEDGE_ARM_TARGET", "")
    if not script:
        pytest.skip("QAEDGE_ARM_TARGET is not set; it names the script that starts an aarch64 machine")
    environment = {**os.environ, "ARM_TARGET_RUN": str(tmp_path_factory.mktemp("arm"))}
    started = time.monotonic()
    made = subprocess.run([script, "start"], env=environment, capture_output=True, text=True, timeout=900)
    assert made.returncode == 0, made.stderr[-2000:]
    print(f"aarch64 machine up after {(time.monotonic() - started) / 60:.1f} minutes", file=sys.__stderr__)
    facts = dict(re.findall(r"^ARM_TARGET_(\w+)=(.*)$", made.stdout, re.MULTILINE))
    try:
        scanned = subprocess.run(
            [script, "ssh", "cat /etc/ssh/ssh_host_ed25519_key.pub"], env=environment, capture_output=True, check=True
        ).stdout
        shown = subprocess.run(["ssh-keygen", "-lf", "-"], input=scanned, capture_output=True, check=True).stdout
        yield {**facts, "FINGERPRINT": shown.decode().split()[1]}
    finally:
        subprocess.run([script, "stop"], env=environment, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished demo: this checkout's, or a fresh one."""
    there = Path(__file__).parents[2] / "demo"
    made = ("result.json", "student.onnx", "teacher.tflite", "student.tflite")
    if all((there / name).exists() for name in made):
        return there
    folder = tmp_path_factory.mktemp("demo") / "demo"
    ran = subprocess.run([sys.executable, "-m", "qaedge", "demo", "--folder", str(folder), "--quiet"], timeout=1500)
    assert ran.returncode == 0
    return folder


@pytest.fixture(scope="module")
def user(target, demo, tmp_path_factory: pytest.TempPathFactory):
    """Run qaedge as a user whose home and folder are new; returns status, out and err."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("work")
    for name in ("qaedge.toml", "space.toml", "teacher.safetensors"):
        (folder / name).write_bytes((demo / name).read_bytes())
    environment = {**os.environ, "HOME": str(home), "COLUMNS": "120"}

    def run(*words: str, status: int = 0, **more) -> str:
        ran = subprocess.run(
            [sys.executable, "-m", "qaedge", *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1800,
            **more,
        )
        assert ran.returncode == status, f"$ qaedge {' '.join(words)}\n{ran.stdout}{ran.stderr}"
        assert "Traceback" not in ran.stderr
        return ran.stdout

    run.folder = folder
    run.home = home
    return run


@pytest.fixture
def here(user, monkeypatch) -> Path:
    """The user's folder and home, for what is called in this process."""
    monkeypatch.chdir(user.folder)
    monkeypatch.setenv("HOME", str(user.home))
    return user.folder


def rows(folder: Path) -> list[LatencyRow]:
    return list(LatencyTable.store(folder / "results" / "arm" / "latency.jsonl").rows())


def test_a_board_is_added_by_its_fingerprint_alone(user, target):
    address = f"{target['USER']}@{target['HOST']}:{target['PORT']}"
    wrong = "SHA256:" + "A" * 43
    user("device", "add", "arm", address, "--identity", target["KEY"], "--fingerprint", wrong, status=1)
    assert not (user.folder / "devices" / "arm.toml").exists()
    user("device", "add", "arm", address, "--identity", target["KEY"], "--fingerprint", target["FINGERPRINT"])
    file = user.folder / "devices" / "arm.toml"
    assert target["FINGERPRINT"] in file.read_text()
    # A guest that computes lags behind the clock on the wall, and its heartbeat with it.
    file.write_text("patience_s = 90.0\n" + file.read_text())


def test_its_conditions_are_those_of_its_kernel_and_what_is_not_there_is_absent(here):
    device = load_device("arm")
    with AgentSession(device, target_for(device), lock=False, runtime=False) as session:
        told = session.conditions()
    facts, readings = told["facts"], told["readings"]
    boot_id, kernel, total, places = on_target(
        device,
        "cat /proc/sys/kernel/random/boot_id; uname -r; grep ^MemTotal: /proc/meminfo;"
        f" for place in {' '.join(PLACES)}; do test -e $place && printf '%s ' $place; done; echo",
    )
    assert facts["arch"] == "aarch64" and facts["bits"] == 64 and facts["kernel"] == kernel
    assert facts["libc"].startswith("glibc ") and facts["cores"] >= 1 and "asimd" in facts["cpu_flags"]
    assert facts["boot_id"] == readings["boot_id"] == boot_id
    assert facts["memory_bytes"] == int(total.split()[1]) * 1024
    assert 0 < readings["memory_available_bytes"] < facts["memory_bytes"]
    assert 0 <= readings["load_1min"] < 100 and readings["disk_free_bytes"] > 0

    for place, names in PLACES.items():
        if place not in places.split():
            assert not names & (readings.keys() | facts.keys()), f"there is no {place}"
    assert "errors" not in readings
    assert "no_power" in facts or "/sys/class/hwmon/hwmon0" in places.split()
    nothing = {name: value for name, value in readings.items() if name != "load_1min" and not value}
    assert not nothing, "what is not known is absent, and never zero"


def test_the_host_sends_the_wheels_of_a_board_without_internet(user):
    user("device", "setup", "arm", "--offline")
    again = user("device", "setup", "arm", "--offline")
    assert "up to date" in again


def test_the_doctor_has_looked(user):
    found = json.loads(user("device", "check", "arm", "--json"))
    text = json.dumps(found)
    assert "aarch64" in text and "onnxruntime" in text


def test_more_than_forty_candidates_are_measured(user):
    user("profile", "--device", "arm")
    found = rows(user.folder)
    assert len({row.key for row in found}) >= 41
    assert all(row.measurement.fingerprint["arch"] == "aarch64" and row.form == "s8s8" for row in found)
    assert (
        "rows are kept, 0 to measure"
        in subprocess.run(
            [sys.executable, "-m", "qaedge", "profile", "--device", "arm"],
            cwd=user.folder,
            env={**os.environ, "HOME": str(user.home)},
            capture_output=True,
            text=True,
            timeout=900,
        ).stderr
    )


def test_the_network_that_the_demo_found_is_measured_whole(user, demo):
    files = [str(demo / name) for name in ("teacher.onnx", "student.onnx")]
    teacher, student = json.loads(user("bench", *files, "--device", "arm", "--json"))
    assert 0 < student["median_s"] < teacher["median_s"]


def test_instructions_repeat_within_half_a_percent_over_two_runs_of_the_agent(here):
    device = load_device("arm")
    files = artifacts(here)[:: max(1, len(artifacts(here)) // COUNTED)][:COUNTED]
    runs = []
    for _ in range(2):
        with open_session(device) as session:
            steps = list(measure(session, files, Settings(), device.threads))
        found = {s.result.artifact.name: s.result.measurement for s in steps if isinstance(s.result, Measured)}
        assert found.keys() == {file.name for file in files}
        runs.append({name: measurement.instructions for name, measurement in found.items()})
    first, second = runs
    assert all(first.values()) and all(second.values()), "the kernel lets a user count"
    off = {name: second[name] / first[name] - 1 for name in first}
    assert max(map(abs, off.values())) <= 0.005, off


def test_outputs_are_the_hosts(here):
    onnxruntime = pytest.importorskip("onnxruntime")
    device = load_device("arm")
    random = np.random.default_rng(0)
    blocks, networks = [], []
    teacher = next(row.measurement.sha256 for row in rows(here) if row.key.startswith("teacher_"))
    with open_session(device) as session:
        for artifact in artifacts(here):
            options = onnxruntime.SessionOptions()
            options.add_session_config_entry("session.x64quantprecision", "1")  # or x86 without VNNI saturates
            here_ = onnxruntime.InferenceSession(artifact.path, options, providers=["CPUExecutionProvider"])
            (given,) = here_.get_inputs()
            if given.type != "tensor(int8)":  # the whole teacher takes an image
                value = random.standard_normal(given.shape).astype(np.float32)
            else:
                value = random.integers(-128, 128, given.shape).astype(np.int8)
            wanted = here_.run(None, {given.name: value})[0]
            (found,) = outputs_on(session, artifact, {given.name: value}, "onnxruntime").values()
            assert found.dtype == wanted.dtype and found.shape == wanted.shape
            if found.dtype == np.int8:
                blocks.append(float((np.abs(found.astype(int) - wanted.astype(int)) <= 1).mean()))
            else:
                # A tie that a layer rounds otherwise grows through fifty more: classes and the mean, not each value.
                same = float((found.argmax(1) == wanted.argmax(1)).mean())
                steps_off = float(np.sqrt(np.square(found - wanted).mean())) / logit_step(artifact)
                networks.append((same, steps_off, artifact.sha256 == teacher))
    assert len(blocks) >= 40 and min(blocks) >= BOUNDS["onnx"].block
    assert len(networks) > 1 and any(whole for *_, whole in networks), "the teacher and the probes"
    # The weights of probes are arbitrary, so a tie may grow without bound in one of them: of these, half and more.
    likes = [same >= BOUNDS["onnx"].pixels and off <= 1 for same, off, _ in networks]
    assert all(like for like, (*_, whole) in zip(likes, networks, strict=True) if whole), networks
    assert 2 * sum(likes) > len(likes), networks


def on_target(device: Device, command: str) -> list[str]:
    """Return the lines that a command prints there."""
    reached = target_for(device)
    try:
        process = reached.run(["sh", "-c", command])
        process.close_input()
        said = b"".join(iter(lambda: process.read(60.0), b""))
    finally:
        reached.close()
    return said.decode().splitlines()


def logit_step(artifact: Artifact) -> float:
    """One quantization step of a network's classes: the last grid before the float end of its file."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(artifact.path).graph
    last = [node for node in graph.node if node.op_type == "DequantizeLinear"][-1]
    return float(next(onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name == last.input[1]))


def test_tflite_files_put_out_there_what_they_put_out_here(here, demo):
    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    from qaedge.nn.tflite_session import TfliteSession

    device = load_device("arm")
    random = np.random.default_rng(1)
    with open_session(device) as session:
        assert "tflite" in session.hello.runtimes, session.hello.runtime_failures
        for path in (demo / "teacher.tflite", demo / "student.tflite"):
            network = TfliteSession(path)
            x = random.standard_normal((1, 3, *network.size)).astype(np.float32)
            given = network.feed(x)
            (found,) = outputs_on(session, Artifact.of(path), {network.name: given}, "tflite").values()
            wanted = network.run_raw(given)
            assert found.dtype == wanted.dtype == np.int8 and found.shape == wanted.shape
            assert (np.abs(found.astype(int) - wanted.astype(int)) <= 1).mean() >= 0.995
            best = np.sort(wanted.astype(int), -1)
            decided = best[..., -1] - best[..., -2] > 2  # where two are as good as even, one rounding is another class
            assert decided.any()
            assert (found.argmax(-1) == wanted.argmax(-1))[decided].mean() >= 0.99


def artifacts(folder: Path) -> list[Artifact]:
    """The files that were measured, as `profile` keeps them."""
    by_hash = {row.measurement.sha256: row.key for row in rows(folder)}
    found = [Artifact.of(path) for path in sorted((folder / "results" / "artifacts").rglob("*.onnx"))]
    return [artifact for artifact in found if artifact.sha256 in by_hash]
