"""Whether our medians are those of a plain loop: `python benchmarks/agreement/agreement.py FILE.tflite...`.

Each file is measured as `qaedge bench` does, and by plain_loop.py in a process of its own on the same core, in turns
(ours, plain; plain, ours; and so on), 21 times each. Writes result.json beside itself: the median of the ratios of such
pairs, the quartiles, and every pair. Exit status 1 where a file is more than 2 % off.
"""

from __future__ import annotations

import datetime
import os
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qaedge.artifact import Artifact
from qaedge.device import load_device
from qaedge.files import write_json
from qaedge.hil.profile import AgentSession, Failed, Settings, measure, open_session
from qaedge.measurement import Measurement

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from machine import machine as told_machine  # noqa: E402 - every benchmark tells its machine alike

PAIRS = 21
WITHIN = 0.02
#: How long a plain loop takes [s].
LOOP_S = 0.6


def ours(session: AgentSession, artifact: Artifact) -> Measurement:
    """Measure a file once as `qaedge bench` does."""
    for step in measure(session, [artifact], Settings(), threads=1, interleave=True):
        if isinstance(step.result, Failed):
            raise step.result.error
        if step.result is not None:
            return step.result.measurement
    raise AssertionError("measure ends with a result")


def plain(artifact: Artifact, core: int, runs: int) -> float:
    """Return the plain loop's median [s]; a process of its own, with the environment that an agent has."""
    command = [sys.executable, str(HERE / "plain_loop.py"), artifact.path, str(core), str(runs)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(ran.stdout)


def pairs(session: AgentSession, artifact: Artifact) -> dict[str, Any]:
    """Measure a file both ways, in turns."""
    first = ours(session, artifact)
    (core,) = first.fingerprint["cores"]
    runs = max(30, round(LOOP_S / first.median_s))
    taken: list[tuple[float, float]] = []
    doubts: dict[str, int] = {}
    for number in range(PAIRS):
        if number % 2:
            loop = plain(artifact, core, runs)
            found = ours(session, artifact)
        else:
            found = ours(session, artifact)
            loop = plain(artifact, core, runs)
        taken.append((found.median_s, loop))
        for doubt in found.doubts:
            doubts[doubt] = doubts.get(doubt, 0) + 1
    ratios = sorted(one / other for one, other in taken)
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "runtime": f"{first.runtime}, {first.runtime_version}",
        "delegate": first.conditions["delegate"],
        "ours_s": statistics.median(one for one, _ in taken),
        "plain_s": statistics.median(other for _, other in taken),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [low, high],
        "ratio_least_and_largest": [ratios[0], ratios[-1]],
        "runs_of_the_loop": runs,
        "doubts": doubts,
        "pairs_s": taken,
    }


def main() -> int:
    """Measure every file; write and print what came out."""
    files: dict[str, Any] = {}
    load = os.getloadavg()[0]
    with open_session(load_device("local"), wait_s=600) as session:
        for text in sys.argv[1:]:
            artifact = Artifact.of(Path(text))
            files[artifact.name] = found = pairs(session, artifact)
            low, high = found["ratio_quartiles"]
            print(f"{artifact.name}: {1e3 * found['ours_s']:.3f} ms, plain {1e3 * found['plain_s']:.3f} ms, ", end="")
            print(f"ratio {found['ratio']:.4f} (quartiles {low:.4f} to {high:.4f})", flush=True)
    machine = told_machine() | {"cores": os.cpu_count(), "load_1min_before": load}
    machine["ai-edge-litert"] = version("ai-edge-litert")
    write_json(
        HERE / "result.json",
        {
            "files": files,
            "pairs": PAIRS,
            "machine": machine,
            "date": datetime.date.today().isoformat(),
        },
    )
    return int(any(abs(found["ratio"] - 1) > WITHIN for found in files.values()))


if __name__ == "__main__":
    sys.exit(main())
