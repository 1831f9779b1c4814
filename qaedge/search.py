"""Search over the tables: which candidate of each block gives the least loss within the limits."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

from qaedge.architecture import Architecture, BlockChoice, Predicted
from qaedge.candidate import Candidate
from qaedge.errors import NotMeasured
from qaedge.knapsack import Choice, Constraint, Options, Problem, front, least_costs, solve
from qaedge.metric import SIZE, latency_on, parse_limit
from qaedge.space import Block, SearchSpace
from qaedge.tables import LatencyTable, LossTable

__all__ = [
    "Choice",
    "Constraint",
    "Options",
    "Problem",
    "SpaceProblem",
    "build_problem",
    "front",
    "least_costs",
    "parse_limit",
    "solve",
]


class SpaceProblem(msgspec.Struct, frozen=True, eq=False):
    """A search space with its tables, as arrays, and the way back from an answer to candidates.

    Attributes:
        problem: the arrays; its metrics are `latency@DEVICE` [s] for each table, and `size` [bytes].
        kept: per block, which candidates of the space the arrays hold.
        left_out: block -> how many of its candidates lack a row in some table; only where any do.
        doubtful: metric -> how many candidates kept have a measurement with doubts; only where any do.
        teacher: metric -> what the whole teacher costs, measured.
        power: block losses are raised to it before they are summed; what is returned is plain again.
    """

    space: SearchSpace
    latencies: dict[str, LatencyTable]
    problem: Problem
    kept: tuple[tuple[int, ...], ...]
    left_out: dict[str, int]
    doubtful: dict[str, int]
    teacher: dict[str, float]
    power: float = 1.0

    def limited(self, constraints: Iterable[Constraint]) -> SpaceProblem:
        """Return the same problem under these limits and no others."""
        problem = Problem(self.problem.blocks, self.problem.base, tuple(constraints))
        return msgspec.structs.replace(self, problem=problem)

    def solve(self) -> Choice:
        """Return the network of least loss; raise Infeasible where no network keeps the limits."""
        return self._plain(solve(self.problem))

    def front(self, metric: str) -> list[Choice]:
        """Return the whole front of loss against `metric`, cheapest first; raise Infeasible."""
        return [self._plain(choice) for choice in front(self.problem, metric)]

    def own(self) -> Choice | None:
        """Return the teacher's own blocks as a choice, or None where one of them has no block loss."""
        if any(kept[0] != 0 for kept in self.kept):
            return None
        blocks = self.problem.blocks
        costs = {m: base + sum(float(b.costs[m][0]) for b in blocks) for m, base in self.problem.base.items()}
        return self._plain(Choice((0,) * len(blocks), 0.0, costs))

    def block_losses(self, choice: Choice) -> tuple[float, ...]:
        """Return the block loss of each chosen candidate."""
        chosen = zip(self.problem.blocks, choice.indices, strict=True)
        return tuple(float(block.losses[index]) ** (1 / self.power) for block, index in chosen)

    def _plain(self, choice: Choice) -> Choice:
        return msgspec.structs.replace(choice, loss=sum(self.block_losses(choice)))

    def candidates(self, choice: Choice) -> tuple[Candidate, ...]:
        """Return the candidate of each block that a choice means."""
        return tuple(
            block.candidates[kept[index]]
            for block, kept, index in zip(self.space.blocks, self.kept, choice.indices, strict=True)
        )

    def architecture(self, choice: Choice) -> Architecture:
        """Return a choice as what build and export take, with the predicted costs and their errors."""
        chosen = self.candidates(choice)
        costs = {}
        for device, table in self.latencies.items():
            value, error = table.predict_latency(self.space, chosen)
            costs[latency_on(device)] = Predicted(value, error)
        if SIZE in choice.costs:
            costs[SIZE] = Predicted(choice.costs[SIZE], 0.0)
        choices = tuple(
            BlockChoice(block.name, str(candidate.spec), str(candidate.scheme), kept[index])
            for block, candidate, kept, index in zip(self.space.blocks, chosen, self.kept, choice.indices, strict=True)
        )
        limits: dict[str, float] = {}
        for constraint in self.problem.constraints:
            limits[constraint.metric] = min(constraint.limit, limits.get(constraint.metric, np.inf))
        return Architecture(self.space.name, self.space.hash, self.space.teacher, choices, choice.loss, costs, limits)


