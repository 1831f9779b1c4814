"""Merging: partial networks of any number of columns, block by block.

Dropped on the way: partial networks that another of their class dominates, that cannot keep the limits
any more, and, with a target, whose bound lies beyond it.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from qaedge.search.layers import Layer, Layers
from qaedge.search.pareto import Grid, nondominated
from qaedge.search.problem import Array, Positions
from qaedge.search.relaxation import price, within

_CHUNK = 1 << 19  # sums made at once: bounds memory


class Target(msgspec.Struct, eq=False):
    """Networks of a weighted cost of at most `most`; of more partial networks than `width` the best are kept."""

    weights: Array
    most: float
    width: int


class Merged(msgspec.Struct, eq=False):
    """Whole networks within the limits, none of which another dominates, by ascending indices.

    Attributes:
        places: in the layers [n, blocks].
        points: [n, d].
        dropped: the least weighted cost that what was dropped for want of width may have; infinite if nothing was.
        widest: how many partial networks there were at most.
    """

    places: Positions
    points: Array
    dropped: float
    widest: int


def merge(layers: Layers, target: Target | None = None) -> Merged:
    """Merge the layers into whole networks.

    Without a target all of the front is made, however large.
    """
    width = len(layers.start)
    weights, most = np.zeros((1, width)), np.array([np.inf])
    if target is not None:
        # The bound is a sum in another order: it may not drop what lies within rounding.
        weights, most = target.weights[None, :], np.array([target.most + float(target.weights @ layers.rounding)])
    limited = np.flatnonzero(np.isfinite(layers.bounds))
    rows = np.concatenate([weights, np.eye(width)[limited]])
    tops = np.concatenate([most, (layers.bounds + layers.rounding)[limited]])
    layers = within(layers, rows, tops)
    none = np.zeros((0, len(layers.layers)), dtype=np.intp)
    if layers.is_empty:
        return Merged(none, np.zeros((0, width)), np.inf, 0)
    after = price(layers, rows).after
    points, leaves = layers.start[None, :], np.zeros(1, dtype=np.intp)
    parents: list[Positions] = []
    chosen: list[Positions] = []
    dropped, widest = np.inf, 0
    for number, layer in enumerate(layers.layers):
        border = layers.borders[number - 1] if number else np.zeros((1, 1, width))
        made = []
        for leave in sorted(set(layer.leaves.tolist())):
            room = tops - after[number][:, leave]
            made.append(_sums(points, leaves, border, layer, leave, rows, room))
        keys = np.concatenate([k for k, _ in made])
        order = np.argsort(keys, kind="stable")
        keys, points = keys[order], np.concatenate([p for _, p in made])[order]
        parent, place = keys // len(layer.index), keys % len(layer.index)
        leaves = layer.leaves[place]
        widest = max(widest, len(keys))
        if target is not None and len(keys) > target.width:
            value = points @ target.weights + after[number][0, leaves]
            best = np.argpartition(value, target.width)
            dropped = min(dropped, float(value[best[target.width :]].min()))
            kept = np.sort(best[: target.width])
            points, leaves, parent, place = points[kept], leaves[kept], parent[kept], place[kept]
        parents.append(parent)
        chosen.append(place)
    at = np.flatnonzero((points <= layers.bounds).all(axis=1))
    points = points[at]
    columns = []
    for parent, layer, place in zip(reversed(parents), reversed(layers.layers), reversed(chosen), strict=True):
        columns.append(layer.index[place[at]])
        at = parent[at]
    return Merged(np.column_stack(columns[::-1]), points, dropped, widest)


def _sums(
    points: Array, leaves: Positions, border: Array, layer: Layer, leave: int, rows: Array, room: Array
) -> tuple[Positions, Array]:
    """Return the front of the sums within `room` that end in one class: keys `left * width + right`, points."""
    if not len(points) or (room == -np.inf).any():
        return np.zeros(0, dtype=np.intp), points[:0]
    grid = Grid(
        points.min(axis=0) + border.min(axis=(0, 1)) + layer.points.min(axis=0),
        points.max(axis=0) + border.max(axis=(0, 1)) + layer.points.max(axis=0),
        len(points) * len(layer.index),
    )
    found: list[tuple[Positions, Array]] = []
    for left, right in _pairs(points, leaves, border, layer, leave, rows, room):
        sums = points[left] + border[leaves[left], layer.enters[right]] if border.any() else points[left]
        sums = sums + layer.points[right]
        kept = (sums @ rows.T <= room).all(axis=1)
        sums, keys = sums[kept], left[kept] * len(layer.index) + right[kept]
        thin = grid.add(sums)
        found.append((keys[thin], sums[thin]))
    if not found:
        return np.zeros(0, dtype=np.intp), points[:0]
    keys, sums = np.concatenate([k for k, _ in found]), np.concatenate([s for _, s in found])
    thin = grid.survivors(sums)
    keys, sums = keys[thin], sums[thin]
    order = np.argsort(keys, kind="stable")
    keys, sums = keys[order], sums[order]
    front = nondominated(sums)
    return keys[front], sums[front]


def _pairs(
    points: Array, leaves: Positions, border: Array, layer: Layer, leave: int, rows: Array, room: Array
) -> Iterator[tuple[Positions, Positions]]:
    """Yield the pairs whose weighted cost keeps the room of the first row, a bounded number at once."""
    for enter, left_class in np.ndindex(border.shape[1], border.shape[0]):
        right = np.flatnonzero((layer.enters == enter) & (layer.leaves == leave))
        left = np.flatnonzero(leaves == left_class)
        if not len(right) or not len(left):
            continue
        value = layer.points[right] @ rows[0]
        order = np.argsort(value, kind="stable")
        right, value = right[order], value[order]
        spare = room[0] - (points[left] + border[left_class, enter]) @ rows[0]
        # Sums in another order than those that are held against the room: a part in 10^9 is more than enough.
        counts = np.searchsorted(value, spare + 1e-9 * (np.abs(spare) + np.abs(value[-1])), side="right")
        left, counts = left[counts > 0], counts[counts > 0]
        ends = np.cumsum(counts)
        begin = 0
        while begin < len(left):
            made = int(ends[begin - 1]) if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, made + _CHUNK, side="right")))
            part = counts[begin:end]
            total = int(part.sum())
            within_left = np.arange(total) - np.repeat(np.cumsum(part) - part, part)
            yield np.repeat(left[begin:end], part), right[within_left]
            begin = end
