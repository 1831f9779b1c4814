"""Rivals: the same space as files of several formats and precisions; a network is the fastest of them.

No file mixes formats, nor float with integers, so each kind of file is a problem of its own, and the
best network of all is the best of theirs: exact as each of them is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from qaedge.candidate import Candidate
from qaedge.errors import Infeasible
from qaedge.search.knapsack import Choice, Optimum, multipliers
from qaedge.search.pareto import nondominated
from qaedge.search.sensitivity import Sensitivity, sensitivity
from qaedge.search.space_problem import SpaceProblem


class Contestant(msgspec.Struct, frozen=True, eq=False):
    """A network, and the problem that it is an answer to: that tells which kind of file it is.

    `gap` is how much less loss another network could have, in the losses that are summed: 0 with proof.
    """

    problem: SpaceProblem
    choice: Choice
    gap: float = 0.0

    @property
    def score(self) -> float:
        """What the search makes small: its weighing of the block losses, summed in block order."""
        total = 0.0
        for block, index in zip(self.problem.problem.blocks, self.choice.indices, strict=True):
            total += float(block.losses[index])  # not sum(), which rounds otherwise in later Pythons
        return total


def best(problems: Sequence[SpaceProblem], metric: str) -> Contestant:
    """Return the network of least loss within the limits, as the kind of file that costs least of a metric.

    Args:
        problems: one for each kind of file, all with the same limits.
        metric: what decides between networks of equal loss, such as `latency@pi4`.

    Raises:
        Infeasible: no network keeps the limits as any kind of file; the error tells of the nearest miss.
    """
    return _winner(problems, metric, lambda problem: problem.optimum())


def top(
    problems: Sequence[SpaceProblem],
    metric: str,
    count: int,
    differ: int,
    without: Mapping[str, Sequence[Sequence[Candidate]]] | None = None,
    tell: Callable[[int], None] = lambda found: None,
) -> list[Contestant]:
    """Return the best network, then again and again the best that differs from all before in so many blocks.

    The same network as another kind of file differs in no block. Fewer than `count` where there are no more;
    raise Infeasible where there is none at all.

    Args:
        problems: one for each kind of file, all with the same limits.
        metric: what decides between networks of equal loss.
        count: how many.
        differ: in how many blocks, at least.
        without: format -> networks that are not taken as such files.
        tell: hears how many are found, each time one is.
    """
    barred = without or {}
    found: list[Contestant] = []
    while len(found) < count:
        earlier = [c.problem.candidates(c.choice) for c in found]

        def next_of(problem: SpaceProblem, earlier: list[tuple[Candidate, ...]] = earlier) -> Optimum:
            return problem.apart(earlier, differ, barred.get(problem.format, ()))

        try:
            found.append(_winner(problems, metric, next_of, barred))
            tell(len(found))
        except Infeasible as error:
            if found:
                break
            best(problems, metric)  # where it is the limits themselves, that says by how much they are missed
            raise Infeasible(
                "Every network that is predicted to keep the limits was measured, and misses them.",
                "The device is slower than its table says, or the limits are too close to what it can do.",
            ) from error
    return found


def sensitivities(problems: Sequence[SpaceProblem], won: Contestant) -> list[Sensitivity]:
    """Tell what each limit costs and what more of it would buy, as whatever kind of file.

    Losses are those that are summed, as the search weighs them.
    """
    loss = won.score
    tight = {id(p): p.tightened(won.choice if p is won.problem else None) for p in problems}
    mine = tight[id(won.problem)]
    bought = multipliers(mine, loss)
    told = []
    for metric, limit in won.problem.problem.limits.items():
        each = [one for problem in problems if (one := sensitivity(tight[id(problem)], metric, loss))]
        least = min(each, key=lambda one: (one.next_cost is None, one.next_cost, one.next_loss or 0.0))
        told.append(
            msgspec.structs.replace(
                least,
                next_cost=won.problem.needs(metric, least.next_cost, won.choice),
                limit=min(c.limit for c in won.problem.problem.constraints if c.metric == metric),
                margin=limit - mine.limits[metric],
                cost=won.choice.costs[metric],
                multiplier=bought.get(metric),
                loss_without=min(one.loss_without for one in each),
            )
        )
    return told


def _winner(
    problems: Sequence[SpaceProblem],
    metric: str,
    solve: Callable[[SpaceProblem], Optimum],
    barred: Mapping[str, Sequence[Sequence[Candidate]]] | None = None,
) -> Contestant:
    """Return the network of least loss of all problems, as the kind of file that costs least; raise Infeasible."""
    found: list[Contestant] = []
    missed: list[Infeasible] = []
    for problem in problems:
        try:
            answer = solve(problem)
        except Infeasible as error:
            missed.append(error)
            continue
        found.append(Contestant(problem, problem.plain(answer.choice), answer.gap))
    if not found:
        raise min(missed, key=lambda error: error.miss)
    winner = min(found, key=lambda c: (c.score, c.choice.costs[metric]))
    return min([winner, *_elsewhere(winner, problems, barred or {})], key=lambda c: c.choice.costs[metric])


def front(problems: Sequence[SpaceProblem], *metrics: str) -> list[Contestant]:
    """Return the whole front of loss against one metric or several together, over all kinds of files.

    By rising cost in the order of the metrics; raise Infeasible.
    """
    found: list[Contestant] = []
    missed: list[Infeasible] = []
    for problem in problems:
        try:
            found += [Contestant(problem, choice) for choice in problem.front(*metrics)]
        except Infeasible as error:
            missed.append(error)
    if not found:
        raise min(missed, key=lambda error: error.miss)
    found.sort(key=lambda c: (*(c.choice.costs[metric] for metric in metrics), c.score))
    points = np.array([(c.score, *(c.choice.costs[metric] for metric in metrics)) for c in found])
    return [found[at] for at in nondominated(points)]


def _elsewhere(
    winner: Contestant, problems: Sequence[SpaceProblem], barred: Mapping[str, Sequence[Sequence[Candidate]]]
) -> list[Contestant]:
    """Return the same network as other kinds of files of the same precision, where it keeps the limits, too."""
    network = winner.problem.candidates(winner.choice)
    found = []
    for problem in problems:
        if problem is winner.problem or problem.is_float != winner.problem.is_float:
            continue
        if network in map(tuple, barred.get(problem.format, ())):
            continue
        choice = problem.find(network)
        if choice is not None and problem.keeps_limits(choice):
            found.append(Contestant(problem, choice, winner.gap))
    return found
