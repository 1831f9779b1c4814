"""Variety: networks that are nearly as good as the best, and differ from it and from each other.

How many blocks a network shares with an earlier one is a sum over its blocks, so that it be at most so
many is a limit as any other, and the answer is exact as any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from qaedge.errors import Infeasible
from qaedge.search.knapsack import Constraint, Optimum, Problem, optimum
from qaedge.search.problem import choice


def apart(problem: Problem, earlier: Sequence[Sequence[int | None]], differ: int) -> Optimum:
    """Return the network of least loss that differs from each earlier one in at least so many blocks.

    Args:
        problem: what is to be solved.
        earlier: networks, by the candidate in each block; None where that is not one of the problem's.
        differ: the number of blocks.

    Raises:
        Infeasible: there is no other within the limits.
    """
    count = len(problem.blocks)
    limits = list(problem.constraints)
    shared: list[dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]] = [{} for _ in range(count)]
    for number, network in enumerate(earlier):
        if sum(place is not None for place in network) <= count - differ:
            continue  # shares too little as it is
        name = f"shared@{number}"
        limits.append(Constraint(name, float(count - differ)))
        for block, place, columns in zip(problem.blocks, network, shared, strict=True):
            columns[name] = np.zeros(len(block.losses))
            if place is not None:
                columns[name][place] = 1.0
    blocks = tuple(
        msgspec.structs.replace(block, costs={**block.costs, **columns})
        for block, columns in zip(problem.blocks, shared, strict=True)
    )
    try:
        found = optimum(Problem(blocks, problem.base, tuple(limits), problem.borders))
    except Infeasible as error:
        raise Infeasible(
            f"No other network within the limits differs from those before in {differ} or more blocks.",
            "Ask for fewer networks, or let them differ in fewer blocks.",
        ) from error
    plain = choice(problem, np.array(found.choice.indices))
    return Optimum(plain, found.bound)


def varied(problem: Problem, count: int, differ: int) -> list[Optimum]:
    """Return the best network, then again and again the best that differs from all before in so many blocks.

    Fewer than `count` where there are no more; raise Infeasible where there is none at all.
    """
    found = [optimum(problem)]
    while len(found) < count:
        try:
            found.append(apart(problem, [one.choice.indices for one in found], differ))
        except Infeasible:
            break
    return found
