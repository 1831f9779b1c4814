"""Pareto fronts of points: which ones no other is at least as good as in every column.

Points are rows [n, d], less is better; column 0 is the loss. Of equal points the first is kept.
Positions returned are ascending, so that "first" keeps its meaning through repeated merging.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
Positions: TypeAlias = npt.NDArray[np.intp]

_CELLS = 1 << 14
_FEW = 512  # points, of which none need be told in advance to be dominated
_STRONG = 64  # points, against which all others are held first
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
        likely = _likely2(points)
        return np.sort(likely[staircase(points[likely])])
    likely = _likely(points)
    if columns == 3:
        return likely[_nondominated3(points[likely])]
    # Most rows are often alike beyond the third column, such as those that no earlier network has.
    rest = points[likely, 3:]
    alike = np.flatnonzero((rest == rest.min(axis=0)).all(axis=1)) if count else likely
    beaten = np.ones(len(likely), dtype=bool)
    beaten[alike[_nondominated3(points[likely[alike], :3])]] = False
    beaten[np.setdiff1d(np.arange(len(likely)), alike)] = False
    likely = likely[~beaten]
    return likely[_nondominated_pairwise(points[likely])] if len(likely) <= _PAIRWISE else likely


def staircase(points: Array) -> Positions:
    """Return the front in columns 0 and 1 only, ascending in column 1; ties go by later columns, then position."""
    order = np.lexsort((*points.T[:1:-1], points[:, 0], points[:, 1]))
    losses = points[order, 0]
    least = np.concatenate([[np.inf], np.minimum.accumulate(losses)[:-1]])
    return np.asarray(order[losses < least])


def _likely2(points: Array) -> Positions:
    """Return the positions of two columns' points that the front of a sample does not beat."""
    count = len(points)
    if count < 4 * _FEW:
        return np.arange(count)
    sample = points[:: max(1, count // (4 * _FEW))]
    steps = sample[staircase(sample)]
    losses = np.concatenate([[np.inf], steps[:, 0]])
    return np.flatnonzero(points[:, 0] <= losses[np.searchsorted(steps[:, 1], points[:, 1], side="right")])


def _likely(points: Array) -> Positions:
    """Return the positions of the points that neither a lower cell nor a few strong points beat in every column."""
    count = len(points)
    if count < 4 * _FEW:
        return np.arange(count)
    low, high = points.min(axis=0), points.max(axis=0)
    left = Grid(low, high, count).add(points)
    columns = np.ascontiguousarray(points[left].T)
    span = np.where(high > low, high - low, 1.0)
    score = ((columns - low[:, None]) / span[:, None]).sum(axis=0)
    strongest = columns[:, np.argpartition(score, _STRONG)[:_STRONG]] if len(left) > _STRONG else columns[:, :0]
    for strong in strongest.T:
        beaten = columns[0] > strong[0]  # strictly: of equal points the first has to stay
        for column, value in zip(columns[1:], strong[1:], strict=True):
            beaten &= column >= value
        if np.count_nonzero(beaten) * 8 > len(left):
            left, columns = left[~beaten], columns[:, ~beaten]
    return left


class Grid:
    """The least loss seen in each cell of a grid over the costs: what a lower cell beats is dominated.

    A cell below in every column holds strictly lower costs, because the cell number never falls as
    the cost rises; so thinning drops dominated points only.
    """

    def __init__(self, low: Array, high: Array, count: int) -> None:
        """Span points between `low` and `high` [d], about `count` of them; a few points need no grid."""
        columns = low.shape[-1] - 1
        self.side = int(_CELLS ** (1 / columns)) if 0 < columns <= 4 and count >= _FEW else 0
        if self.side:
            self.low = low[1:]
            span = high[1:] - low[1:]
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
