"""How long the search takes, against integer programming by HiGHS (`scipy.optimize.milp`) and enumeration.

Run: `python benchmarks/search/search_speed.py`; writes `result.json` beside it. Tables are synthetic, from a
seed: loss falls with cost, times log-normal noise, so that the fronts are long. The case "6x200" is also timed
as the whole work of `qaedge search` on files: reading the space and both tables (raw samples and all), and
solving under a latency and a size limit.
"""

from __future__ import annotations

import itertools
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from qaedge import __version__
from qaedge.candidate import BlockSpec, Candidate, LayerSpec, QuantScheme
from qaedge.files import write_json
from qaedge.measurement import Measurement
from qaedge.search import Choice, Constraint, Options, Problem, build_problem, front, solve
from qaedge.space import Block, SearchSpace
from qaedge.tables import LatencyRow, LatencyTable, LossRow, LossTable, anchor_key

T = TypeVar("T")
LATENCY, SIZE = "latency@bench", "size"


def make_problem(blocks: int, candidates: int, metrics: tuple[str, ...], noise: float, seed: int = 0) -> Problem:
    """Return a problem whose limits lie halfway between the least network and the one of medians."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(blocks):
        work = draw.uniform(0.1, 1.0, candidates)
        costs = {metric: work * np.exp(draw.normal(0, noise, candidates)) for metric in metrics}
        made.append(Options(f"block{number}", 0.02 / work * np.exp(draw.normal(0, noise, candidates)), costs))
    low = {m: sum(float(b.costs[m].min()) for b in made) for m in metrics}
    middle = {m: sum(float(np.median(b.costs[m])) for b in made) for m in metrics}
    return Problem(tuple(made), {}, tuple(Constraint(m, low[m] + (middle[m] - low[m]) / 2) for m in metrics))


def timed(work: Callable[[], T], repeats: int = 5) -> tuple[float, T]:
    """Return the median of the wall times [s], and the answer."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        answer = work()
        times.append(time.perf_counter() - start)
    return float(np.median(times)), answer