def build_problem(
    space: SearchSpace,
    losses: LossTable,
    latencies: dict[str, LatencyTable],
    constraints: Iterable[Constraint] = (),
    power: float = 1.0,
) -> SpaceProblem:
    """Turn a space and its tables into arrays.

    A network costs what `LatencyTable.predict_latency` and `predict_size` say: the whole teacher,
    plus for each block the candidate less the teacher's own. So the base cost is the teacher less
    all its own blocks; it is negative where blocks measured alone pay for more borders than the
    network has. Sizes are those of the first table.

    Candidates without a row in one of the tables are left out and counted.

    Args:
        space: what may be chosen, in the order of the network.
        losses: the block losses.
        latencies: device -> its table; may be empty, then there is no cost but the loss.
        constraints: limits on `latency@DEVICE` [s] and `size` [bytes].
        power: block losses are raised to it before they are summed. 1 is the plain sum; above 1, one
            bad block counts for more than several that are slightly worse.

    Raises:
        NotMeasured: the teacher, one of its own blocks, or every candidate of a block lacks a row.
    """
    base: dict[str, float] = {}
    teacher: dict[str, float] = {}
    for device, table in latencies.items():
        anchor = table.anchor(space, str(space.blocks[0].candidates[0].scheme))
        own = [table.row(block.candidates[0].key) for block in space.blocks]
        teacher[latency_on(device)] = anchor.measurement.median_s
        base[latency_on(device)] = anchor.measurement.median_s - sum(row.measurement.median_s for row in own)
        if SIZE not in base:
            teacher[SIZE] = float(anchor.size_bytes)
            base[SIZE] = float(anchor.size_bytes - sum(row.size_bytes for row in own))
    blocks, kept = [], []
    left_out: dict[str, int] = {}
    doubtful: dict[str, int] = {}
    for block in space.blocks:
        indices, options = _options(block, losses, latencies, doubtful, power)
        blocks.append(options)
        kept.append(indices)
        if len(indices) < len(block.candidates):
            left_out[block.name] = len(block.candidates) - len(indices)
    return SpaceProblem(
        space,
        dict(latencies),
        Problem(tuple(blocks), base, tuple(constraints)),
        tuple(kept),
        left_out,
        doubtful,
        teacher,
        power,
    )


def _options(
    block: Block, losses: LossTable, latencies: dict[str, LatencyTable], doubtful: dict[str, int], power: float
) -> tuple[tuple[int, ...], Options]:
    """Collect the candidates of a block that have every row; add to `doubtful`."""
    indices: list[int] = []
    values: list[float] = []
    costs: dict[str, list[float]] = {latency_on(device): [] for device in latencies}
    if latencies:
        costs[SIZE] = []
    lacking_loss, lacking_latency = 0, dict.fromkeys(latencies, 0)
    for index, candidate in enumerate(block.candidates):
        loss = losses.rows.get((block.name, str(candidate.spec), str(candidate.scheme)))
        key = candidate.key
        rows = {device: table.rows.get(key) for device, table in latencies.items()}
        lacking_loss += loss is None
        for device, row in rows.items():
            lacking_latency[device] += row is None
        if loss is None or None in rows.values():
            continue
        indices.append(index)
        values.append(loss.loss**power)
        for number, (device, row) in enumerate(rows.items()):
            assert row is not None
            metric = latency_on(device)
            costs[metric].append(row.measurement.median_s)
            if number == 0:
                costs[SIZE].append(float(row.size_bytes))
            if row.measurement.doubts:
                doubtful[metric] = doubtful.get(metric, 0) + 1
    if not indices:
        known = [f"{lacking_loss} lack a block loss"] if lacking_loss else []
        known += [f"{count} lack a latency on {device}" for device, count in lacking_latency.items() if count]
        commands = ["qaedge distill"] if lacking_loss else []
        commands += [f"qaedge profile --device {device}" for device, count in lacking_latency.items() if count]
        raise NotMeasured(
            f"No candidate of block {block.name} has a row in every table: of {len(block.candidates)}, "
            f"{' and '.join(known)}.",
            "Run: " + "\n     ".join(commands),
        )
    return tuple(indices), Options(
        block.name, np.array(values), {metric: np.array(column) for metric, column in costs.items()}
    )
