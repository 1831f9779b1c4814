"""Arrays: what the tables say of a block's candidates, of two neighbours and of errors, as a search takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import msgspec
import numpy as np

from qaedge.borders import OUTSIDE, SIZE_BYTES, border, shapes
from qaedge.candidate import Candidate
from qaedge.errors import NotMeasured
from qaedge.fit import Fit
from qaedge.influence import Influence
from qaedge.metric import PEAK_MEMORY, SIZE, latency_on
from qaedge.search.activations import peak_bytes
from qaedge.search.margin import Margin
from qaedge.search.problem import Array, Options
from qaedge.sizes import SizeTable
from qaedge.space import Block, SearchSpace, Shape
from qaedge.tables import LatencyTable, LossTable


def options_of(
    number: int,
    block: Block,
    wanted: Sequence[int],
    losses: LossTable,
    latencies: dict[str, LatencyTable],
    sizes: LatencyTable | SizeTable | None,
    part_sizes: Mapping[str, float],
    fits: dict[str, Fit],
    doubtful: dict[str, int],
) -> tuple[tuple[int, ...], Options]:
    """Collect those of the wanted candidates of a block that have every row; add to `doubtful`."""
    if not wanted:
        raise NotMeasured(
            f"No candidate of block {block.name} is left to choose from.",
            "A network is in float or in integers as a whole: fix and forbid candidates accordingly.",
        )
    indices: list[int] = []
    values: list[float] = []
    costs: dict[str, list[float]] = {latency_on(device): [] for device in latencies}
    if sizes is not None:
        costs[SIZE] = []
    lacking_loss, lacking_size, lacking_latency = 0, 0, dict.fromkeys(latencies, 0)
    for index in wanted:
        candidate = block.candidates[index]
        loss = losses.rows.get((block.name, str(candidate.spec), str(candidate.scheme)))
        key = candidate.key
        rows = {device: table.rows.get(key) for device, table in latencies.items()}
        sized = None if sizes is None else sizes.rows.get(key)
        lacking_loss += loss is None
        lacking_size += sizes is not None and sized is None
        for device, row in rows.items():
            lacking_latency[device] += row is None
        if loss is None or None in rows.values() or (sizes is not None and sized is None):
            continue
        indices.append(index)
        values.append(loss.loss)
        if sized is not None:
            costs[SIZE].append(part_sizes[key])
        for device, row in rows.items():
            assert row is not None
            metric, fitted = latency_on(device), fits[device]
            costs[metric].append(fitted.slopes[number] * row.measurement.statistic_s(fitted.statistic))
            if row.measurement.doubts:
                doubtful[metric] = doubtful.get(metric, 0) + 1
    if not indices:
        known = [f"{lacking_loss} lack a block loss"] if lacking_loss else []
        known += [f"{count} lack a latency on {device}" for device, count in lacking_latency.items() if count]
        known += [f"{lacking_size} lack a size"] if lacking_size and not latencies else []
        commands = ["qaedge distill"] if lacking_loss else []
        commands += [latencies[device].command for device, count in lacking_latency.items() if count]
        raise NotMeasured(
            f"No candidate of block {block.name} has a row in every table: of {len(wanted)}, {' and '.join(known)}.",
            "Run: " + "\n     ".join(commands),
        )
    return tuple(indices), Options(
        block.name, np.array(values), {metric: np.array(column) for metric, column in costs.items()}
    )


def with_peak_memory(
    block: Block,
    indices: tuple[int, ...],
    options: Options,
    unknown: dict[str, int],
    own_peaks: Mapping[str, int] | None,
) -> tuple[tuple[int, ...], Options]:
    """Add the peaks of memory, and leave out the candidates of which nobody knows it; add to `unknown`."""
    peaks = [peak_bytes(block.candidates[index], own_peaks) for index in indices]
    known = [at for at, peak in enumerate(peaks) if peak is not None]
    if len(known) < len(indices):
        unknown[block.name] = len(indices) - len(known)
    if not known:
        raise NotMeasured(
            f"Nobody knows the peak memory of any candidate of block {block.name}.",
            "Run qaedge space, which looks into the teacher's own blocks; or lift that limit.",
        )
    values = np.array([float(peak) for peak in peaks if peak is not None])
    costs = {metric: column[known] for metric, column in options.costs.items()}
    return tuple(indices[at] for at in known), Options(block.name, options.losses[known], costs, {PEAK_MEMORY: values})


def weighed(block: Block, indices: Sequence[int], losses: LossTable, influence: Influence) -> Array:
    """Return what is summed for the kept candidates of a block, by what they do to the whole network."""
    rows = [losses.row(block.name, block.candidates[index]) for index in indices]
    float_losses, quantized = (np.array([getattr(row, name) for row in rows]) for name in ("float_loss", "loss"))
    return influence.scores(block.name, [row.spec for row in rows], float_losses, quantized)


def borders_of(
    space: SearchSpace, kept: Sequence[tuple[int, ...]], latencies: Mapping[str, LatencyTable], file_format: str | None
) -> tuple[dict[str, Array], ...]:
    """Return what candidates cost beside their own costs, by metric: before each block, and behind the last.

    Of two neighbours [left, right]; before the first block [1, candidates], behind the last one [candidates, 1]. Empty
    where all are alike.

    Args:
        space: the blocks.
        kept: of each, the candidates that may be chosen.
        latencies: device -> its table.
        file_format: of the files whose sizes count; None where they do not.

    Raises:
        NotMeasured: candidates may meet and what would lie between them has no row: whether they are worth it nobody
            knows.
    """
    chosen: list[list[Candidate | None]] = [[None], [None]]
    for block, indices in zip(space.blocks, kept, strict=True):
        chosen.insert(-1, [block.candidates[at] for at in indices])
    return tuple(
        _between(left, right, shape, latencies, file_format)
        for (left, right), shape in zip(pairwise(chosen), shapes(space), strict=True)
    )


def with_ends(blocks: Sequence[Options], sides: Sequence[dict[str, Array]]) -> tuple[Options, ...]:
    """Return the blocks, the first and the last with what lies between them and the ends of the network."""
    made = list(blocks)
    for at, side in ((0, sides[0]), (-1, sides[-1])):
        own = made[at].costs.items()
        costs = {metric: column + side[metric].ravel() if metric in side else column for metric, column in own}
        made[at] = msgspec.structs.replace(made[at], costs=costs)
    return tuple(made)


def _between(
    left: Sequence[Candidate | None],
    right: Sequence[Candidate | None],
    shape: Shape,
    latencies: Mapping[str, LatencyTable],
    file_format: str | None,
) -> dict[str, Array]:
    """Return what any of some candidates and any of the next block's cost together; empty where all are alike."""
    before, rows = _by_width(left)
    after, columns = _by_width(right)
    found = [[border(one, other, shape) for other in after] for one in before]
    if not any(each for line in found for each in line):
        return {}
    costs = {}
    for device, table in latencies.items():
        try:
            small = [[table.border_s(each) if each else 0.0 for each in line] for line in found]
        except NotMeasured as error:
            widths = {c.scheme.activation_bits for c in (*left, *right) if c is not None}
            alike = "\nOr choose among activations of one width: --forbid scheme=SCHEME, for each scheme of the other"
            raise NotMeasured(error.message, f"{error.hint}{alike if len(widths) > 1 else ''}") from error
        costs[latency_on(device)] = np.array(small)[np.ix_(rows, columns)]
    if file_format is not None:
        bytes_each = [[float(SIZE_BYTES[file_format]) if each else 0.0 for each in line] for line in found]
        costs[SIZE] = np.array(bytes_each)[np.ix_(rows, columns)]
    return costs


def _by_width(candidates: Sequence[Candidate | None]) -> tuple[list[Candidate | None], list[int]]:
    """Return a candidate of each number of activation bits, and which of these stands for each candidate."""
    widths = [OUTSIDE if candidate is None else candidate.scheme.activation_bits for candidate in candidates]
    each = dict(zip(widths, candidates, strict=True))
    numbers = {bits: number for number, bits in enumerate(each)}
    return list(each.values()), [numbers[bits] for bits in widths]


def margin_of(space: SearchSpace, table: LatencyTable, kind: bool, kept: Sequence[tuple[int, ...]], z: float) -> Margin:
    """Return how uncertain a network's latency is, as `LatencyTable.predict_latency` says it."""
    anchor, owns = table.origin(space, kind)
    fitted = table.fit(space, kind)
    variances = []
    for block, indices, own, slope in zip(space.blocks, kept, owns, fitted.slopes, strict=True):
        rows = [table.row(block.candidates[index].key) for index in indices]
        least = own.measurement.error_s**2
        errors = [0.0 if row is own else row.measurement.error_s**2 + least for row in rows]
        variances.append(slope**2 * np.array(errors))
    return Margin(z, anchor.measurement.error_s**2, tuple(variances), fitted.relative_error)
