"""What the search is held against: integer programming by HiGHS and CP-SAT, and plain merging."""

from __future__ import annotations

import itertools

import numpy as np
from problems import KINDS

from qaedge.search.knapsack import Choice, Constraint, Problem


def by_milp(problem: Problem) -> float:
    """Return the loss of the optimum by HiGHS, with no gap allowed; borders by the flow between kinds of candidates."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, lil_array

    sizes = [len(block.losses) for block in problem.blocks]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    count, flows = int(starts[-1]), KINDS * KINDS * (len(sizes) - 1) if problem.borders else 0
    losses = np.concatenate([*(block.losses for block in problem.blocks), np.zeros(flows)])
    row = np.repeat(np.arange(len(sizes)), sizes)
    pick = csr_array((np.ones(count), (row, np.arange(count))), shape=(len(sizes), count + flows))
    limits = [LinearConstraint(pick, 1, 1)]
    for metric, bound in problem.limits.items():
        changes = [
            problem.borders[n][metric][:KINDS, :KINDS].reshape(-1)
            if metric in problem.borders[n]
            else np.zeros(KINDS**2)
            for n in range(len(sizes) - 1 if flows else 0)
        ]
        costs = np.concatenate([*(block.costs[metric] for block in problem.blocks), *changes])
        limits.append(LinearConstraint(costs[None, :], -np.inf, bound - problem.base.get(metric, 0.0)))
    if flows:
        even = lil_array((2 * KINDS * (len(sizes) - 1), count + flows))
        for number, kind in itertools.product(range(len(sizes) - 1), range(KINDS)):
            flow = count + number * KINDS * KINDS
            out, into = 2 * (number * KINDS + kind), 2 * (number * KINDS + kind) + 1
            even[out, starts[number] + kind : starts[number + 1] : KINDS] = -1
            even[out, flow + kind * KINDS : flow + (kind + 1) * KINDS] = 1
            even[into, starts[number + 1] + kind : starts[number + 2] : KINDS] = -1
            even[into, flow + kind : flow + KINDS * KINDS : KINDS] = 1
        limits.append(LinearConstraint(even.tocsr(), 0, 0))
    found = milp(
        losses,
        constraints=limits,
        integrality=np.concatenate([np.ones(count), np.zeros(flows)]),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    # Its integers are whole within 10^-6: what was chosen is added up again.
    picked = np.split(found.x[:count], starts[1:-1])
    return float(sum(block.losses[part.argmax()] for block, part in zip(problem.blocks, picked, strict=True)))


def by_cp_sat(problem: Problem) -> float:
    """Return the optimum by CP-SAT: on integers, 10^10 to one, and the chosen candidates' losses added up again."""
    from ortools.sat.python import cp_model

    scale = 1e10
    model = cp_model.CpModel()
    picks = [[model.new_bool_var("") for _ in block.losses] for block in problem.blocks]
    for pick in picks:
        model.add_exactly_one(pick)
    flat = [variable for pick in picks for variable in pick]
    for metric, bound in problem.limits.items():
        costs = np.concatenate([block.costs[metric] for block in problem.blocks])
        model.add(
            cp_model.LinearExpr.weighted_sum(flat, np.floor(costs * scale).astype(int).tolist()) <= int(bound * scale)
        )
    losses = np.concatenate([block.losses for block in problem.blocks])
    model.minimize(cp_model.LinearExpr.weighted_sum(flat, np.rint(losses * scale).astype(int).tolist()))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 2
    solver.parameters.max_time_in_seconds = 600
    status = solver.solve(model)
    if status != cp_model.OPTIMAL:
        raise SystemExit(f"CP-SAT ended without a proof: {solver.status_name(status)}.")
    return float(sum(loss for loss, variable in zip(losses.tolist(), flat, strict=True) if solver.value(variable)))


def by_enumeration(problem: Problem, metric: str) -> list[tuple[float, float]]:
    """Return the front (cost, loss) by plain merging: all sums, a million at once, sorted, the falling ones kept."""
    costs, losses = np.array([problem.base.get(metric, 0.0)]), np.zeros(1)

    def falling(costs: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = np.lexsort((losses, costs))
        costs, losses = costs[order], losses[order]
        keep = losses < np.concatenate([[np.inf], np.minimum.accumulate(losses)[:-1]])
        return costs[keep], losses[keep]

    for block in problem.blocks:
        rows = max(1, (1 << 20) // len(block.losses))
        parts = [
            falling(
                (costs[begin : begin + rows, None] + block.costs[metric][None]).reshape(-1),
                (losses[begin : begin + rows, None] + block.losses[None]).reshape(-1),
            )
            for begin in range(0, len(costs), rows)
        ]
        costs, losses = falling(np.concatenate([c for c, _ in parts]), np.concatenate([m for _, m in parts]))
    return list(zip(costs.tolist(), losses.tolist(), strict=True))


def by_epsilon(problem: Problem, metric: str, points: list[Choice]) -> bool:
    """Whether each of 20 points of a front is the optimum of HiGHS at its own cost."""
    others = tuple(c for c in problem.constraints if c.metric != metric)
    for point in points[:: max(1, len(points) // 20)]:
        limited = Problem(problem.blocks, problem.base, (Constraint(metric, point.costs[metric]), *others))
        if abs(by_milp(limited) - point.loss) > 1e-9:
            return False
    return True
