"""How long the search takes, against integer programming (HiGHS by `scipy.optimize.milp`, CP-SAT) and enumeration.

Run: `python benchmarks/search/search_speed.py [CASE...]`; writes `result.json` beside it, of the cases named (such as
20x10000) those rows alone anew. Tables are synthetic, from a seed: loss falls with cost, times log-normal noise; the
less noise, the longer the fronts. Each row runs in a process of its own, its reference in another: `peak_bytes` is the
first one's. The case "6x200" is also timed as the whole work of `qaedge search` on files: reading the space and both
tables (raw samples and all), and solving under a latency and a size limit. CP-SAT runs where `ortools` is installed.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from problems import FAR, LATENCY, SIZE, make_problem, pruned
from references import by_cp_sat, by_enumeration, by_epsilon, by_milp
from state_files import write_files

from qaedge.files import write_json
from qaedge.search.knapsack import Choice, Constraint, Options, Problem, front, optimum, solve, surface
from qaedge.search.space_problem import build_problem
from qaedge.search.variety import varied
from qaedge.space import SearchSpace
from qaedge.tables import LatencyTable, LossTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import machine, version_of

T = TypeVar("T")


def timed(work: Callable[[], T], repeats: int = 5) -> tuple[float, T]:
    """Return the median of the wall times [s], and the answer."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        answer = work()
        times.append(time.perf_counter() - start)
    return float(np.median(times)), answer