def by_milp(problem: Problem) -> float:
    """Return the optimum by HiGHS, with no gap allowed."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    sizes = [len(block.losses) for block in problem.blocks]
    losses = np.concatenate([block.losses for block in problem.blocks])
    row = np.repeat(np.arange(len(sizes)), sizes)
    pick = csr_array((np.ones(len(losses)), (row, np.arange(len(losses)))))
    limits = [LinearConstraint(pick, 1, 1)]
    for metric, bound in problem.limits.items():
        costs = np.concatenate([block.costs[metric] for block in problem.blocks])
        limits.append(LinearConstraint(costs[None, :], -np.inf, bound - problem.base.get(metric, 0.0)))
    found = milp(
        losses,
        constraints=limits,
        integrality=np.ones(len(losses)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    return float(found.fun)


def by_enumeration(problem: Problem, metric: str) -> list[tuple[float, float]]:
    """Return the front (cost, loss) by plain merging: every sum made, sorted, the falling ones kept."""
    costs, losses = np.array([problem.base.get(metric, 0.0)]), np.zeros(1)
    for block in problem.blocks:
        costs = (costs[:, None] + block.costs[metric][None]).reshape(-1)
        losses = (losses[:, None] + block.losses[None]).reshape(-1)
        order = np.lexsort((losses, costs))
        costs, losses = costs[order], losses[order]
        keep = losses < np.concatenate([[np.inf], np.minimum.accumulate(losses)[:-1]])
        costs, losses = costs[keep], losses[keep]
    return list(zip(costs.tolist(), losses.tolist(), strict=True))


def by_epsilon(problem: Problem, metric: str, points: list[Choice]) -> bool:
    """Whether each of 20 points of a front is the optimum of HiGHS at its own cost."""
    others = tuple(c for c in problem.constraints if c.metric != metric)
    for point in points[:: max(1, len(points) // 20)]:
        limited = Problem(problem.blocks, problem.base, (Constraint(metric, point.costs[metric]), *others))
        if abs(by_milp(limited) - point.loss) > 1e-9:
            return False
    return True


def optimum_row(blocks: int, candidates: int, metrics: tuple[str, ...], noise: float) -> dict[str, Any]:
    """Time one optimum, and check it against HiGHS."""
    problem = make_problem(blocks, candidates, metrics, noise)
    seconds, choice = timed(lambda: solve(problem))
    reference_seconds, reference = timed(lambda: by_milp(problem), repeats=1)
    equal = abs(choice.loss - reference) <= 1e-9
    return row(blocks, candidates, metrics, noise, "optimum", seconds, 1, "scipy milp", reference_seconds, equal)


def front_row(blocks: int, candidates: int, metrics: tuple[str, ...], noise: float) -> dict[str, Any]:
    """Time a whole front, and check all of it by plain merging, or a part of it by HiGHS."""
    problem = make_problem(blocks, candidates, metrics, noise)
    seconds, points = timed(lambda: front(problem, LATENCY), repeats=3)
    if len(metrics) == 1:
        reference = "plain merging of all sums"
        reference_seconds, wanted = timed(lambda: by_enumeration(problem, LATENCY), repeats=1)
        equal = [(p.costs[LATENCY], p.loss) for p in points] == wanted
    else:
        reference = "scipy milp at 20 points"
        reference_seconds, equal = timed(lambda: by_epsilon(problem, LATENCY, points), repeats=1)
    return row(blocks, candidates, metrics, noise, "front", seconds, len(points), reference, reference_seconds, equal)


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
    made = row(4, 6, (LATENCY, SIZE), 0.3, "front", ours / 200, 0, "brute force", theirs / 200, bool(equal))
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
    made = row(blocks, candidates, (LATENCY, SIZE), 0.3, "optimum", seconds, 1, "scipy milp", reference_seconds, equal)
    return {**made, "note": "files read, raw samples and all, then solved"}


def write_files(folder: Path, blocks: int, candidates: int) -> None:
    """Write a space and its two tables, with 60 raw samples in each latency row."""
    draw = np.random.default_rng(1)
    made = []
    for number in range(blocks):
        shape = (8 * (number + 1), 45, 60)
        specs = [BlockSpec((LayerSpec("own", digest=f"{number:012x}"),))]
        specs += [
            BlockSpec((LayerSpec("ir", kernel=k, expansion=e, channels=32),) * depth)
            for depth, k, e in itertools.product(range(1, 6), (3, 5, 7), range(1, 15))
        ]
        chosen = tuple(Candidate(spec, QuantScheme(8, 8), shape) for spec in specs[:candidates])
        made.append(Block(f"block{number}", shape, shape, chosen))
    space = SearchSpace("bench", "0" * 64, tuple(made))
    space.save(folder / "space.json")
    latencies = [LatencyRow(anchor_key(space, "w8a8"), "u8u8", 2_500_000, 2_400_000, measure(0.1, draw))]
    losses = []
    for block in space.blocks:
        for number, candidate in enumerate(block.candidates):
            work = 1.0 if number == 0 else float(draw.uniform(0.1, 1.0))
            seconds, size = 0.015 * work * float(np.exp(draw.normal(0, 0.1))), round(4e5 * work)
            latencies.append(LatencyRow(candidate.key, "u8u8", size, size, measure(seconds, draw)))
            loss = 0.001 if number == 0 else 0.02 / work * float(np.exp(draw.normal(0, 0.3)))
            losses.append(
                LossRow(
                    block.name, str(candidate.spec), str(candidate.scheme), loss, loss, 120, 3.0, 2.5, "", "teacher", {}
                )
            )
    append_all(LossTable.store(folder / "loss.jsonl"), losses)
    append_all(LatencyTable.store(folder / "latency.jsonl"), latencies)


def append_all(store: Any, rows: list[Any]) -> None:
    """Append rows one by one, as the work that makes them does."""
    for made in rows:
        store.append(made)


def measure(seconds: float, draw: np.random.Generator) -> Measurement:
    """Return a measurement of five rounds of twelve samples."""
    samples = seconds * np.exp(draw.normal(0, 0.01, (5, 12)))
    return Measurement(
        sha256="0" * 64,
        device="bench",
        runtime="onnxruntime",
        runtime_version="0",
        threads=1,
        rounds=tuple(tuple(r) for r in samples.tolist()),
        repeats=1,
        warmup_s=(seconds,) * 8,
        load_s=0.01,
        first_run_s=seconds * 2,
        overhead_s=1e-5,
        peak_memory_bytes=10_000_000,
        started_at="2025-01-01T00:00:00Z",
        settings={"round_samples": 10, "round_s": 0.05, "rounds": 9},
        fingerprint={"kernel": "0", "governor": "performance", "cpu": "synthetic"},
        conditions={"before": {"load": 0.1}, "after": {"load": 0.1}},
    )


def row(
    blocks: int,
    candidates: int,
    metrics: tuple[str, ...],
    noise: float,
    what: str,
    seconds: float,
    points: int,
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
        "reference": reference,
        "reference_seconds": float(f"{reference_seconds:.3g}"),
        "equal": bool(equal),
    }


def machine() -> dict[str, Any]:
    """Say what this ran on."""
    import scipy

    name = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "processor": name,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "qaedge": __version__,
    }


def main() -> None:
    """Run every case, print a line for each, and write the result."""
    one, two = (LATENCY,), (LATENCY, SIZE)
    work: list[Callable[[], dict[str, Any]]] = [brute_force_row, lambda: files_row(6, 200)]
    for blocks, candidates in ((6, 200), (7, 24), (6, 5000)):
        work += [
            lambda b=blocks, c=candidates: optimum_row(b, c, one, 0.3),
            lambda b=blocks, c=candidates: optimum_row(b, c, two, 0.3),
            lambda b=blocks, c=candidates: front_row(b, c, one, 0.3),
        ]
    work += [
        lambda: front_row(6, 5000, one, 0.01),
        lambda: front_row(6, 200, two, 0.3),
        lambda: front_row(7, 24, two, 0.3),
    ]
    rows = []
    for case in work:
        rows.append(case())
        print(rows[-1], flush=True)
    result = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "command": "python benchmarks/search/search_speed.py",
        "machine": machine(),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "rows": rows,
    }
    write_json(Path(__file__).with_name("result.json"), result)
    if not all(made["equal"] for made in rows):
        sys.exit("An answer differs from its reference.")


if __name__ == "__main__":
    main()
