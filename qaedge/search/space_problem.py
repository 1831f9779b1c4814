"""Search over the tables: which candidate of each block gives the least loss within the limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import msgspec
import numpy as np

from qaedge.architecture import Architecture, BlockChoice, BorderCost, Predicted
from qaedge.borders import SIZE_BYTES, borders_in, places
from qaedge.candidate import Candidate
from qaedge.fit import Fit
from qaedge.influence import Influence
from qaedge.metric import PEAK_MEMORY, SIZE, latency_on, parse_limit
from qaedge.search.activations import peak_bytes
from qaedge.search.arrays import borders_of, margin_of, options_of, weighed, with_ends, with_peak_memory
from qaedge.search.exclusion import Allowed, best_outside
from qaedge.search.knapsack import (
    Choice,
    Constraint,
    Optimum,
    Options,
    Problem,
    front,
    least_costs,
    optimum,
    solve,
    surface,
)
from qaedge.search.margin import Margin, tightened, within
from qaedge.search.problem import Array
from qaedge.search.problem import choice as make_choice
from qaedge.search.selection import Selection, allowed
from qaedge.search.variety import apart
from qaedge.sizes import SizeTable
from qaedge.space import SearchSpace
from qaedge.tables import LatencyTable, LossTable, own_network

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
        problem: the arrays; its metrics are `latency@DEVICE` [s] for each table, `size` [bytes], and where that
            was asked for `peak_memory` [bytes].
        kept: per block, which candidates of the space the arrays hold.
        left_out: block -> how many of its candidates lack a row in some table; only where any do.
        unknown: block -> how many of its candidates have a peak of memory that nobody knows; only where any do.
        doubtful: metric -> how many candidates kept have a measurement with doubts; only where any do.
        teacher: metric -> what the whole teacher costs: measured, and computed where it is the peak of memory.
        margins: metric -> how uncertain it is; limits are kept with that much to spare.
        is_float: whether its networks are in float; else they are in integers.
        losses: of each block, the plain block loss of each candidate kept [n]; the arrays hold what is summed of them.
        sizes: where sizes are from; None where no costs are known.
    """

    space: SearchSpace
    latencies: dict[str, LatencyTable]
    problem: Problem
    kept: tuple[tuple[int, ...], ...]
    left_out: dict[str, int]
    doubtful: dict[str, int]
    teacher: dict[str, float]
    losses: tuple[Array, ...]
    is_float: bool = False
    unknown: dict[str, int] = {}
    margins: dict[str, Margin] = {}
    sizes: LatencyTable | SizeTable | None = None

    @property
    def format(self) -> str:
        """The format of the files that the costs are of."""
        return "onnx" if self.sizes is None else self.sizes.format

    def limited(self, constraints: Iterable[Constraint]) -> SpaceProblem:
        """Return the same problem under these limits and no others."""
        problem = msgspec.structs.replace(self.problem, constraints=tuple(constraints))
        return msgspec.structs.replace(self, problem=problem)

    def solve(self) -> Choice:
        """Return the network of least loss; raise Infeasible where no network keeps the limits."""
        return self.plain(self.optimum().choice)

    def optimum(self) -> Optimum:
        """Return the network of least loss, with its proof, in the arrays' own losses; raise Infeasible."""
        return within(self.problem, self.margins, optimum)

    def apart(
        self, earlier: Iterable[Sequence[Candidate]], differ: int, known: Iterable[Sequence[Candidate]] = ()
    ) -> Optimum:
        """Return the best network that differs from each earlier one in so many blocks, and is none of the known ones.

        Raises Infeasible.
        """
        places = [self._places(network) for network in earlier]
        barred = {tuple(at for at in self._places(network) if at is not None) for network in known}

        def solve(part: Problem, margins: Mapping[str, Margin], allowed: Allowed) -> Optimum:
            if not places:
                return within(part, margins, optimum)
            where = [dict(zip(block.tolist(), range(len(block)), strict=True)) for block in allowed]
            mine = [
                [None if at is None else there.get(at) for at, there in zip(row, where, strict=True)] for row in places
            ]
            return within(part, margins, lambda problem: apart(problem, mine, differ))

        return best_outside(self.problem, self.margins, barred, solve)

    def tightened(self, choice: Choice | None = None) -> Problem:
        """Return the arrays with each limit less the margin that a network needs; None: that the surest one needs."""
        return tightened(self.problem, self.margins, choice)

    def front(self, *metrics: str) -> list[Choice]:
        """Return the whole front of loss against one metric or several together, cheapest first; raise Infeasible."""
        found = front(self.problem, *metrics) if len(metrics) == 1 else surface(self.problem, metrics)
        return [self.plain(choice) for choice in found]

    def own(self) -> Choice | None:
        """Return the teacher's own blocks as a choice, or None where one of them has no block loss."""
        return self.find([block.candidates[block.own(self.is_float) or 0] for block in self.space.blocks])

    def find(self, network: Sequence[Candidate]) -> Choice | None:
        """Return a network as a choice, whatever the limits; None where one of its candidates is left out."""
        places = self._places(network)
        indices = [place for place in places if place is not None]
        if len(indices) < len(places):
            return None
        return self.plain(make_choice(self.problem, np.array(indices)))

    def _places(self, network: Sequence[Candidate]) -> list[int | None]:
        """Return where the arrays hold a network's candidates; None for one that is left out."""
        places: list[int | None] = []
        for block, kept, candidate in zip(self.space.blocks, self.kept, network, strict=True):
            place = block.candidates.index(candidate)
            places.append(kept.index(place) if place in kept else None)
        return places

    def needs(self, metric: str, cost: float | None, choice: Choice) -> float | None:
        """Return the limit that a cost keeps with as much margin as a network has; None for no cost."""
        margin = self.margins.get(metric)
        return cost if cost is None or margin is None else margin.needs(cost, margin.variance(choice.indices))

    def keeps_limits(self, choice: Choice) -> bool:
        """Whether a choice keeps every limit, by its margin where it has one."""
        return all(choice.costs[c.metric] <= c.bound for c in self.tightened(choice).constraints)

    def block_losses(self, choice: Choice) -> tuple[float, ...]:
        """Return the block loss of each chosen candidate."""
        return tuple(float(losses[index]) for losses, index in zip(self.losses, choice.indices, strict=True))

    def plain(self, choice: Choice) -> Choice:
        """Return a choice with its loss as the plain sum of its block losses."""
        return msgspec.structs.replace(choice, loss=sum(self.block_losses(choice)))

    def candidates(self, choice: Choice) -> tuple[Candidate, ...]:
        """Return the candidate of each block that a choice means."""
        return tuple(
            block.candidates[kept[index]]
            for block, kept, index in zip(self.space.blocks, self.kept, choice.indices, strict=True)
        )

    def borders(self, choice: Choice) -> tuple[BorderCost, ...]:
        """Return where the blocks of a choice have activations of unlike widths, and what each change takes."""
        around = pairwise(("input", *(block.name for block in self.space.blocks), "output"))
        return tuple(
            BorderCost(
                (left, right),
                (found.before, found.after),
                {device: table.border_s(found) for device, table in self.latencies.items()},
            )
            for (left, right), found in zip(around, places(self.space, self.candidates(choice)), strict=True)
            if found is not None
        )

    def architecture(self, choice: Choice) -> Architecture:
        """Return a choice as what build and export take, with the predicted costs and their errors."""
        chosen = self.candidates(choice)
        costs = {}
        for device, table in self.latencies.items():
            value, error = table.predict_latency(self.space, chosen)
            costs[latency_on(device)] = Predicted(value, error)
        for metric in (SIZE, PEAK_MEMORY):
            if metric in choice.costs:
                costs[metric] = Predicted(choice.costs[metric], 0.0)
        choices = tuple(
            BlockChoice(block.name, str(candidate.spec), str(candidate.scheme), kept[index])
            for block, candidate, kept, index in zip(self.space.blocks, chosen, self.kept, choice.indices, strict=True)
        )
        limits: dict[str, float] = {}
        for constraint in self.problem.constraints:
            limits[constraint.metric] = min(constraint.limit, limits.get(constraint.metric, np.inf))
        return Architecture(
            self.space.name,
            self.space.hash,
            self.space.teacher,
            choices,
            choice.loss,
            costs,
            limits,
            self.format,
            borders=self.borders(choice) or msgspec.UNSET,
        )


