"""How much of profiling's wall time is measuring when the board is behind SSH, and what the naive design costs.

100 small networks, all different, through an sshd on this machine: at once, with 20 ms of delay each
way, and, beside it, one connection, one upload, one Python and one `rm` for each of a few candidates.
Adds `ssh`, `ssh_delay_20ms` and `naive` to result.json. Wall time starts before the connection does
and ends when the agent is gone; measuring time is what was spent inside warm-ups and rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import paramiko
from loopback import delayed, loopback_device
from profile_local import export

from qaedge import __version__
from qaedge.artifact import Artifact
from qaedge.device import Device
from qaedge.hil import frames
from qaedge.hil.connect import target_for
from qaedge.hil.profile import Failed, Measured, Settings, measure, open_session

HERE = Path(__file__).parent
DELAY_S = 0.02
#: About 300 ms of measuring for each candidate: a warm-up of at most 150, three rounds of 50.
SETTINGS = Settings(warmup_limit_s=0.15, rounds_min=3, rounds_max=3)
#: What the naive design runs for each candidate: 100 ms of warm-up, then 200 ms of samples.
NAIVE = """
import json, sys, time
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
tensor = session.get_inputs()[0]
feed = {tensor.name: numpy.zeros(tensor.shape, numpy.float32)}
start = time.perf_counter()
times = []
while time.perf_counter() < start + 0.3:
    before = time.perf_counter()
    session.run(None, feed)
    times.append(time.perf_counter() - before)
print(json.dumps({"measuring_s": time.perf_counter() - start, "median_s": sorted(times)[len(times) // 2]}))
"""


def one_agent(device: Device, artifacts: Sequence[Artifact]) -> tuple[dict[str, Any], frames.Hello]:
    """Profile as `qaedge profile` does."""
    load_1min = round(os.getloadavg()[0], 2)
    start = time.perf_counter()
    count = 0
    with open_session(device, wait_s=600.0) as session:
        for step in measure(session, artifacts, SETTINGS, threads=1):
            if isinstance(step.result, Failed):
                raise step.result.error
            if isinstance(step.result, Measured):
                count += 1
                print(f"{step.done}/{step.total}", end="\r", file=sys.stderr)
        measuring_s, hello = session.measuring_s, session.hello
    return figures(count, time.perf_counter() - start, measuring_s, load_1min), hello


def naive(device: Device, artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """Connect, put, start a Python that loads and measures, remove; for each candidate anew."""
    load_1min = round(os.getloadavg()[0], 2)
    start = time.perf_counter()
    measuring_s = 0.0
    for number, artifact in enumerate(artifacts):
        target = target_for(device)
        there = f"/tmp/qaedge-naive-{os.getpid()}-{number}.onnx"
        target.put(Path(artifact.path), there)
        process = target.run([device.python, "-c", NAIVE, there])
        said = b""
        while data := process.read(60.0):
            said += data
        if process.wait(10.0) != 0:
            sys.exit(f"error: {process.read_error().decode()}")
        measuring_s += json.loads(said)["measuring_s"]
        target.run(["rm", there]).wait(10.0)
        target.close()
        print(f"{number + 1}/{len(artifacts)}", end="\r", file=sys.stderr)
    return figures(len(artifacts), time.perf_counter() - start, measuring_s, load_1min)


def figures(count: int, wall_s: float, measuring_s: float, load_1min: float) -> dict[str, Any]:
    """Return what is written down of one run."""
    return {
        "candidates": count,
        "wall_over_measuring": round(wall_s / measuring_s, 3),
        "wall_s": round(wall_s, 2),
        "measuring_s": round(measuring_s, 2),
        "per_candidate_ms": {"wall": round(wall_s / count * 1e3, 1), "measuring": round(measuring_s / count * 1e3, 1)},
        "load_1min_before": load_1min,
    }


def openssh() -> str:
    """Return the version of OpenSSH."""
    return subprocess.run(["ssh", "-V"], capture_output=True, text=True).stderr.split(",")[0].strip()


def main() -> None:
    """Export, profile three ways, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--naive", type=int, default=20, help="how many candidates the naive design measures")
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "models").mkdir()
        artifacts = export(Path(folder) / "models", options.count)
        with loopback_device(Path(folder)) as device:
            found, hello = one_agent(device, artifacts)
            result: dict[str, Any] = {"ssh": found}
            with delayed(device, DELAY_S) as far:
                result["ssh_delay_20ms"] = one_agent(far, artifacts)[0]
            # Every so many: they are sorted by size.
            few = artifacts[:: max(1, len(artifacts) // options.naive)][: options.naive]
            result["naive"] = naive(device, few)
    result |= {
        "machine": {
            "arch": hello.arch,
            "cpu": hello.cpu_model,
            "cores": hello.cores,
            "kernel": hello.kernel,
            "load_1min_before": result["ssh"]["load_1min_before"],
        },
        "versions": {
            "qaedge": __version__,
            "python": platform.python_version(),
            **hello.runtimes,
            "paramiko": paramiko.__version__,
            "openssh": openssh(),
        },
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    options.out.write_text(json.dumps({**known, **result}, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