def apart(work: Callable[[], T]) -> tuple[T, int]:
    """Do work in a process of its own; return what it returns, and its peak of memory [bytes]."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def body() -> None:
        answer = work()
        send.send((answer, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))

    process = context.Process(target=body)
    process.start()
    send.close()
    try:
        answer: tuple[T, int] = receive.recv()
    except EOFError:
        raise SystemExit(f"A case ended with the status {process.exitcode}.") from None
    process.join()
    return answer


def optimum_row(
    blocks: int,
    candidates: int,
    metrics: tuple[str, ...],
    noise: float,
    solver: str = "scipy milp",
    prune: bool = False,
    borders: bool = False,
) -> dict[str, Any]:
    """Time one optimum, and check it against a solver, which is given what no other candidate dominates where asked."""

    def ours() -> tuple[float, tuple[float, bool]]:
        problem = make_problem(blocks, candidates, metrics, noise, borders=borders)
        seconds, found = timed(lambda: optimum(problem))
        return seconds, (found.choice.loss, found.is_proven)

    def theirs() -> tuple[float, float]:
        problem = make_problem(blocks, candidates, metrics, noise, borders=borders)
        problem = pruned(problem) if prune else problem
        return timed(lambda: by_milp(problem) if solver == "scipy milp" else by_cp_sat(problem), repeats=1)

    (seconds, (loss, proven)), peak = apart(ours)
    (reference_seconds, wanted), _ = apart(theirs)
    equal = proven and abs(loss - wanted) <= 1e-9
    name = solver + (", of undominated candidates" if prune else "")
    what = "optimum, a change of kind costs" if borders else "optimum"
    return row(blocks, candidates, metrics, noise, what, seconds, 1, peak, name, reference_seconds, equal)


def front_row(blocks: int, candidates: int, metrics: tuple[str, ...], noise: float) -> dict[str, Any]:
    """Time a whole front, and check all of it by plain merging, or a part of it by HiGHS."""

    def ours() -> tuple[float, list[Choice]]:
        problem = make_problem(blocks, candidates, metrics, noise)
        return timed(lambda: front(problem, LATENCY), repeats=5)

    def theirs() -> tuple[float, Any]:
        problem = make_problem(blocks, candidates, metrics, noise)
        if len(metrics) == 1:
            return timed(lambda: by_enumeration(pruned(problem), LATENCY), repeats=1)
        return timed(lambda: by_epsilon(problem, LATENCY, points), repeats=1)

    (seconds, points), peak = apart(ours)
    (reference_seconds, wanted), _ = apart(theirs)
    equal = wanted if len(metrics) > 1 else [(p.costs[LATENCY], p.loss) for p in points] == wanted
    reference = "plain merging, of undominated candidates" if len(metrics) == 1 else "scipy milp at 20 points"
    return row(
        blocks, candidates, metrics, noise, "front", seconds, len(points), peak, reference, reference_seconds, equal
    )


def surface_row(blocks: int, candidates: int, noise: float) -> dict[str, Any]:
    """Time the front over latency and size together, and check 20 points of it by HiGHS."""
    metrics = (LATENCY, SIZE)

    def ours() -> tuple[float, list[Choice]]:
        problem = make_problem(blocks, candidates, metrics, noise)
        return timed(lambda: surface(problem, metrics), repeats=3)

    def theirs() -> tuple[float, bool]:
        problem = make_problem(blocks, candidates, metrics, noise)

        def check() -> bool:
            for point in points[:: max(1, len(points) // 20)]:
                limits = tuple(Constraint(m, point.costs[m]) for m in metrics)
                if abs(by_milp(Problem(problem.blocks, {}, limits)) - point.loss) > 1e-9:
                    return False
            return True

        return timed(check, repeats=1)

    (seconds, points), peak = apart(ours)
    (reference_seconds, equal), _ = apart(theirs)
    return row(
        blocks,
        candidates,
        metrics,
        noise,
        "front over both",
        seconds,
        len(points),
        peak,
        "scipy milp at 20 points",
        reference_seconds,
        equal,
    )


def varied_row(blocks: int, candidates: int, noise: float, count: int, differ: int) -> dict[str, Any]:
    """Time the best networks that differ in so many blocks, and check each by HiGHS: shared blocks as another cost."""
    metrics = (LATENCY,)

    def ours() -> tuple[float, list[Choice]]:
        problem = make_problem(blocks, candidates, metrics, noise)
        return timed(lambda: [one.choice for one in varied(problem, count, differ)], repeats=3)

    def theirs() -> tuple[float, bool]:
        problem = make_problem(blocks, candidates, metrics, noise)

        def check() -> bool:
            made, limits = problem.blocks, problem.constraints
            for number, one in enumerate(found):
                if abs(by_milp(Problem(made, {}, limits)) - one.loss) > 1e-9:
                    return False
                name = f"shared{number}"
                made = tuple(
                    Options(b.name, b.losses, {**b.costs, name: (np.arange(candidates) == i).astype(float)})
                    for b, i in zip(made, one.indices, strict=True)
                )
                limits = (*limits, Constraint(name, float(blocks - differ)))
            return True

        return timed(check, repeats=1)

    (seconds, found), peak = apart(ours)
    (reference_seconds, equal), _ = apart(theirs)
    what = f"{count} networks that differ in {differ} blocks"
    return row(
        blocks, candidates, metrics, noise, what, seconds, len(found), peak, "scipy milp", reference_seconds, equal
    )


def brute_force_row() -> dict[str, Any]:
    """Check 200 small problems, each optimum and front, against every network there is."""
    ours, theirs, equal, networks = 0.0, 0.0, True, 0
    for seed in range(200):
        problem = make_problem(4, 6, (LATENCY, SIZE), 0.3, seed)
        start = time.perf_counter()
        points = front(problem, LATENCY)
        best = solve(problem)
        middle = time.perf_counter()
        sums = []
        for indices in itertools.product(range(6), repeat=4):
            loss, latency, size = 0.0, 0.0, 0.0
            for block, index in zip(problem.blocks, indices, strict=True):
                loss += block.losses[index]
                latency += block.costs[LATENCY][index]
                size += block.costs[SIZE][index]
            sums.append((latency, loss, size))
        bounds = problem.limits
        wanted: list[tuple[float, float]] = []
        for latency, loss, size in sorted(sums):
            if size <= bounds[SIZE] and (not wanted or loss < wanted[-1][1]):
                wanted.append((latency, loss))
        ours, theirs = ours + middle - start, theirs + time.perf_counter() - middle
        networks += len(sums)
        equal &= [(p.costs[LATENCY], p.loss) for p in points] == wanted
        equal &= best.loss == min(s[1] for s in sums if s[0] <= bounds[LATENCY] and s[2] <= bounds[SIZE])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    made = row(4, 6, (LATENCY, SIZE), 0.3, "front", ours / 200, 0, peak, "brute force", theirs / 200, bool(equal))
    return {**made, "points": networks, "note": "200 problems, each optimum and front; points: networks enumerated"}


def files_row(blocks: int, candidates: int) -> dict[str, Any]:
    """Time reading the files of a project and solving under two limits, as `qaedge search` does after its start."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, blocks, candidates)

        def search() -> Choice:
            space = SearchSpace.load(folder / "space.json")
            losses = LossTable(LossTable.store(folder / "loss.jsonl").rows())
            table = LatencyTable("bench", LatencyTable.store(folder / "latency.jsonl").rows())
            found = build_problem(space, losses, {"bench": table})
            limits = [Constraint(metric, found.teacher[metric] * 0.7) for metric in (LATENCY, SIZE)]
            limited = found.limited(limits)
            problem.append(limited.problem)
            choice = limited.solve()
            limited.architecture(choice)
            return choice

        problem: list[Problem] = []
        seconds, choice = timed(search)
        reference_seconds, reference = timed(lambda: by_milp(problem[-1]), repeats=1)
    equal = abs(choice.loss - reference) <= 1e-9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    made = row(
        blocks, candidates, (LATENCY, SIZE), 0.3, "optimum", seconds, 1, peak, "scipy milp", reference_seconds, equal
    )
    return {**made, "note": "files read, raw samples and all, then solved"}


