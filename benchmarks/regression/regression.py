"""False alarms and power of `qaedge compare`: `python benchmarks/regression/regression.py PART...`.

Parts, each of which renews its keys of result.json beside this file:

    record     rounds of one file against itself, on this machine: quiet, drifting, bursty (noise.json; recorder.py)
    simulate   1,000 A/A comparisons on each kind of recorded noise, and detection rates with a factor put on
    aa         live A/A comparisons, each in a session of its own
    power      live comparisons with 3, 5 and 10 % more operators
    power_5    with 5 % more alone: minutes, to hold a changed rule against real noise
    plot       detection rate against effect (detection.png)

A slowdown is injected as more operators: the baseline is a chain of 100 equal convolutions, the contender has 3, 5
or 10 more. Beside ours, two other rules judge the same rounds, as many as ours took: Student's t test on their
means (p < 0.05, and slower), and asv's (Mann-Whitney p < 0.002, and slower by its factor, 1.1 unless told otherwise).

On a machine that others use, run it by `chrt -f 10`: result.json says how each part ran.
"""

from __future__ import annotations

import datetime
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from recorder import HERE, OPERATORS, WAIT_S, file_of, record, taken
from scipy.stats import mannwhitneyu, ttest_ind

from qaedge.artifact import Artifact
from qaedge.device import load_device
from qaedge.files import write_json
from qaedge.hil.contest import Contest, contest
from qaedge.regression.compare import FIRST_ROUNDS, MOST_ROUNDS, Comparison, Side, Verdict, compare, needs_more
from qaedge.regression.noise import percentile, rate_bound

#: Live trials of a part that has not ended; the same command goes on with it.
WORK = HERE / "work"
sys.path.insert(0, str(HERE.parent))
from machine import machine as told_machine  # noqa: E402 - every benchmark tells its machine alike

EFFECTS = {3: 103, 5: 105, 10: 110}
SIMULATED, LIVE = 1000, 100
#: How many live trials of each effect.
TRIALS = {3: 20, 5: 40, 10: 20}
#: And of 5 % alone.
AGAIN = 14
#: On which rounds the other rules judged; rows without it are from when that were the first ten.
ALL_ROUNDS = "the same rounds"
GRID = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.10, 0.12)


def main() -> None:
    """Do the parts that were named."""
    parts = {"record": record, "simulate": simulate, "aa": aa, "power": power, "power_5": power_5, "plot": plot}
    for name in sys.argv[1:] or parts:
        before = os.getloadavg()[0]
        began = time.monotonic()
        found = parts[name]()
        keep(found)
        for file in WORK.glob(f"{name}*.jsonl"):
            file.unlink()
        print(f"{name}: {time.monotonic() - began:.0f} s, load before {before:.2f}", flush=True)


def keep(found: dict[str, Any]) -> None:
    """Put keys into result.json, and on what each was measured: parts are renewed one by one, here and elsewhere."""
    path = HERE / "result.json"
    known = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    real_time = os.sched_getscheduler(0) == os.SCHED_FIFO
    here = {
        "date": datetime.date.today().isoformat(),
        # On a machine that others use, who goes before whom is part of what was measured.
        "priority": "SCHED_FIFO" if real_time else f"nice {os.nice(0)}",
        "machine": told_machine() | {"cores": os.cpu_count()},
    }
    known |= found
    known["ran"] = known.get("ran", {}) | dict.fromkeys(found, here)
    write_json(path, known)


def judged(left: Sequence[float], right: Sequence[float], seed: int) -> Comparison:
    """Judge as `compare` does: in more and more rounds, until it is decided or no use."""
    rounds = FIRST_ROUNDS
    while True:
        found = compare(Side("a", tuple(left[:rounds])), Side("b", tuple(right[:rounds])), seed=seed)
        more = needs_more(found, min(len(left), MOST_ROUNDS))
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
                same = left[: found.rounds], right[: found.rounds]
                tally["student"] += student(*same)
                tally["asv"] += asv(*same)
                tally["asv_3"] += asv(*same, factor=1.03)
            curve.append({"noise": kind, "effect": effect, "n": count, **tally, "others_on": ALL_ROUNDS})
            if not effect:
                rows.append({"noise": kind, "n": count, "false_slower": tally["slower"], **tally})
            print(curve[-1], flush=True)
    total = {"n": sum(row["n"] for row in rows), "false_slower": sum(row["false_slower"] for row in rows)}
    return {"aa_simulated": {**total, "by_noise": rows}, "detection_simulated": curve}


def trial(baseline: Artifact, contender: Artifact) -> dict[str, Any]:
    """Compare two files live, as the command does, and by the other rules on the same rounds."""
    load, began = os.getloadavg()[0], time.monotonic()
    found: Contest = taken(contest(load_device("local"), (baseline, contender), wait_s=WAIT_S))
    first = found.first or found.comparison
    sides = [list(side.rounds_ns) for side in (found.baseline, found.contender)]
    same = [[value * 1e-9 for value in side] for side in sides]
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
        "student": student(*same),
        "asv": asv(*same),
        "asv_3": asv(*same, factor=1.03),
        "others_on": ALL_ROUNDS,
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


def power_5() -> dict[str, Any]:
    """Compare with 5 % more operators, live, and with no others."""
    with tempfile.TemporaryDirectory() as folder:
        files = file_of(folder, OPERATORS), file_of(folder, EFFECTS[5])
        return {"power_5": _power(5, trials("power_5", AGAIN, *files))}


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


def on_ten(rows: Sequence[dict[str, Any]]) -> str:
    """Say so where the other rules had less to judge by than ours."""
    fewer = any("others_on" not in row and row.get("rounds", MOST_ROUNDS) > FIRST_ROUNDS for row in rows)
    return f", on the first {FIRST_ROUNDS} rounds" if fewer else ""


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
                label=name if rule == "slower" else f"{name}{on_ten(rows)}",
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
        live_note = on_ten([one for row in known["power"] for one in row["trials"]])
        points = f"\n(points: live{f'; the others{live_note}' if live_note else ''})" if kind == "quiet" else ""
        axes.set_title(f"{kind}: CV {100 * cv:.1f} %{points}", fontsize=11)
        axes.set_xlabel("slowdown [%]")
        axes.set_ylabel("called slower [%]")
        axes.grid(color="#e4e4e4")
        if number == 1:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(rules), fontsize=9)
    canvas.print_figure(str(HERE / "detection.png"), format="png")
    return {}


if __name__ == "__main__":
    main()
