"""False alarms and power of `qaedge compare`: `python benchmarks/regression/regression.py PART...`.

Parts, each of which renews its keys of result.json beside this file:

    record     rounds of one file against itself, on this machine: quiet, drifting, bursty (noise.json)
    simulate   1,000 A/A comparisons on each kind of recorded noise, and detection rates with a factor put on
    aa         live A/A comparisons, each in a session of its own
    power      live comparisons with 3, 5 and 10 % more operators
    plot       detection rate against effect (detection.png)

A slowdown is injected as more operators: the baseline is a chain of 100 equal convolutions, the contender has 3, 5
or 10 more. Beside ours, two other rules judge the same rounds, the first ten of each side: Student's t test on their
means (p < 0.05, and slower), and asv's (Mann-Whitney p < 0.002, and slower by its factor, 1.1 unless told otherwise).

On a machine that others use, run it by `chrt -f 10`: result.json says how each part ran.
"""

from __future__ import annotations

import datetime
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from noise_makers import MAKERS
from scipy.stats import mannwhitneyu, ttest_ind

from qaedge.artifact import Artifact
from qaedge.device import load_device
from qaedge.files import write_json
from qaedge.hil.contest import Contest, contest, gather
from qaedge.hil.profile import Settings, open_session
from qaedge.hil.sample_file import sample_onnx
from qaedge.regression.compare import FIRST_ROUNDS, Comparison, Side, Verdict, compare, needs_more
from qaedge.regression.noise import percentile, rate_bound

HERE = Path(__file__).resolve().parent
#: Live trials of a part that has not ended; the same command goes on with it.
WORK = HERE / "work"
sys.path.insert(0, str(HERE.parent))
from machine import machine as told_machine  # noqa: E402 - every benchmark tells its machine alike

OPERATORS = 100
EFFECTS = {3: 103, 5: 105, 10: 110}
SIMULATED, LIVE = 1000, 100
#: How many live trials of each effect.
TRIALS = {3: 20, 5: 40, 10: 20}
SESSIONS, ROUNDS = 3, 160
GRID = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.10, 0.12)
WAIT_S = 1800.0


def main() -> None:
    """Do the parts that were named."""
    parts = {"record": record, "simulate": simulate, "aa": aa, "power": power, "plot": plot}
    for name in sys.argv[1:] or parts:
        before = os.getloadavg()[0]
        began = time.monotonic()
        found = parts[name]()
        keep(found)
        for file in WORK.glob(f"{name}*.jsonl"):
            file.unlink()
        print(f"{name}: {time.monotonic() - began:.0f} s, load before {before:.2f}", flush=True)


def keep(found: dict[str, Any]) -> None:
    """Put keys into result.json, with the machine, the versions and the date."""
    path = HERE / "result.json"
    known = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    machine = told_machine() | {"cores": os.cpu_count()}
    for part in found:  # on a machine that others use, who goes before whom is part of what was measured
        real_time = os.sched_getscheduler(0) == os.SCHED_FIFO
        known.setdefault("priority", {})[part] = "SCHED_FIFO" if real_time else f"nice {os.nice(0)}"
    known |= found | {"machine": machine, "date": datetime.date.today().isoformat()}
    write_json(path, known)


def file_of(folder: str, operators: int) -> Artifact:
    """Write a chain of so many convolutions."""
    path = Path(folder) / f"{operators}.onnx"
    path.write_bytes(sample_onnx(operators))
    return Artifact.of(path)


