"""How true both tables are: `QAEDGE_DATA=... python benchmarks/tables/tables.py [PROJECT]`.

After benchmarks/camvid/run.py, whose project it takes by default. Random whole networks that the tables have not
learned from are measured; searches at random limits are held against measurements of what they found; assembled
networks are held against sums of block losses. Writes result.json and pictures beside itself; what was measured
before is not measured again, but for the networks that were found. `--formats` and `--parts` leave the others as they
were: each part says when, and on what, it was made.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import machine, version_of

from qaedge import cli
from qaedge.cli.loss_check import HARM
from qaedge.cli.search import MARGIN
from qaedge.cli.table_check import check
from qaedge.cli.whole import SCALE, WholeNetworks
from qaedge.errors import Infeasible
from qaedge.files import decode_json, write_json
from qaedge.influence import Influence
from qaedge.metric import latency_on
from qaedge.network_key import network_key, places_of
from qaedge.probes import held_out
from qaedge.project import Workspace
from qaedge.ranking import kendall_tau
from qaedge.runtime import FORMATS
from qaedge.search import rivals
from qaedge.search.space_problem import Constraint, build_problem
from qaedge.space import SearchSpace
from qaedge.tables import LatencyTable, LossTable

HERE = Path(__file__).resolve().parent
NETWORKS, LIMITS = 40, 20
PARTS = ("latency", "limits", "loss")
#: Of the limits that are drawn; those of 0 to 3 told how great the margin has to be.
SEEDS = {"onnx": 4, "tflite": 5}
#: How often what was found is measured, and how long lies between [s]: who else uses the machine stays for minutes.
#: The middle one counts.
TURNS, PAUSE_S = 5, 45.0
#: Seed -> how many networks are judged. No fit has seen any of them.
JUDGED = {0: 60, 1: 40, 2: 100}


@contextmanager
def printed() -> Iterator[StringIO]:
    """Collect what a command prints."""
    text = StringIO()
    with redirect_stdout(text):
        yield text


def command(project: Path, *arguments: str) -> dict[str, object] | list[dict[str, object]]:
    """Run one qaedge command, and return what it prints as JSON; stop where it fails."""
    with printed() as text:
        status = cli.run([*arguments, "--json", "--project", str(project)])
    if status:
        sys.exit(status)
    found: dict[str, object] | list[dict[str, object]] = json.loads(text.getvalue())
    return found


def limits(held: WholeNetworks, file_format: str, seed: int) -> dict[str, object]:
    """Search at random limits, measure what was found, and count what keeps its limit.

    Networks are measured in turn with the teacher, and scaled to what the table has of it; `teacher_again` tells what
    it took in each turn, over that.
    """
    workspace, space, table = held.workspace, held.space, held.table(file_format)
    losses = LossTable(LossTable.store(workspace.loss_file(space.origin)).rows())
    influence = Influence.read(workspace.loss_file(space.origin), space)
    problem = build_problem(space, losses, {held.name: table}, z=MARGIN, influence=influence)
    metric = latency_on(held.name)
    teacher = problem.teacher[metric]
    least = min(choice.costs[metric] for choice in problem.front(metric))
    random, wanted = np.random.default_rng(seed), {}
    while len(wanted) < LIMITS:
        limit = float(random.uniform(1.15 * least, teacher))
        try:
            won = rivals.best([problem.limited([Constraint(metric, limit)])], metric)
        except Infeasible:
            continue
        network = won.problem.candidates(won.choice)
        key = network_key(space, places_of(space, network))
        if key not in wanted:
            wanted[key] = (limit, network, *table.predict_latency(space, network))
    with tempfile.TemporaryDirectory() as folder:  # these join no table: they were not drawn, and not asked for
        store = LatencyTable.store(Path(folder) / "found.jsonl")
        for turn in range(TURNS):  # each time loaded anew, and beside the teacher
            time.sleep(PAUSE_S if turn else 0.0)
            failed = held.measure(file_format, {key: found[1] for key, found in wanted.items()}, store.append)
            assert not failed, failed
        turns: dict[str, list[float]] = {}
        again: dict[str, list[float]] = {}
        for row in store.rows():
            turns.setdefault(row.key, []).append(row.measurement.median_s)
            again.setdefault(row.key, []).append(1 / float(row.measurement.conditions[SCALE]))
        measured = {key: statistics.median(times) for key, times in turns.items()}
    searched = [
        {
            "limit_s": limit,
            "predicted_s": predicted,
            "error_s": error,
            "measured_s": measured[key],
            "turns_s": turns[key],
            "teacher_again": again[key],
            "kept": measured[key] <= limit,
        }
        for key, (limit, _, predicted, error) in wanted.items()
    ]
    return {
        "n": len(searched),
        "kept": sum(bool(one["kept"]) for one in searched),
        "loads_kept": float(np.mean([time <= found[0] for key, found in wanted.items() for time in turns[key]])),
        "margin": MARGIN,
        "used": float(np.median([float(one["measured_s"]) / float(one["limit_s"]) for one in searched])),
        "searches": searched,
    }


def told_before(part: dict[str, Any], but: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Return what a part of the result said before it was made again, however it came out, and what it said before."""
    last = {name: value for name, value in part.items() if name not in {"earlier", *but}}
    return [*part.get("earlier", []), *([last] if last else [])]


def latency(held: WholeNetworks, file_format: str) -> dict[str, object]:
    """Return how well a format's table predicts what was held out, and how much of it is doubted."""
    checked = check(held.table(file_format), held.space)
    assert checked is not None, "networks were measured"
    return {**msgspec.to_builtins(checked), **circumstances()}


