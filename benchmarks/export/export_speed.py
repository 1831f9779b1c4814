"""How long it takes to turn a candidate into INT8 files of both formats: traced, calibrated on one input, written.

Every candidate of examples/camvid.toml, against a teacher with fresh weights, one thread; then the whole space as
`qaedge profile` exports it, by one process and by two in turn: starting the second one is in its time. Writes
result.json beside itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import torch

from qaedge.candidate import QuantScheme
from qaedge.machine import versions
from qaedge.nn.blocks import build_block
from qaedge.nn.candidates import export_candidates
from qaedge.nn.deeplab import deeplabv3_mobilenetv2, stage_paths
from qaedge.nn.export import write_file
from qaedge.nn.quantize import calibrate
from qaedge.nn.teacher import Teacher, cut, resolve_space
from qaedge.nn.tracing import trace
from qaedge.project import DataConfig, Project, TeacherConfig, Workspace
from qaedge.runtime import FORMATS
from qaedge.space import SearchSpace, SpaceFile

sys.path.append(str(Path(__file__).parents[1]))
from machine import machine

HERE = Path(__file__).parent
#: How often the whole space is exported by each number of processes, after once that does not count.
ROUNDS = 5
PROCESSES = (1, 2)
PARTS = ("trace", "calibrate", "write_onnx", "write_tflite")


def export(module: torch.nn.Module, shape: tuple[int, int, int], path: Path, ends: bool) -> dict[str, float]:
    """Return the seconds of each part."""
    clock = [time.perf_counter()]
    graph = trace(module, shape)
    clock.append(time.perf_counter())
    quantized = calibrate(graph, [torch.randn(1, *shape)], QuantScheme.parse("w8a8"), float_tail=not ends)
    clock.append(time.perf_counter())
    for suffix in (".onnx", ".tflite"):
        write_file(quantized, path.with_suffix(suffix), integer_ends=ends)
        clock.append(time.perf_counter())
    return {part: clock[i + 1] - clock[i] for i, part in enumerate(PARTS)}


def no_choice(weight_bits: int) -> tuple[str, str]:
    """The form of INT8 ONNX files here."""
    return "u8s8", ""


def whole_space(workspace: Workspace, teacher: Teacher, space: SearchSpace, file_format: str) -> dict[str, object]:
    """Export the whole space by one process and by several, there and back again; return the seconds of each."""
    seconds: dict[int, list[float]] = {count: [] for count in PROCESSES}
    files = 0
    for number in range(ROUNDS + 1):
        for count in PROCESSES if number % 2 else PROCESSES[::-1]:
            begun = time.perf_counter()
            steps = export_candidates(workspace, teacher, space, no_choice, None, file_format, processes=count)
            files = sum(1 for _ in steps)
            if number:
                seconds[count].append(round(time.perf_counter() - begun, 3))
    medians = {count: statistics.median(times) for count, times in seconds.items()}
    return {
        "files": files,
        "seconds_by_processes": {str(count): times for count, times in seconds.items()},
        "median_seconds": {str(count): round(value, 3) for count, value in medians.items()},
        "times_as_fast": round(medians[PROCESSES[0]] / medians[PROCESSES[-1]], 3),
    }


def main() -> None:
    """Export all of it and write what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--result", type=Path, default=HERE / "result.json")
    arguments = parser.parse_args()
    load = round(os.getloadavg()[0], 2)  # before this adds its own
    torch.set_num_threads(1)
    torch.manual_seed(0)
    teacher = cut(deeplabv3_mobilenetv2(classes=11), stage_paths(), (3, 360, 480), "fresh")
    data = DataConfig("camvid", 360, 480)
    space = resolve_space(teacher, SpaceFile.read(HERE.parents[1] / "examples" / "camvid.toml"), data)
    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.onnx"
        export(teacher.block("head").module, teacher.block("head").input_shape, path, True)  # imports, first calls
        for candidate in space.unique():
            if not candidate.spec.is_own:
                module = build_block(candidate.spec, candidate.input_shape[0]).eval()
                found.append(export(module, candidate.input_shape, path, True))
        network = export(teacher.module, teacher.input_shape, path, False)
        workspace = Workspace(Path(folder), Project(TeacherConfig("", {}), data, ""))
        spaces = {file_format: whole_space(workspace, teacher, space, file_format) for file_format in FORMATS}
    whole = [sum(parts.values()) for parts in found]
    result = {
        "candidates": len(found),
        "seconds": {
            "median": round(statistics.median(whole), 4),
            "most": round(max(whole), 4),
            "in_all": round(sum(whole), 2),
            "median_of_parts": {part: round(statistics.median(p[part] for p in found), 4) for part in PARTS},
        },
        "whole_teacher_seconds": {part: round(value, 4) for part, value in network.items()},
        "whole_space": spaces,
        "machine": {**machine(), "cores": os.cpu_count(), "load_1min": load},
        "versions": versions("torch", "onnx", "ai-edge-litert"),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }
    arguments.result.write_text(json.dumps(result, indent=2) + "\n")
    print(arguments.result.read_text())


if __name__ == "__main__":
    main()
