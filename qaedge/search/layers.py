"""Layers: the options of each block as points, without those that could not be in an answer.

Column 0 of a point is what is to be small, the others are the limited costs. Candidates to which the
neighbours are indifferent in the same way, that is, with equal rows in the border after them and equal
columns in the one before, share a class: only among those does one dominate another. Where there are no
borders, all share the class 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from qaedge.search.pareto import nondominated
from qaedge.search.problem import Array, Positions, Problem

_CHUNK = 1 << 20  # numbers of a border looked at together
_ROUNDING = 1e-12  # bounds are sums in another order; they may not drop what lies within this


class Layer(msgspec.Struct, eq=False):
    """What is left of a block.

    Attributes:
        points: [n, d].
        index: which candidates they are, ascending [n].
        enters, leaves: their classes to the border before and after [n].
    """

    points: Array
    index: Positions
    enters: Positions
    leaves: Positions

    def keep(self, mask: npt.NDArray[np.bool_] | Positions) -> Layer:
        """Return those of a mask, or at ascending positions."""
        return Layer(self.points[mask], self.index[mask], self.enters[mask], self.leaves[mask])

    def groups(self) -> list[tuple[int, int, Positions]]:
        """Return the candidates of each pair of classes: (enters, leaves, positions ascending)."""
        if not self.enters.any() and not self.leaves.any():
            return [(0, 0, np.arange(len(self.index)))]
        pairs = sorted(set(zip(self.enters.tolist(), self.leaves.tolist(), strict=True)))
        return [(e, x, np.flatnonzero((self.enters == e) & (self.leaves == x))) for e, x in pairs]

    def thinned(self) -> Layer:
        """Return those that no other of their classes dominates."""
        groups = self.groups()
        kept = [group[nondominated(self.points[group] if len(groups) > 1 else self.points)] for _, _, group in groups]
        return self.keep(np.sort(np.concatenate(kept)) if len(kept) > 1 else kept[0])


class Layers(msgspec.Struct, eq=False):
    """All blocks of a problem as points.

    Attributes:
        layers: one for each block.
        borders: for each two neighbours, what a class of the first and one of the second cost together
            [leaving, entering, d].
        start: what a network costs beside its blocks [d].
        bounds: the limits; infinite for what is to be small [d].
        rounding: how far sums in another order may lie apart, per column [d]; of the layers as they were built, which
            is no less than of those that are left.
    """

    layers: list[Layer]
    borders: list[Array]
    start: Array
    bounds: Array
    rounding: Array

    @property
    def is_plain(self) -> bool:
        """Whether neighbours cost nothing together, and no candidate is in a class of its own for them."""
        return all(border.shape[:2] == (1, 1) and not border.any() for border in self.borders)

    @property
    def has_borders(self) -> bool:
        """Whether neighbours cost anything together."""
        return any(border.any() for border in self.borders)

    @property
    def is_empty(self) -> bool:
        """Whether some block has no candidate left."""
        return any(not len(layer.index) for layer in self.layers)

    def thinned(self) -> Layers:
        """Return it without dominated candidates."""
        return msgspec.structs.replace(self, layers=[layer.thinned() for layer in self.layers])

    def keep(self, masks: Sequence[npt.NDArray[np.bool_]]) -> Layers:
        """Return it with those of a mask for each layer."""
        kept = [layer if mask.all() else layer.keep(mask) for layer, mask in zip(self.layers, masks, strict=True)]
        return msgspec.structs.replace(self, layers=kept)

    def indices(self, places: Positions) -> Positions:
        """Return the candidates [..., blocks] that places in the layers [..., blocks] mean."""
        return np.stack([layer.index[column] for layer, column in zip(self.layers, places.T, strict=True)]).T


def build_layers(problem: Problem, objective: str | None, metrics: Sequence[str], limits: dict[str, float]) -> Layers:
    """Return a problem as layers.

    Args:
        problem: where the options come from.
        objective: the sum that is to be small; None: the loss.
        metrics: further columns, all of them sums.
        limits: metric -> bound; those of `metrics` become bounds of columns, and a peak's takes the candidates
            above it away. Others are of no account.
    """
    allowed = [np.ones(len(block.losses), dtype=bool) for block in problem.blocks]
    for metric, bound in limits.items():
        if problem.is_peak(metric):
            fits = problem.base.get(metric, 0.0) <= bound
            allowed = [
                mask & (b.peaks[metric] <= bound) & fits for mask, b in zip(allowed, problem.blocks, strict=True)
            ]
    columns = (objective, *metrics)
    counts = [len(block.losses) for block in problem.blocks]
    classes = []
    seen: dict[tuple[int, ...], tuple[Positions, Positions, Array]] = {}  # blocks alike often share their matrices
    for border, left, right in zip(problem.borders, counts, counts[1:], strict=False):
        key = (left, right, *(id(border.get(c or "")) for c in columns))
        if key not in seen:
            seen[key] = _classes(border, columns, left, right)
        classes.append(seen[key])
    layers = []
    for number, (block, mask) in enumerate(zip(problem.blocks, allowed, strict=True)):
        count = len(block.losses)
        zeros = np.zeros(count, dtype=np.intp)
        points = np.column_stack([block.losses if c is None else block.costs[c] for c in columns])
        enters = classes[number - 1][1] if classes and number else zeros
        leaves = classes[number][0] if number < len(classes) else zeros
        layer = Layer(points, np.arange(count), enters, leaves)
        layers.append(layer if mask.all() else layer.keep(mask))
    borders = [made for _, _, made in classes] or [np.zeros((1, 1, len(columns)))] * (len(problem.blocks) - 1)
    start = np.array([0.0 if c is None else problem.base.get(c, 0.0) for c in columns])
    bounds = np.array([np.inf, *(limits.get(metric, np.inf) for metric in metrics)])
    return Layers(layers, borders, start, bounds, _rounding(problem, columns, borders, start, bounds))


def _rounding(
    problem: Problem, columns: Sequence[str | None], borders: Sequence[Array], start: Array, bounds: Array
) -> Array:
    """Return how far sums of these columns in another order may lie apart [d]; `borders` are those of classes."""
    scale = np.abs(start) + np.where(np.isfinite(bounds), np.abs(bounds), 0.0)
    for number, column in enumerate(columns):
        for block in problem.blocks:
            values = block.losses if column is None else block.costs[column]
            scale[number] += max(abs(float(values.max(initial=0.0))), abs(float(values.min(initial=0.0))))
    for border in borders:  # not the problem's: a matrix of all pairs may be a thousand times as large
        scale += np.abs(border).max(axis=(0, 1), initial=0.0)
    return np.asarray(_ROUNDING * scale)


def _classes(
    border: dict[str, Array], columns: Sequence[str | None], left: int, right: int
) -> tuple[Positions, Positions, Array]:
    """Return the class of each candidate on either side, and what each pair of classes costs [rows, columns, d]."""
    present = [border[c] for c in columns if c is not None and c in border]
    if not present:
        return np.zeros(left, dtype=np.intp), np.zeros(right, dtype=np.intp), np.zeros((1, 1, len(columns)))
    rows, across = _alike(present)
    _, first_row = np.unique(rows, return_index=True)
    _, first_column = np.unique(across, return_index=True)
    made = np.zeros((len(first_row), len(first_column), len(columns)))
    for number, column in enumerate(columns):
        if column is not None and column in border:
            made[:, :, number] = border[column][np.ix_(first_row, first_column)]
    return rows, across, made


def _alike(matrices: Sequence[Array]) -> tuple[Positions, Positions]:
    """Number the rows [n] and the columns [m] of matrices; only those that are equal in all have the same number.

    By hashes that are exact for equal ones, some rows at once: a matrix may be large.
    """
    count, across = matrices[0].shape
    draw = np.random.default_rng(0)
    by_row, by_column = np.zeros(count, dtype=np.uint64), np.zeros(across, dtype=np.uint64)
    step = max(1, _CHUNK // max(across, 1))
    for matrix in matrices:
        odd_row = np.asarray(draw.integers(0, 1 << 63, across, dtype=np.uint64)) * np.uint64(2) + np.uint64(1)
        odd_column = np.asarray(draw.integers(0, 1 << 63, count, dtype=np.uint64)) * np.uint64(2) + np.uint64(1)
        for begin in range(0, count, step):
            part = (matrix[begin : begin + step] + 0.0).view(np.uint64)  # + 0.0: -0.0 is 0.0
            part ^= part >> np.uint64(31)  # plain numbers have all their bits at the top, which wrapping would lose
            by_row[begin : begin + step] += (part * odd_row).sum(axis=1)
            by_column += (part * odd_column[begin : begin + step, None]).sum(axis=0)
    _, first_row, rows = np.unique(by_row, return_index=True, return_inverse=True)
    _, first_column, columns = np.unique(by_column, return_index=True, return_inverse=True)
    rows, columns = rows.reshape(-1), columns.reshape(-1)
    for matrix in matrices:
        told = matrix[np.ix_(first_row, first_column)]
        for begin in range(0, count, step):
            if (matrix[begin : begin + step] != told[rows[begin : begin + step]][:, columns]).any():
                return np.arange(count), np.arange(across)  # two hashes met by chance: each its own is right, too
    return rows.astype(np.intp), columns.astype(np.intp)