def row(
    blocks: int,
    candidates: int,
    metrics: tuple[str, ...],
    noise: float,
    what: str,
    seconds: float,
    points: int,
    peak_bytes: int,
    reference: str,
    reference_seconds: float,
    equal: bool,
) -> dict[str, Any]:
    """Return one row of the result."""
    return {
        "case": f"{blocks}x{candidates}",
        "what": what,
        "limits": [m.partition("@")[0] for m in metrics],
        "noise": noise,
        "seconds": float(f"{seconds:.3g}"),
        "points": points,
        "peak_bytes": peak_bytes,
        "reference": reference,
        "reference_seconds": float(f"{reference_seconds:.3g}"),
        "equal": bool(equal),
    }


def cases() -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """Return every row by its case."""
    one, two, three = (LATENCY,), (LATENCY, SIZE), (LATENCY, FAR, SIZE)
    made: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("4x6", lambda: apart(brute_force_row)[0]),
        ("6x200", lambda: apart(lambda: files_row(6, 200))[0]),
    ]

    def add(work: Callable[..., dict[str, Any]], blocks: int, candidates: int, *rest: Any, **named: Any) -> None:
        made.append((f"{blocks}x{candidates}", lambda: work(blocks, candidates, *rest, **named)))

    for blocks, candidates in ((6, 200), (7, 24), (6, 5000)):
        add(optimum_row, blocks, candidates, one, 0.3)
        add(optimum_row, blocks, candidates, two, 0.3)
        add(front_row, blocks, candidates, one, 0.3)
    solvers = ["scipy milp", *(["ortools CP-SAT"] if version_of("ortools") else [])]
    for solver in solvers[1:]:
        add(optimum_row, 6, 5000, one, 0.3, solver)
    add(optimum_row, 6, 5000, three, 0.3)
    add(optimum_row, 6, 5000, one, 0.3, borders=True)
    add(front_row, 6, 5000, one, 0.01)
    for solver in solvers:
        add(optimum_row, 20, 10_000, one, 0.01, solver, prune=True)
    add(optimum_row, 20, 10_000, two, 0.3, prune=True)
    add(front_row, 20, 10_000, one, 0.01)
    add(front_row, 20, 10_000, one, 0.004)
    for solver in solvers:
        add(optimum_row, 6, 419_904, one, 0.01, solver, prune=True)
    add(front_row, 6, 200, two, 0.3)
    add(front_row, 7, 24, two, 0.3)
    add(surface_row, 7, 24, 0.3)
    add(surface_row, 6, 200, 0.1)
    add(varied_row, 6, 200, 0.3, 5, 2)
    return made


def main() -> None:
    """Run every case, or those that are named, print a line for each, and write the result."""
    named = sys.argv[1:]
    path = Path(__file__).with_name("result.json")
    rows = [made for made in json.loads(path.read_text())["rows"] if made["case"] not in named] if named else []
    for name, case in cases():
        if not named or name in named:
            rows.append(case())
            print(rows[-1], flush=True)
    result = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "command": "python benchmarks/search/search_speed.py",
        "machine": machine(),
        "peak_bytes": max(made["peak_bytes"] for made in rows),
        "rows": rows,
    }
    write_json(path, result)
    if not all(made["equal"] for made in rows):
        sys.exit("An answer differs from its reference.")


if __name__ == "__main__":
    main()
