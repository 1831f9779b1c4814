"""How long commands take as whole processes: `python benchmarks/startup/startup.py`.

`qaedge --help`, and `qaedge search` under two limits on a table of 6 blocks x 200 candidates with
60 raw samples a row. Writes result.json beside itself: medians of wall time, interleaved runs.
"""

from __future__ import annotations

import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from qaedge.files import write_json
from qaedge.space import SearchSpace

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "search")]
from machine import machine  # noqa: E402 - every benchmark tells its machine alike
from state_files import write_files  # noqa: E402 - the tables are the search benchmark's

RUNS = 11
PROJECT = """\
space = "space.toml"
device = "local"
[teacher]
function = "none:none"
blocks = { block0 = "block0" }
[data]
layout = "scenes"
height = 360
width = 480
"""


def project(folder: Path) -> None:
    """Write a project whose tables are full."""
    results = folder / "results"
    results.mkdir()
    write_files(results, 6, 200)
    space = SearchSpace.load(results / "space.json")
    (results / space.origin).mkdir()
    (results / "local").mkdir()
    (results / "loss.jsonl").rename(results / space.origin / "loss.jsonl")
    (results / "latency.jsonl").rename(results / "local" / "latency.jsonl")
    (folder / "qaedge.toml").write_text(PROJECT)


def wall(command: list[str], folder: Path) -> float:
    """Return the wall time of one process [s]."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Run both commands in turn, and write medians and spread."""
    program = str(Path(sys.executable).with_name("qaedge"))
    commands = {
        "help": [program, "--help"],
        "search_6x200": [program, "search", "--latency", "70%", "--size", "70%", "--quiet"],
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project(folder)
        for run in range(RUNS + 1):
            for title, command in commands.items():
                seconds = wall(command, folder)
                if run:  # the first fills the caches
                    found[title].append(seconds)
    result: dict[str, Any] = {
        title: {"median_s": statistics.median(v), "min_s": min(v), "max_s": max(v), "runs": len(v)}
        for title, v in found.items()
    }
    write_json(
        HERE / "result.json",
        result
        | {
            "machine": machine() | {"cores": os.cpu_count(), "load": os.getloadavg()[0]},
            "date": datetime.date.today().isoformat(),
        },
    )
    for title, row in result.items():
        print(f"{title}: median {row['median_s']:.3f} s ({row['min_s']:.3f} to {row['max_s']:.3f})")


if __name__ == "__main__":
    main()
