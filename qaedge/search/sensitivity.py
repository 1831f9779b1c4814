"""Sensitivity: what a limit costs in loss, and what a little more of it would buy."""

from __future__ import annotations

import msgspec

from qaedge.errors import Infeasible
from qaedge.search.knapsack import Optimum, Problem, least_within, multipliers, optimum

_LOSS = "loss"
#: Less loss by less than this part is the rounding of a sum.
_LESS = 1e-9


class Sensitivity(msgspec.Struct, frozen=True):
    """What one limit means for the best network.

    Attributes:
        metric: what is limited.
        limit: how much is allowed.
        cost: how much the best network takes.
        margin: how much of the limit is kept for the error of that.
        multiplier: how much loss one more unit of the metric buys, by the relaxation: exact on average, not for
            each step; None for a peak, which has none.
        loss_without: the least loss without this limit, the others kept.
        next_cost: the least cost of a network of less loss, the others kept; None where there is none. Where the
            limit has a margin: the limit that lets such a network in.
        next_loss: the least loss within that cost.
    """

    metric: str
    limit: float
    cost: float
    multiplier: float | None
    loss_without: float
    next_cost: float | None
    next_loss: float | None
    margin: float = 0.0

    @property
    def is_binding(self) -> bool:
        """Whether without this limit there would be a network of less loss."""
        return self.next_cost is not None


def sensitivities(problem: Problem, found: Optimum) -> list[Sensitivity]:
    """Tell, for each limit, what it costs and what more of it would buy."""
    made = []
    bought = multipliers(problem, found.choice.loss)
    for metric in problem.limits:
        one = sensitivity(problem, metric, found.choice.loss)
        assert one is not None, "a network that keeps all limits keeps all but one"
        made.append(msgspec.structs.replace(one, cost=found.choice.costs[metric], multiplier=bought.get(metric)))
    return made


def sensitivity(problem: Problem, metric: str, loss: float) -> Sensitivity | None:
    """Tell what a limit costs where the best network has some loss; None where no network keeps the others."""
    limit = min(c.limit for c in problem.constraints if c.metric == metric)
    others = tuple(c for c in problem.constraints if c.metric != metric)
    without = msgspec.structs.replace(problem, constraints=others)
    try:
        loosest = optimum(without).choice
    except Infeasible:
        return None
    next_cost = next_loss = None
    if loosest.loss < loss * (1 - _LESS):
        next_cost, next_loss = _next(without, metric, loss)
    return Sensitivity(metric, limit, 0.0, None, min(loosest.loss, loss), next_cost, next_loss)


def _next(problem: Problem, metric: str, loss: float) -> tuple[float | None, float | None]:
    """Return the least cost of a network of less loss, and its loss: the loss is a limit as any other."""
    blocks = tuple(
        msgspec.structs.replace(block, costs={**block.costs, _LOSS: block.losses}) for block in problem.blocks
    )
    limited = Problem(blocks, problem.base, (), problem.borders)
    cost = least_within(limited, metric, {**problem.limits, _LOSS: loss * (1 - _LESS)})
    if cost is None:
        return None, None
    best = least_within(limited, _LOSS, {**problem.limits, metric: cost})
    return cost, best
