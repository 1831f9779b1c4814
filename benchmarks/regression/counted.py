"""Instructions compared on an emulated aarch64 board: `python benchmarks/regression/counted.py DEVICE [AA] [TRIALS]`.

DEVICE is a description in ./devices. A chain of 100 convolutions is compared with itself, and with 101 of them: 1 %
more. Renews `counted` in result.json; interrupted, the same command goes on (work/counted_*.jsonl), and where that is
not there from the trials that result.json has. With smaller numbers it keeps what was made so far.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from regression import HERE, WAIT_S, WORK, file_of, keep, taken, trials

from qaedge.artifact import Artifact
from qaedge.device import load_device
from qaedge.hil.counting import count_contest
from qaedge.regression.noise import rate_bound


def main() -> None:
    """Compare, and keep what came out."""
    name, *counts = sys.argv[1:]
    same, more = (*map(int, counts), *(30, 10)[len(counts) :])
    device = load_device(name)
    for part, trial in (("aa", f"counted_aa_{name}"), ("one_percent", f"counted_1_{name}")):
        _go_on(part, WORK / f"{trial}.jsonl")

    def judge(baseline: Artifact, contender: Artifact) -> dict[str, Any]:
        return _trial(device, baseline, contender)

    with tempfile.TemporaryDirectory() as folder:
        one, other = file_of(folder, 100), file_of(folder, 101)
        found = {
            "aa": _summary(trials(f"counted_aa_{name}", same, one, one, judge)),
            "one_percent": _summary(trials(f"counted_1_{name}", more, one, other, judge)),
        }
    keep({"counted": {"device": name, **found, "false_slower_rate_below": rate_bound(found["aa"]["slower"], same)}})


def _go_on(part: str, path: Path) -> None:
    """Begin with the trials of result.json, where none lie in the work folder."""
    known = msgspec.json.decode((HERE / "result.json").read_bytes()).get("counted", {}).get(part, {}).get("trials", [])
    if known and not path.exists():
        WORK.mkdir(exist_ok=True)
        path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in known))


def _trial(device: Any, baseline: Artifact, contender: Artifact) -> dict[str, Any]:
    began = time.monotonic()
    found = taken(count_contest(device, (baseline, contender), wait_s=WAIT_S))
    return {
        "verdict": found.comparison.verdict.value,
        "ratio": found.comparison.ratio,
        "instructions": found.comparison.baseline_s,
        "seconds": time.monotonic() - began,
    }


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "n": len(rows),
        **{word: sum(row["verdict"] == word for row in rows) for word in ("slower", "same", "faster", "unknown")},
        "median_ratio": statistics.median(row["ratio"] for row in rows),
        "median_seconds": statistics.median(row["seconds"] for row in rows),
        "instructions": statistics.median(row["instructions"] for row in rows),
        "trials": rows,
    }


if __name__ == "__main__":
    main()
