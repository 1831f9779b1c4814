"""Pareto fronts of points: which ones no other is at least as good as in every column.

Points are rows [n, d], less is better; column 0 is the loss. Of equal points the first is kept.
Positions returned are ascending, so that "first" keeps its meaning through repeated merging.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
Positions: TypeAlias = npt.NDArray[np.intp]
Mask: TypeAlias = npt.NDArray[np.bool_]

_CHUNK = 1 << 20  # sums made at once: bounds memory
_CELLS = 1 << 14
_PAIRWISE = 4096  # beyond three columns, more points than this are thinned only


def nondominated(points: Array) -> Positions:
    """Return the positions of the points that no other dominates, ascending.

    Exact up to three columns. With more columns and many points, some dominated ones may stay:
    that costs time in what follows, never an answer.
    """
    count, columns = points.shape
    if columns == 1:
        return np.array([points[:, 0].argmin()]) if count else np.arange(0)
    if columns == 2:
        return np.sort(staircase(points))
    if columns == 3:
        return _nondominated3(points)
    return _nondominated_pairwise(points) if count <= _PAIRWISE else np.arange(count)


def staircase(points: Array) -> Positions:
    """Return the front in columns 0 and 1 only, ascending in column 1; ties go by later columns, then position."""
    order = np.lexsort((*points.T[:1:-1], points[:, 0], points[:, 1]))
    losses = points[order, 0]
    least = np.concatenate([[np.inf], np.minimum.accumulate(losses)[:-1]])
    return np.asarray(order[losses < least])


def outer_front(left: Array, right: Array, keeps: Callable[[Array], Mask]) -> tuple[Positions, Array]:
    """Return the front of all sums of a row of `left` and a row of `right` that `keeps` lets pass.

    Returns:
        Positions `l * len(right) + r`, ascending, and their points.
    """
    grid = _Grid(left, right)
    rows = max(1, _CHUNK // len(right))
    found: list[tuple[Positions, Array]] = []
    for first in range(0, len(left), rows):
        part = left[first : first + rows]
        made = (part[:, None, :] + right[None, :, :]).reshape(-1, left.shape[1])
        mask = keeps(made)
        positions = np.flatnonzero(mask)
        made = made if len(positions) == len(made) else made[positions]
        thin = grid.add(made)
        found.append((positions[thin] + first * len(right), made[thin]))
    positions = np.concatenate([p for p, _ in found]) if found else np.arange(0)
    points = np.concatenate([m for _, m in found]) if found else left[:0]
    if len(found) > 1:
        thin = grid.survivors(points)
        positions, points = positions[thin], points[thin]
    keep = nondominated(points)
    return positions[keep], points[keep]


class _Grid:
    """The least loss seen in each cell of a grid over the costs: what a lower cell beats is dominated.

    A cell below in every column holds strictly lower costs, because the cell number never falls as
    the cost rises; so thinning drops dominated points only.
    """

    def __init__(self, left: Array, right: Array) -> None:
        """Span the sums of `left` and `right`."""
        columns = left.shape[1] - 1
        self.side = int(_CELLS ** (1 / columns)) if 0 < columns <= 4 else 0
        if not self.side or not len(left) or len(left) * len(right) < 512:
            self.side = 0
            return
        self.low = (left.min(axis=0) + right.min(axis=0))[1:]
        span = (left.max(axis=0) + right.max(axis=0))[1:] - self.low
        self.scale = np.where(span > 0, self.side / np.where(span > 0, span, 1.0), 0.0)
        self.best = np.full((self.side,) * columns, np.inf)

    def _cells(self, points: Array) -> Positions:
        cell = np.zeros(len(points), dtype=np.intp)
        for column in range(points.shape[1] - 1):
            number = ((points[:, column + 1] - self.low[column]) * self.scale[column]).astype(np.intp)
            cell = cell * self.side + np.clip(number, 0, self.side - 1)
        return cell

    def add(self, points: Array) -> Positions:
        """Take note of the points, and return the positions of those not dominated by a lower cell."""
        if not self.side:
            return np.arange(len(points))
        cells = self._cells(points)
        np.minimum.at(self.best.reshape(-1), cells, points[:, 0])
        return self._undominated(points, cells)

    def survivors(self, points: Array) -> Positions:
        """Return the positions of the points not dominated by a lower cell."""
        return self._undominated(points, self._cells(points)) if self.side else np.arange(len(points))

    def _undominated(self, points: Array, cells: Positions) -> Positions:
        least = self.best
        for axis in range(least.ndim):
            least = np.minimum.accumulate(least, axis=axis)
        below = np.full_like(least, np.inf)
        inner, outer = (slice(1, None),) * least.ndim, (slice(None, -1),) * least.ndim
        below[inner] = least[outer]
        return np.flatnonzero(points[:, 0] < below.reshape(-1)[cells])


def _nondominated3(points: Array) -> Positions:
    """Three columns, in n log^2 n: split the points sorted by loss in halves, at every level at once.

    A point is dominated when one before it is no worse in columns 1 and 2. At each level the left
    half of a group is asked by the right half: in order of column 1, the least of column 2 so far.
    """
    order = np.lexsort((points[:, 2], points[:, 1], points[:, 0]))
    count = len(order)
    ordered = points[order]
    by_second = np.argsort(ordered[:, 1], kind="stable")
    third = np.unique(ordered[:, 2], return_inverse=True)[1].reshape(-1)
    dominated = np.zeros(count, dtype=bool)
    for level in range(max(0, count - 1).bit_length()):
        group = by_second >> (level + 1)
        place = by_second[np.argsort(group, kind="stable")]
        from_left = (place >> level) & 1 == 0
        # Groups count downwards by more than any rank, so that the running least starts anew in each.
        offset = (place >> (level + 1)) * -(count + 1)
        least = np.minimum.accumulate(np.where(from_left, third[place], count) + offset) - offset
        dominated[place[~from_left & (least <= third[place])]] = True
    return np.sort(order[~dominated])


def _nondominated_pairwise(points: Array) -> Positions:
    """Any number of columns: each point against those before it in lexicographic order."""
    order = np.lexsort(points.T[::-1])
    kept = np.empty_like(points)
    positions: list[int] = []
    for position in order:
        point = points[position]
        if not (kept[: len(positions)] <= point).all(axis=1).any():
            kept[len(positions)] = point
            positions.append(int(position))
    return np.sort(np.array(positions, dtype=np.intp))