def build_problem(
    space: SearchSpace,
    losses: LossTable,
    latencies: dict[str, LatencyTable],
    constraints: Iterable[Constraint] = (),
    power: float = 1.0,
    is_float: bool | None = None,
    selection: Selection | None = None,
    with_peaks: bool = False,
    z: float = 0.0,
    influence: Influence | None = None,
    sizes: LatencyTable | SizeTable | None = None,
    own_peaks: Mapping[str, int] | None = None,
) -> SpaceProblem:
    """Turn a space and its tables into arrays.

    A network costs what `LatencyTable.predict_latency` and `predict_size` say: the whole teacher,
    plus for each block the candidate less the teacher's own, times the slope that whole networks
    tell (`qaedge.fit`), plus what lies between blocks whose activations are of unlike widths. So the base cost is the
    teacher less all its own blocks and what lies between those; it is negative where blocks
    measured alone pay for more ends than the network has. Sizes are those of the first table, or of `sizes`.

    Candidates without a row in one of the tables are left out and counted.

    Args:
        space: what may be chosen, in the order of the network.
        losses: the block losses.
        latencies: device -> its table; may be empty, then there is no cost but the loss and, where `sizes` are
            given, the size.
        constraints: limits on `latency@DEVICE` [s] and `size` [bytes].
        power: block losses are raised to it before they are summed. 1 is the plain sum; above 1, one
            bad block counts for more than several that are slightly worse.
        influence: weighs block losses instead, by what they do to the whole network.
        sizes: what sizes are taken from; None: the first of the latency tables.
        own_peaks: what the teacher's own blocks have in memory, as `peak_bytes` takes it.
        is_float: networks in float, or in integers; None: as the space's first candidate.
        selection: which candidates may be chosen; None: all.
        z: how many standard errors of its prediction a network stays below a limit on latency.
        with_peaks: give the metric `peak_memory`; candidates of which nobody knows it are left out and counted.

    Raises:
        NotMeasured: the teacher, one of its own blocks, what lies between two candidates, or every candidate of a block
            lacks a row.
    """
    kind = space.blocks[0].candidates[0].scheme.is_float if is_float is None else is_float
    fits: dict[str, Fit] = {}
    base: dict[str, float] = {}
    teacher: dict[str, float] = {}
    for device, table in latencies.items():
        anchor, own = table.origin(space, kind)
        fits[device] = fitted = table.fit(space, kind)
        teacher[latency_on(device)] = anchor.measurement.median_s
        base[latency_on(device)] = anchor.measurement.median_s + fitted.offset_s
        for slope, row in zip(fitted.slopes, own, strict=True):
            base[latency_on(device)] -= slope * row.measurement.statistic_s(fitted.statistic)
        base[latency_on(device)] -= table.borders_s(space, own_network(space, kind))
    sized = sizes or next(iter(latencies.values()), None)
    part_sizes: dict[str, float] = {}
    if sized is not None:
        whole, parts = sized.origin(space, kind)
        teacher[SIZE] = float(whole.size_bytes)
        part_sizes = sized.part_sizes(space, kind)
        base[SIZE] = float(whole.size_bytes - sum(part_sizes[row.key] for row in parts))
        base[SIZE] -= SIZE_BYTES[sized.format] * len(borders_in(space, own_network(space, kind)))
    if with_peaks:
        owns = [block.candidates[block.own(kind) or 0] for block in space.blocks]
        peaks = [peak for own in owns if (peak := peak_bytes(own, own_peaks)) is not None]
        if len(peaks) == len(owns):
            teacher[PEAK_MEMORY] = float(max(peaks))
    blocks, kept, plain = [], [], []
    left_out: dict[str, int] = {}
    unknown: dict[str, int] = {}
    doubtful: dict[str, int] = {}
    for number, block in enumerate(space.blocks):
        may = allowed(selection, number, block)
        wanted = [i for i, c in enumerate(block.candidates) if i in may and c.scheme.is_float == kind]
        indices, options = options_of(number, block, wanted, losses, latencies, sized, part_sizes, fits, doubtful)
        if len(indices) < len(wanted):
            left_out[block.name] = len(wanted) - len(indices)
        if with_peaks:
            indices, options = with_peak_memory(block, indices, options, unknown, own_peaks)
        plain.append(options.losses)
        summed = weighed(block, indices, losses, influence) if influence else options.losses**power
        blocks.append(msgspec.structs.replace(options, losses=summed))
        kept.append(indices)
    sides = borders_of(space, kept, latencies, None if sized is None else sized.format)
    return SpaceProblem(
        space,
        dict(latencies),
        Problem(with_ends(blocks, sides), base, tuple(constraints), sides[1:-1] if any(sides[1:-1]) else ()),
        tuple(kept),
        left_out,
        doubtful,
        teacher,
        tuple(plain),
        kind,
        unknown,
        {latency_on(device): margin_of(space, table, kind, kept, z) for device, table in latencies.items()}
        if z
        else {},
        sized,
    )