def taken(steps: Iterator[Any]) -> Any:
    """Return what a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def record() -> dict[str, Any]:
    """Record the rounds that a comparison of a file with itself would see, in sessions of their own."""
    path = HERE / "noise.json"
    known = msgspec.json.decode(path.read_bytes())["rounds_ns"] if path.exists() else {}
    # Recorded once while others' work filled this machine, and kept: nothing that a maker does is as bad.
    kinds: dict[str, list[list[list[int]]]] = {"busy": known["busy"]} if "busy" in known else {}
    with tempfile.TemporaryDirectory() as folder:
        one = file_of(folder, OPERATORS)
        sides = [msgspec.structs.replace(one, name=name) for name in ("one", "other")]
        for kind, maker in MAKERS.items():
            kinds[kind] = []
            for number in range(SESSIONS):
                with open_session(load_device("local"), wait_s=WAIT_S) as session, Disturbed(maker, number):
                    settings = Settings(interleaved_rounds=ROUNDS)
                    found = taken(gather(session, sides, settings, 1, seed=number))
                kinds[kind].append([list(found[name].rounds_ns) for name in ("one", "other")])
    path.write_bytes(msgspec.json.encode({"operators": OPERATORS, "rounds_ns": kinds}) + b"\n")
    return {"noise": {kind: _described(sessions) for kind, sessions in kinds.items()}}


def _described(sessions: list[list[list[int]]]) -> dict[str, float]:
    """Say how recorded noise is: its spread, how much of that neighbors share, and how much both sides do."""
    sides = [np.array(side, float) for session in sessions for side in session]
    logs = [np.log(side / np.median(side)) for side in sides]
    pairs = [np.log(np.array(a, float) / np.array(b, float)) for a, b in sessions]
    return {
        "cv": statistics.median(float(np.std(side) / np.mean(side)) for side in sides),
        "lag_1_correlation": statistics.median(float(np.corrcoef(x[:-1], x[1:])[0, 1]) for x in logs),
        "side_correlation": statistics.median(
            float(np.corrcoef(np.log(a), np.log(b))[0, 1])
            for a, b in ((np.array(s[0]), np.array(s[1])) for s in sessions)
        ),
        "largest_over_median": max(float(side.max() / np.median(side)) for side in sides),
        "pair_sd": statistics.median(float(np.std(pair)) for pair in pairs),
        "rounds": sum(len(session[0]) for session in sessions),
    }


class Disturbed:
    """Disturb this machine in a process of its own, while the block runs."""

    def __init__(self, maker: Callable[[int], None] | None, seed: int) -> None:
        """Start nothing yet."""
        self._process = multiprocessing.get_context("spawn").Process(target=maker, args=(seed,)) if maker else None

    def __enter__(self) -> None:
        """Start."""
        if self._process:
            self._process.start()
            time.sleep(1.0)

    def __exit__(self, *_: object) -> None:
        """End."""
        if self._process:
            self._process.kill()
            self._process.join()


def judged(left: Sequence[float], right: Sequence[float], seed: int) -> Comparison:
    """Judge as `compare` does: in more and more rounds, until it is decided or no use."""
    rounds = FIRST_ROUNDS
    while True:
        found = compare(Side("a", tuple(left[:rounds])), Side("b", tuple(right[:rounds])), seed=seed)
        more = needs_more(found, min(len(left), 160))
        if not more:
            return found
        rounds += more


def window(sessions: Sequence[Any], draw: np.random.Generator, factor: float) -> tuple[list[float], list[float]]:
    """Return the rounds of a comparison: consecutive ones of a session from anywhere on, its sides in any order."""
    session = sessions[draw.integers(len(sessions))]
    start = int(draw.integers(len(session[0])))
    sides = [np.roll(np.array(side, float) * 1e-9, -start) for side in session]
    if draw.random() < 0.5:
        sides.reverse()
    return sides[0].tolist(), (sides[1] * factor).tolist()


def student(left: Sequence[float], right: Sequence[float]) -> bool:
    """Whether Student's t test on the means calls the right side slower."""
    return bool(ttest_ind(left, right).pvalue < 0.05 and np.mean(right) > np.mean(left))


def asv(left: Sequence[float], right: Sequence[float], factor: float = 1.1) -> bool:
    """Whether asv would: `asv.statistics.is_different` by the U test, and `asv compare --factor`."""
    different = mannwhitneyu(left, right, alternative="two-sided").pvalue < 0.002
    return bool(different and np.median(right) > factor * np.median(left))


