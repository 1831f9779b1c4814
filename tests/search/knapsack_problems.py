"""Small problems of every sort, and every network of them: what exact answers are held against."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st

from qaedge.search.knapsack import Choice, Constraint, Options, Problem

METRICS = ("latency@local", "size", "energy")
PEAK = "peak"


@st.composite
def problems(draw, fewest=0, most=3, borders=None, peaks=None):
    """Eighths make sums exact and ties many, odd fractions round and make ties rare."""
    count = draw(st.integers(fewest, most))
    metrics = METRICS[:count]
    step, most_value = draw(st.sampled_from([(1, 6), (8, 40), (1_000_003, 1_000_003)]))
    value = st.integers(0, most_value).map(lambda number: number / step)
    has_peak = draw(st.booleans()) if peaks is None else peaks
    has_borders = bool(count) and (draw(st.booleans()) if borders is None else borders)
    blocks = []
    for number in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 6))
        column = st.lists(value, min_size=size, max_size=size).map(np.array)
        peak = {PEAK: draw(column)} if has_peak else {}
        blocks.append(Options(f"b{number}", draw(column), {m: draw(column) for m in metrics}, peak))
    base = {m: draw(st.integers(-3, 3)) / 2 for m in metrics}
    made: list[dict[str, np.ndarray]] = []
    if has_borders:
        for left, right in itertools.pairwise(blocks):
            made.append({})
            for metric in draw(st.sets(st.sampled_from(metrics))):
                # Few kinds on either side, as a change of precision or layout has; or each candidate its own.
                kinds = draw(st.integers(1, 6))
                rows = draw(st.lists(st.integers(0, kinds - 1), min_size=len(left.losses), max_size=len(left.losses)))
                columns = draw(
                    st.lists(st.integers(0, kinds - 1), min_size=len(right.losses), max_size=len(right.losses))
                )
                table = draw(st.lists(st.integers(-2, most_value), min_size=kinds * kinds, max_size=kinds * kinds))
                made[-1][metric] = np.array(table).reshape(kinds, kinds)[np.ix_(rows, columns)] / step
    problem = Problem(tuple(blocks), base, (), tuple(made))
    limits = []
    everything = enumerate_all(problem)
    for metric in (*metrics, *((PEAK,) if has_peak else ())):
        values = [choice.costs[metric] for choice in everything]
        low, high = min(values), max(values)
        limits.append(Constraint(metric, low + draw(st.integers(-1, 9)) / 8 * (high - low)))
    return Problem(tuple(blocks), base, tuple(limits), tuple(made))


def enumerate_all(problem):
    """Return every network, summed in block order."""
    made = []
    for indices in itertools.product(*(range(len(block.losses)) for block in problem.blocks)):
        loss, costs = 0.0, {m: problem.base.get(m, 0.0) for m in problem.metrics}
        for number, (block, index) in enumerate(zip(problem.blocks, indices, strict=True)):
            loss += float(block.losses[index])
            if number and problem.borders:
                for metric, matrix in problem.borders[number - 1].items():
                    costs[metric] += float(matrix[indices[number - 1], index])
            for metric in block.costs:
                costs[metric] += float(block.costs[metric][index])
            for metric in block.peaks:
                costs[metric] = max(costs[metric], float(block.peaks[metric][index]))
        made.append(Choice(indices, loss, costs))
    return made


def enumerate_kept(problem, aside=()):
    limits = {m: bound for m, bound in problem.limits.items() if m not in aside}
    return [c for c in enumerate_all(problem) if all(c.costs[m] <= limits[m] for m in limits)]


def make_problem(blocks, count, metrics, seed=0, tightness=0.5, noise=0.3):
    """A larger problem, too large to enumerate: losses fall with costs, with noise."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(blocks):
        work = draw.uniform(0.1, 1.0, count)
        costs = {m: work * np.exp(draw.normal(0, noise, count)) for m in metrics}
        made.append(Options(f"b{number}", 0.02 / work * np.exp(draw.normal(0, noise, count)), costs))
    low = {m: sum(float(b.costs[m].min()) for b in made) for m in metrics}
    mid = {m: sum(float(np.median(b.costs[m])) for b in made) for m in metrics}
    limits = tuple(Constraint(m, low[m] + tightness * (mid[m] - low[m])) for m in metrics)
    return Problem(tuple(made), {}, limits)
