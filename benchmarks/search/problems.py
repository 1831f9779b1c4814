"""Synthetic search problems, from a seed: loss falls with cost, times log-normal noise."""

from __future__ import annotations

import numpy as np

from qaedge.search.knapsack import Constraint, Options, Problem

LATENCY, SIZE, FAR = "latency@bench", "size", "latency@far"
#: Kinds of candidates that a change between costs latency: as three precisions of activations do.
KINDS = 3


def make_problem(
    blocks: int, candidates: int, metrics: tuple[str, ...], noise: float, seed: int = 0, borders: bool = False
) -> Problem:
    """Return a problem whose limits lie halfway between the least network and the one of medians."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(blocks):
        work = draw.uniform(0.1, 1.0, candidates)
        costs = {metric: work * np.exp(draw.normal(0, noise, candidates)) for metric in metrics}
        made.append(Options(f"block{number}", 0.02 / work * np.exp(draw.normal(0, noise, candidates)), costs))
    low = {m: sum(float(b.costs[m].min()) for b in made) for m in metrics}
    middle = {m: sum(float(np.median(b.costs[m])) for b in made) for m in metrics}
    limits = tuple(Constraint(m, low[m] + (middle[m] - low[m]) / 2) for m in metrics)
    if not borders:
        return Problem(tuple(made), {}, limits)
    change = 0.02 * (1 - np.eye(KINDS))
    kind = np.arange(candidates) % KINDS
    return Problem(tuple(made), {}, limits, ({LATENCY: change[np.ix_(kind, kind)]},) * (blocks - 1))


def undominated(block: Options) -> np.ndarray:
    """Return the candidates of a block that no other beats, by sorting: what may be given to the references."""
    columns = [block.losses, *block.costs.values()]
    order = np.lexsort(columns[::-1])
    if len(columns) == 2:
        cost = columns[1][order]
        least = np.concatenate([[np.inf], np.minimum.accumulate(cost)[:-1]])
        return np.sort(order[cost < least])
    kept: list[int] = []
    points = np.column_stack(columns)
    for at in order:
        if not (points[kept] <= points[at]).all(axis=1).any():
            kept.append(int(at))
    return np.sort(np.array(kept))


def pruned(problem: Problem) -> Problem:
    """Return a problem without borders, and without dominated candidates."""
    blocks = []
    for block in problem.blocks:
        at = undominated(block)
        blocks.append(Options(block.name, block.losses[at], {m: c[at] for m, c in block.costs.items()}))
    return Problem(tuple(blocks), problem.base, problem.constraints)