def simulate() -> dict[str, Any]:
    """Compare on recorded noise; a SLOWER is confirmed on rounds drawn anew, as a live one is in a new session."""
    kinds = msgspec.json.decode((HERE / "noise.json").read_bytes())["rounds_ns"]
    rows, curve = [], []
    for kind, sessions in kinds.items():
        for effect in GRID:
            draw = np.random.default_rng(17)
            count = SIMULATED if not effect else 200
            tally = dict.fromkeys(("slower", "first_slower", "faster", "unknown", "student", "asv", "asv_3"), 0)
            for seed in range(count):
                left, right = window(sessions, draw, 1 + effect)
                found = judged(left, right, seed)
                again = found
                if found.verdict is Verdict.SLOWER:
                    again = judged(*window(sessions, draw, 1 + effect), seed)
                tally["first_slower"] += found.verdict is Verdict.SLOWER
                tally["slower"] += found.verdict is Verdict.SLOWER and again.verdict is Verdict.SLOWER
                tally["faster"] += found.verdict is Verdict.FASTER
                tally["unknown"] += found.verdict is Verdict.UNKNOWN
                ten = left[:FIRST_ROUNDS], right[:FIRST_ROUNDS]
                tally["student"] += student(*ten)
                tally["asv"] += asv(*ten)
                tally["asv_3"] += asv(*ten, factor=1.03)
            curve.append({"noise": kind, "effect": effect, "n": count, **tally})
            if not effect:
                rows.append({"noise": kind, "n": count, "false_slower": tally["slower"], **tally})
            print(curve[-1], flush=True)
    total = {"n": sum(row["n"] for row in rows), "false_slower": sum(row["false_slower"] for row in rows)}
    return {"aa_simulated": {**total, "by_noise": rows}, "detection_simulated": curve}


def trial(baseline: Artifact, contender: Artifact) -> dict[str, Any]:
    """Compare two files live, as the command does, and by the other rules on the same first rounds."""
    load, began = os.getloadavg()[0], time.monotonic()
    found: Contest = taken(contest(load_device("local"), (baseline, contender), wait_s=WAIT_S))
    first = found.first or found.comparison
    sides = [list(side.rounds_ns) for side in (found.baseline, found.contender)]
    ten = [[value * 1e-9 for value in side[:FIRST_ROUNDS]] for side in sides]
    return {
        "verdict": found.comparison.verdict.value,
        "first_verdict": first.verdict.value,
        "ratio": found.comparison.ratio,
        "first_ratio": first.ratio,
        "rounds": found.comparison.rounds,
        "seconds": time.monotonic() - began,  # with connecting, and waiting for whoever else measures here
        "measuring_seconds": found.seconds,
        "cv": statistics.median(statistics.stdev(side) / statistics.mean(side) for side in sides),
        "median_s": found.baseline.median_s,
        "student": student(*ten),
        "asv": asv(*ten),
        "asv_3": asv(*ten, factor=1.03),
        "doubts": sorted({*found.baseline.doubts, *found.contender.doubts}),
        "load_before": load,
    }


def trials(
    name: str,
    wanted: int,
    baseline: Artifact,
    contender: Artifact,
    trial: Callable[[Artifact, Artifact], dict[str, Any]] = trial,
) -> list[dict[str, Any]]:
    """Return so many trials, with those that an interrupted run made; each is on disk as soon as it is made."""
    WORK.mkdir(exist_ok=True)
    path = WORK / f"{name}.jsonl"
    rows = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    for _ in range(len(rows), wanted):
        rows.append(row := trial(baseline, contender))
        with path.open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")
        print(name, row["verdict"], f"{row['ratio']:.4f}", f"{row['seconds']:.1f} s", flush=True)
    return rows


def aa() -> dict[str, Any]:
    """Compare a file with itself, live."""
    with tempfile.TemporaryDirectory() as folder:
        one = file_of(folder, OPERATORS)
        rows = trials("aa", LIVE, one, one)
    medians = [row["median_s"] for row in rows]
    slower = sum(row["verdict"] == "slower" for row in rows)
    return {
        "aa_live": {
            "n": len(rows),
            "false_slower": slower,
            "first_slower": sum(row["first_verdict"] == "slower" for row in rows),
            "false_faster": sum(row["verdict"] == "faster" for row in rows),
            "unknown": sum(row["verdict"] == "unknown" for row in rows),
            "rate_below": rate_bound(slower, len(rows)),
            "noise_floor": percentile([abs(row["first_ratio"] - 1) for row in rows]),
            "noise_floor_across": percentile([abs(b / a - 1) for a, b in itertools.pairwise(medians)]),
            "cv": statistics.median(row["cv"] for row in rows),
            "median_seconds": statistics.median(row["seconds"] for row in rows),
            "student_slower": sum(row["student"] for row in rows),
            "asv_slower": sum(row["asv"] for row in rows),
            "asv_3_slower": sum(row["asv_3"] for row in rows),
            "trials": rows,
        }
    }


