"""Exclusion: the best network that is none of those known already.

What is left without one network falls into parts: those that differ from it in the first block, those that have its
first block and differ in the second, and so on. Each is a problem as any other with fewer candidates, so the best of
what is left is found by solving them. (Murty, "An algorithm for ranking all the assignments in order of increasing
cost", Operations Research 1968; Lawler, Management Science 1972.)
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection, Mapping

import msgspec
import numpy as np

from qaedge.errors import Infeasible
from qaedge.search.knapsack import Optimum, Problem
from qaedge.search.margin import Margin
from qaedge.search.problem import Positions, choice

#: Of each block, the places of the candidates that may be chosen.
Allowed = tuple[Positions, ...]

#: Finds the best network of a part; what it returns has indices into the part.
Solve = Callable[[Problem, Mapping[str, Margin], Allowed], Optimum]


def best_outside(
    problem: Problem, margins: Mapping[str, Margin], known: Collection[tuple[int, ...]], solve: Solve
) -> Optimum:
    """Return the network of least loss that is none of the known ones.

    Args:
        problem: what is to be solved.
        margins: metric -> how uncertain it is.
        known: networks, by the candidate in each block.
        solve: solves a part.

    Raises:
        Infeasible: there is none within the limits; of several parts, that of the whole.
    """
    whole = tuple(np.arange(len(block.losses)) for block in problem.blocks)
    order = itertools.count()

    def solved(allowed: Allowed) -> tuple[float, int, tuple[int, ...], Allowed]:
        found = solve(_part(problem, allowed), _margins(margins, allowed), allowed)
        indices = tuple(int(places[at]) for places, at in zip(allowed, found.choice.indices, strict=True))
        return found.bound, next(order), indices, allowed

    parts = [solved(whole)]
    while parts:
        bound, _, indices, allowed = heapq.heappop(parts)
        if indices not in known:
            return Optimum(choice(problem, np.array(indices)), bound)
        for number, at in enumerate(indices):
            rest = allowed[number][allowed[number] != at]
            if len(rest):
                same = tuple(np.array([index]) for index in indices[:number])
                try:
                    heapq.heappush(parts, solved((*same, rest, *allowed[number + 1 :])))
                except Infeasible:
                    continue
    raise Infeasible("Every network within the limits is known already.", "Loosen a limit, or take one of those.")


def _part(problem: Problem, allowed: Allowed) -> Problem:
    """Return the problem with these candidates alone."""
    blocks = tuple(
        msgspec.structs.replace(
            block,
            losses=block.losses[places],
            costs={metric: values[places] for metric, values in block.costs.items()},
            peaks={metric: values[places] for metric, values in block.peaks.items()},
        )
        for block, places in zip(problem.blocks, allowed, strict=True)
    )
    borders = tuple(
        {metric: values[np.ix_(left, right)] for metric, values in border.items()}
        for border, left, right in zip(problem.borders, allowed, allowed[1:], strict=False)
    )
    return Problem(blocks, problem.base, problem.constraints, borders)


def _margins(margins: Mapping[str, Margin], allowed: Allowed) -> dict[str, Margin]:
    return {
        metric: msgspec.structs.replace(
            margin, variances=tuple(v[places] for v, places in zip(margin.variances, allowed, strict=True))
        )
        for metric, margin in margins.items()
    }
