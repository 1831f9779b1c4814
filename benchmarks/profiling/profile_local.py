"""How much of profiling's wall time is measuring: 100 small networks, all different, by the local agent.

Writes result.json beside itself. Wall time starts before the agent does and ends when it is gone;
measuring time is what the agent spent inside warm-ups and rounds, waiting for quiet moments (R17) included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qaedge import __version__
from qaedge.artifact import Artifact
from qaedge.device import load_device
from qaedge.hil.profile import Failed, Measured, Settings, measure, open_session

HERE = Path(__file__).parent


def inverted_residual(rng: np.random.Generator, channels: int, expansion: int, size: int) -> onnx.ModelProto:
    """Return a float inverted residual block, `channels` x `size` x `size` in and out."""
    middle = channels * expansion
    nodes, weights = [], []

    def conv(name: str, source: str, sink: str, shape: tuple[int, ...], group: int) -> None:
        weight = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, name))
        pads = [shape[-1] // 2] * 4
        nodes.append(helper.make_node("Conv", [source, name], [sink], pads=pads, group=group))

    conv("expand", "x", "a", (middle, channels, 1, 1), 1)
    nodes.append(helper.make_node("Relu", ["a"], ["b"]))
    conv("depthwise", "b", "c", (middle, 1, 3, 3), middle)
    nodes.append(helper.make_node("Relu", ["c"], ["d"]))
    conv("project", "d", "e", (channels, middle, 1, 1), 1)
    nodes.append(helper.make_node("Add", ["x", "e"], ["y"]))
    shape = [1, channels, size, size]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph(nodes, "block", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def export(folder: Path, count: int) -> list[Artifact]:
    """Write `count` blocks, no two alike."""
    rng = np.random.default_rng(0)
    artifacts = []
    for number in range(count):
        channels, expansion, size = 24 + 8 * (number % 5), 3 + number // 5 % 5, 64 + 16 * (number // 25)
        path = folder / f"ir_c{channels}_e{expansion}_s{size}.onnx"
        onnx.save(inverted_residual(rng, channels, expansion, size), path)
        artifacts.append(Artifact.of(path))
    return artifacts


def main() -> None:
    """Export, profile, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--out", type=Path, default=HERE / "result.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifacts = export(Path(folder), options.count)
        load_1min = round(os.getloadavg()[0], 2)
        start = time.perf_counter()
        found = []
        with open_session(load_device("local"), wait_s=600.0) as session:
            for step in measure(session, artifacts, Settings(), threads=1):
                if isinstance(step.result, Failed):
                    raise step.result.error
                if isinstance(step.result, Measured):
                    found.append(step.result.measurement)
                    print(f"{step.done}/{step.total}", end="\r", file=sys.stderr)
            measuring_s, hello = session.measuring_s, session.hello
        wall_s = time.perf_counter() - start
    medians = sorted(row.median_s for row in found)
    result = {
        "local": {
            "candidates": len(found),
            "wall_over_measuring": round(wall_s / measuring_s, 3),
            "wall_s": round(wall_s, 2),
            "measuring_s": round(measuring_s, 2),
            "candidate_ms": {
                "least": round(medians[0] * 1e3, 3),
                "median": round(medians[len(medians) // 2] * 1e3, 3),
                "most": round(medians[-1] * 1e3, 3),
            },
            "rounds_mean": round(sum(len(row.rounds) for row in found) / len(found), 2),
            "unstable": sum("unstable" in row.doubts for row in found),
        },
        "machine": {
            "arch": hello.arch,
            "cpu": hello.cpu_model,
            "cores": hello.cores,
            "kernel": hello.kernel,
            "load_1min_before": load_1min,
        },
        "versions": {"qaedge": __version__, "python": platform.python_version(), **hello.runtimes},
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    options.out.write_text(json.dumps({**known, **result}, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