def power() -> dict[str, Any]:
    """Compare with 3, 5 and 10 % more operators, live; the effects take turns, so that all see the same hours."""
    rows: dict[int, list[dict[str, Any]]] = {effect: [] for effect in EFFECTS}
    with tempfile.TemporaryDirectory() as folder:
        baseline = file_of(folder, OPERATORS)
        files = {effect: file_of(folder, operators) for effect, operators in EFFECTS.items()}
        for number in range(1, 1 + max(TRIALS.values())):
            for effect, contender in files.items():
                rows[effect] = trials(f"power_{effect}", min(number, TRIALS[effect]), baseline, contender)
    return {"power": [_power(effect, found) for effect, found in rows.items()]}


def _power(effect: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    quiet = [row for row in rows if row["cv"] <= 0.02]
    return {
        "effect": effect / 100,
        "effect_measured": statistics.median(row["ratio"] for row in rows) - 1,
        "n": len(rows),
        "found": sum(row["verdict"] == "slower" for row in rows),
        "unknown": sum(row["verdict"] == "unknown" for row in rows),
        "same": sum(row["verdict"] == "same" for row in rows),
        "median_seconds": statistics.median(row["seconds"] for row in rows),
        "max_seconds": max(row["seconds"] for row in rows),
        "cv": statistics.median(row["cv"] for row in rows),
        "n_at_cv_2": len(quiet),
        "found_at_cv_2": sum(row["verdict"] == "slower" for row in quiet),
        "max_seconds_at_cv_2": max((row["seconds"] for row in quiet), default=None),
        "student": sum(row["student"] for row in rows),
        "asv": sum(row["asv"] for row in rows),
        "asv_3": sum(row["asv_3"] for row in rows),
        "trials": rows,
    }


def plot() -> dict[str, Any]:
    """Draw how often each rule finds a slowdown, against how large it is: simulated as lines, live as points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    known = msgspec.json.decode((HERE / "result.json").read_bytes())
    kinds = list(dict.fromkeys(row["noise"] for row in known["detection_simulated"]))
    rules = {
        "slower": ("qaedge", "#2f6db5"),
        "student": ("Student's t on means, p < 0.05", "#d1372e"),
        "asv": ("asv (U test, factor 1.1)", "#3b8f3b"),
        "asv_3": ("asv, factor 1.03", "#9ac79a"),
    }
    figure = Figure(figsize=(4.2 * len(kinds), 4.2), dpi=130, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for number, kind in enumerate(kinds, 1):
        axes = figure.add_subplot(1, len(kinds), number)
        rows = [row for row in known["detection_simulated"] if row["noise"] == kind]
        for rule, (name, color) in rules.items():
            axes.plot(
                [100 * row["effect"] for row in rows],
                [100 * row[rule] / row["n"] for row in rows],
                color=color,
                label=name,
            )
        if kind == "quiet":
            live = known["power"]
            for rule, (_, color) in rules.items():
                key = "found" if rule == "slower" else rule
                xs = [0.0] + [100 * row["effect_measured"] for row in live]
                none = (
                    known["aa_live"]["false_slower" if rule == "slower" else f"{rule}_slower"] / known["aa_live"]["n"]
                )
                axes.plot(xs, [100 * none] + [100 * row[key] / row["n"] for row in live], "o", color=color, ms=6)
        cv = known["noise"][kind]["cv"]
        axes.set_title(f"{kind}: CV {100 * cv:.1f} %" + (" (points: live)" if kind == "quiet" else ""), fontsize=11)
        axes.set_xlabel("slowdown [%]")
        axes.set_ylabel("called slower [%]")
        axes.grid(color="#e4e4e4")
        if number == 1:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(rules), fontsize=9)
    canvas.print_figure(str(HERE / "detection.png"), format="png")
    return {}


if __name__ == "__main__":
    main()