def circumstances() -> dict[str, object]:
    """Return what it ran on, with which versions, and when."""
    versions = {name: version_of(name) for name in ("torch", "onnx", "onnxruntime", "ai-edge-litert")}
    return {"machine": machine(), "versions": versions, "date": datetime.date.today().isoformat()}


def losses_by(workspace: Workspace, networks: list[dict[str, Any]]) -> dict[str, object]:
    """Return Kendall's tau of each sum with what is lost, of the networks of each seed; and how the harm is summed."""
    space = SearchSpace.load(workspace.space_json)
    influence = Influence.read(workspace.loss_file(space.origin), space)
    assert influence is not None, "distill tells it"
    seeds = {}
    for seed, count in JUDGED.items():
        names = {"-".join(map(str, places_of(space, n))) for _, n in itertools.islice(held_out(space, seed), count)}
        seeds[str(seed)] = {"n": len(names)} | _taus([each for each in networks if each["network"] in names])
    every = _taus(networks)
    harm = every[HARM]
    return {
        "library": space.origin,
        "kendall_tau": harm["miou"],
        "kendall_tau_divergence": harm["divergence"],
        "kendall_tau_error": _error(networks),
        "summed": every,
        "seeds": seeds,
        "interplay": msgspec.to_builtins(influence.interplay),
    }


def _error(networks: list[dict[str, Any]]) -> float:
    """Return the standard error of the harm's tau with the mIoU lost: by leaving out one network after the other."""
    without = [_taus([*networks[:at], *networks[at + 1 :]])[HARM]["miou"] for at in range(len(networks))]
    n = len(networks)
    return float(np.sqrt((n - 1) * np.var(np.array(without, dtype=float))))


def of_libraries(judged: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the taus of the library that was judged now; what others had, summed as it was then; and all it is of.

    What this library had before it was judged again stays as its `earlier`.
    """
    mine = {name: value for name, value in judged.items() if name not in {"networks", "interplay"}}
    before = next((one for one in others if one["library"] == judged["library"]), {})
    mine["earlier"] = told_before(before)
    libraries = [*(one for one in others if one["library"] != judged["library"]), mine]
    names = ("n", "kendall_tau", "kendall_tau_divergence", "kendall_tau_error", "networks", "interplay")
    return {**{name: judged[name] for name in names}, "libraries": libraries}


def _taus(networks: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Return sum -> what is lost -> Kendall's tau."""
    lost = {name: [sign * each[name] for each in networks] for name, sign in (("divergence", 1), ("miou", -1))}
    return {
        summed: {name: kendall_tau([each["sums"][summed] for each in networks], lost[name]) for name in lost}
        for summed in networks[0]["sums"]
    }


def main() -> None:
    """Measure, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", nargs="?", type=Path, default=HERE.parent / "camvid" / "qaedge.toml")
    parser.add_argument("--device", default="", help="where; without it the project's")
    parser.add_argument("--networks", type=int, default=NETWORKS)
    parser.add_argument("--repeat", type=int, default=5, help="loads of each network that is held out")
    parser.add_argument("--as", dest="name", default="", help="put the latencies under this name, and judge no losses")
    parser.add_argument("--formats", default=",".join(FORMATS), help="those to measure")
    parser.add_argument("--parts", default=",".join(PARTS), help="those to judge; latency alone needs no distillation")
    parser.add_argument("--anew", action="store_true", help="measure networks that were held out again")
    flags = parser.parse_args()
    workspace = Workspace.open(flags.project)
    device = flags.device or workspace.project.device
    anew = ["--anew"] if flags.anew else []
    path = HERE / "result.json"
    result: dict[str, Any] = decode_json(path, dict[str, Any]) if path.exists() else {}
    parts = ["latency"] if flags.name else flags.parts.split(",")
    formats = flags.formats.split(",")
    told_by = flags.name or (formats[0] if len(formats) == 1 else "")  # of two formats, `table check` names each
    picture = str(HERE / f"predicted{'-' if told_by else ''}{told_by}.png")
    if "latency" in parts:
        command(
            flags.project,
            *("table", "check", "--device", device, "--networks", str(flags.networks), "--repeat", str(flags.repeat)),
            *("--plot", picture, "--runtime", "both" if len(formats) > 1 else formats[0], *anew),
        )
    with WholeNetworks(workspace, device) as held:
        formats = [kind for kind in formats if held.table(kind).rows]
        if "latency" in parts:
            told = {kind: latency(held, kind) for kind in formats}
            if flags.name:
                result[flags.name] = {"latency": told, "device": device}
            else:
                before = result.get("latency", {})
                for kind, found in told.items():
                    found["earlier"] = told_before(before.get(kind, {}), ("networks",))
                result["latency"] = {**before, **told}
        if "limits" in parts:
            kept = {kind: {**limits(held, kind, SEEDS[kind]), **circumstances()} for kind in formats}
            before = result.get("limits", {})
            for kind, found in kept.items():
                found["earlier"] = told_before(before.get(kind, {}))
            result["limits"] = {**before, **kept}
    if "loss" in parts:
        for seed, count in JUDGED.items():
            found = command(
                flags.project,
                *("table", "check", "--loss", "--networks", str(count), "--seed", str(seed)),
                *("--plot", str(HERE / "ranked.png")),
            )
        assert isinstance(found, dict)
        judged = {**found, **losses_by(workspace, found["networks"]), **circumstances()}
        result["loss"] = of_libraries(judged, result.get("loss", {}).get("libraries", []))
    write_json(path, result)


if __name__ == "__main__":
    main()
