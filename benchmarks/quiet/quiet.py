"""What quiet moments are worth on this machine (R17): the same files in several sessions, with them and without.

Sessions take turns. Of each file the median of a session is kept: how much it changes from session to session is what a
row of a table is worth. Writes result.json beside itself.
"""

from __future__ import annotations

import argparse
import datetime
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "profiling"))
from machine import machine
from profile_local import export

from qaedge.artifact import Artifact
from qaedge.device import load_device
from qaedge.files import decode_json, write_json
from qaedge.hil.profile import Failed, Measured, Settings, measure, open_session
from qaedge.measurement import Measurement

HERE = Path(__file__).resolve().parent
FILES, SESSIONS = 8, 6
WAYS = {"quiet": Settings(), "all": Settings(quiet_share=0.0)}


def session(files: list[Artifact], settings: Settings) -> tuple[list[Measurement], float]:
    """Measure files in a session of their own; return their measurements in the same order, and what it took [s]."""
    start = time.perf_counter()
    found = {}
    with open_session(load_device("local"), wait_s=600.0) as device:
        for step in measure(device, files, settings, threads=1):
            if isinstance(step.result, Failed):
                raise step.result.error
            if isinstance(step.result, Measured):
                found[step.result.artifact.name] = step.result.measurement
    return [found[file.name] for file in files], time.perf_counter() - start


def told(sessions: list[tuple[list[Measurement], float]]) -> dict[str, Any]:
    """Say how much medians changed between sessions, and what that cost."""
    rows = list(zip(*(measurements for measurements, _ in sessions), strict=True))
    medians = [[m.median_s for m in row] for row in rows]
    spread = [statistics.pstdev(times) / statistics.mean(times) for times in medians]
    every = [measurement for row in rows for measurement in row]
    counted, aside = sum(len(m.samples_s) for m in every), sum(len(m.aside_s) for m in every)
    doubts = sorted({doubt for m in every for doubt in m.doubts})
    return {
        "cv_median": statistics.median(spread),
        "cv_most": max(spread),
        "cv_beside_each_other": beside_each_other(medians),
        "seconds": statistics.median(seconds for _, seconds in sessions),
        "aside": aside / (aside + counted),
        "doubts": {doubt: sum(doubt in m.doubts for m in every) / len(every) for doubt in doubts},
        "medians_s": medians,
    }


def beside_each_other(medians: list[list[float]]) -> float:
    """Return the middle coefficient of variation of files as shares of what all of their session took together."""
    totals = [math.fsum(times) for times in zip(*medians, strict=True)]
    shares = [[time / total for time, total in zip(times, totals, strict=True)] for times in medians]
    return statistics.median(statistics.pstdev(each) / statistics.mean(each) for each in shares)


def main() -> None:
    """Measure in turn, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    flags = parser.parse_args()
    found: dict[str, list[tuple[list[Measurement], float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        files = export(Path(folder), 4 * FILES)[::4]
        for number in range(flags.sessions):
            for way in sorted(WAYS, reverse=number % 2 == 1):
                found[way].append(session(files, WAYS[way]))
                print(f"{number + 1}/{flags.sessions} {way}: {found[way][-1][1]:.0f} s", file=sys.stderr)
    result = {way: told(sessions) for way, sessions in found.items()}
    result |= {"files": FILES, "sessions": flags.sessions, "machine": machine()}
    path = HERE / "result.json"
    known = decode_json(path, dict[str, Any]) if path.exists() else {}  # of tables.py
    write_json(path, {**known, **result, "date": datetime.date.today().isoformat()})
    for way in WAYS:
        print(f"{way}: medians change by {100 * result[way]['cv_median']:.1f} %, {result[way]['seconds']:.0f} s")


if __name__ == "__main__":
    main()
