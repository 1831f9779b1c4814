"""The whole front of a sum against one cost, exactly: partial networks merged under an envelope of bounds.

A partial network is kept where, at some slope of the front's lower hull, its value and the least value of
all that follows stay within what networks that are known leave open there. For each class in which a
partial network is left, that is one convex curve over its cost, the upper envelope of a line for each
slope; so the test is one interpolation. Known networks come from a first merging with tighter curves.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from qaedge.search.layers import Layers
from qaedge.search.problem import Array, Positions
from qaedge.search.relaxation import Hull, hull, price

_SUMS = 1 << 19  # made at once: bounds memory
_RUN = 32  # partial networks that are held against the curve together
_STEPS = 1 << 17  # of a curve's table
_CELLS = 1 << 15
_SHARE = 1 / 16  # of what the corners of the hull leave open: what the first merging looks at
_KEYS = 1 << 62


class _Lines(msgspec.Struct, eq=False):
    """What may still be in the front: `loss + slope * cost <= target` for some line, or a cost of at most `first`.

    Attributes:
        slopes: falling, the last one 0 [s].
        targets: [s].
        first: the least cost at which a network is known.
    """

    slopes: Array
    targets: Array
    first: float


class _Partial(msgspec.Struct, eq=False):
    """Partial networks left in one class, cheapest first.

    Attributes:
        costs, losses: [n].
        keys: rise as the indices do, the first block's counting most [n].
        places: where they stand among all partial networks of this layer [n].
    """

    costs: Array
    losses: Array
    keys: npt.NDArray[np.int64]
    places: Positions


def merge_front(layers: Layers) -> Positions:
    """Return the networks that no other beats in both columns, cheapest first: candidates' indices [n, blocks].

    Of networks equal in both the one with the lowest indices.
    """
    layers = layers.thinned()
    convex = _convex(layers)
    lower = hull(convex)
    rounding = layers.rounding
    slack = float(rounding[0]) + lower.slopes * float(rounding[1])
    slopes = np.append(lower.slopes, 0.0)
    last = float(lower.totals[-1, 0]) + float(rounding[0])
    first = float(lower.totals[0, 1]) + float(rounding[1])
    steps = lower.totals[:-1, 0] - lower.totals[1:, 0]
    targets = lower.least + _SHARE * steps + slack
    places, points = _merge(layers, convex, _Lines(slopes, np.append(targets, last), first))
    needed = _targets(lower, points) + slack
    if (needed > targets).any():
        places, points = _merge(layers, convex, _Lines(slopes, np.append(needed, last), first))
    return layers.indices(places)


def _convex(layers: Layers) -> Layers:
    """Return the layers with the corners of each class's lower hull alone: those that are least by some weights."""
    masks = []
    for layer in layers.layers:
        mask = np.zeros(len(layer.index), dtype=bool)
        for _, _, group in layer.groups():
            order = group[np.lexsort((layer.points[group, 0], layer.points[group, 1]))]
            corners: list[int] = []
            points = layer.points.tolist()
            for at in order.tolist():
                loss, cost = points[at]
                while len(corners) > 1:
                    (loss1, cost1), (loss2, cost2) = points[corners[-2]], points[corners[-1]]
                    if (loss1 - loss2) * (cost - cost2) > (loss2 - loss) * (cost2 - cost1):
                        break
                    corners.pop()
                corners.append(at)
            mask[corners] = True
        masks.append(mask)
    return layers.keep(masks)


def _targets(lower: Hull, points: Array) -> Array:
    """Return the `loss + slope * cost` that known networks, cheapest first, leave open at each edge of the hull."""
    # From one known network to the next dearer one, a better one has less loss than the first.
    cost, loss = points[1:, 1], points[:-1, 0]
    edge = np.clip(np.searchsorted(lower.totals[:, 1], points[:-1, 1], side="right") - 1, 0, len(lower.slopes) - 1)
    open_ = lower.least.copy()
    np.maximum.at(open_, edge, loss + lower.slopes[edge] * cost)
    # A step that begins in one edge and ends in the next, where rounding has moved a corner.
    until = np.clip(np.searchsorted(lower.totals[:, 1], cost, side="left") - 1, 0, len(lower.slopes) - 1)
    for at in np.flatnonzero(until > edge):
        for later in range(edge[at] + 1, until[at] + 1):
            open_[later] = max(open_[later], loss[at] + lower.slopes[later] * cost[at])
    return open_


def _merge(layers: Layers, convex: Layers, lines: _Lines) -> tuple[Positions, Array]:
    """Merge all layers, priced by the corners of their hulls: the front's places [n, blocks] and points [n, 2]."""
    after = price(convex, np.column_stack([np.ones(len(lines.slopes)), lines.slopes])).after
    cheapest = price(convex, np.array([[0.0, 1.0]])).after
    one = np.zeros(1)
    parts = {0: _Partial(one + layers.start[1], one + layers.start[0], np.zeros(1, np.int64), np.zeros(1, np.intp))}
    parents: list[Positions] = []
    chosen: list[Positions] = []
    for number, layer in enumerate(layers.layers):
        width = len(layer.index)
        if max(len(p.keys) and int(p.keys.max()) for p in parts.values()) >= _KEYS // width:
            _renumber(parts)
        made: dict[int, list[tuple[Array, Array, npt.NDArray[np.int64], Positions, Positions]]] = {}
        for enter, leave, group in layer.groups():
            curve = _Curve(lines, after[number][:, leave], float(cheapest[number][0, leave]))
            for left, part in parts.items():
                border = layers.borders[number - 1][left, enter] if number else np.zeros(2)
                made.setdefault(leave, []).append(_sums(part, border, layer.points[group], group, width, curve))
        parts, offset = {}, 0
        layer_parents, layer_chosen = [], []
        for leave, found in made.items():
            costs, losses, keys, parent, place = (
                found[0] if len(found) == 1 else tuple(np.concatenate(c) for c in zip(*found, strict=True))
            )
            kept = _falling(costs, losses, keys)
            parts[leave] = _Partial(costs[kept], losses[kept], keys[kept], np.arange(offset, offset + len(kept)))
            offset += len(kept)
            layer_parents.append(parent[kept])
            layer_chosen.append(place[kept])
        parents.append(np.concatenate(layer_parents))
        chosen.append(np.concatenate(layer_chosen))
    (whole,) = parts.values()
    at = whole.places
    columns = []
    for parent, place in zip(reversed(parents), reversed(chosen), strict=True):
        columns.append(place[at])
        at = parent[at]
    return np.column_stack(columns[::-1]), np.column_stack([whole.losses, whole.costs])


class _Curve:
    """The greatest loss with which a partial network of some cost may still be in the front."""

    def __init__(self, lines: _Lines, after: Array, cheapest: float) -> None:
        """Build the upper envelope of the lines, less what follows: `after` [s] on each, `cheapest` in cost."""
        self.first = lines.first - cheapest
        corners, heights = [], []
        stack: list[tuple[float, float, float]] = []  # slope, height at 0, where it begins to be the upper one
        for slope, height in zip(lines.slopes.tolist(), (lines.targets - after).tolist(), strict=True):
            begin = -np.inf
            while stack:
                top_slope, top_height, top_begin = stack[-1]
                if top_slope == slope:
                    begin = top_begin if height > top_height else np.inf
                else:
                    begin = (top_height - height) / (top_slope - slope)
                if begin > top_begin or begin == np.inf:
                    break
                stack.pop()
                begin = -np.inf
            if begin < np.inf:
                stack.append((slope, height, begin))
        for slope, height, begin in stack[1:]:
            corners.append(begin)
            heights.append(height - slope * begin)
        self.slope, self.height, _ = stack[0]
        self.corners, self.heights = np.array(corners), np.array(heights)

    def at(self, costs: Array) -> Array:
        """Return the greatest loss at these costs."""
        most = self.height - self.slope * costs
        if len(self.corners):
            np.maximum(most, np.interp(costs, self.corners, self.heights), out=most)
        most[costs <= self.first] = np.inf
        return np.asarray(most)


class _Steps:
    """A curve as a table: in each cell its greatest value, which is that at the cell's left end, for it falls."""

    def __init__(self, curve: _Curve, low: float, high: float, cells: int) -> None:
        """Tabulate between two costs."""
        self.low = low
        self.scale = cells / (high - low) if high > low else 0.0
        self.most = curve.at(np.linspace(low, high, cells + 1))

    def over(self, costs: Array) -> Array:
        """Return at least the greatest loss at these costs."""
        return np.asarray(self.most[((costs - self.low) * self.scale).astype(np.intp)])


def _sums(
    part: _Partial, border: Array, right: Array, group: Positions, width: int, curve: _Curve
) -> tuple[Array, Array, npt.NDArray[np.int64], Positions, Positions]:
    """Return the sums of partial networks and candidates below the curve: cost, loss, key, parent, place."""
    count = len(part.costs)
    none = np.zeros(0, dtype=np.intp)
    if not count:
        return np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64), none, none
    size = max(1, min(_RUN, count // _RUN))
    runs = -(-count // size)
    # Rows of neighbours; the last is filled up with what is below no curve.
    flat_costs = np.full(runs * size, part.costs[-1] + border[1])
    flat_losses = np.full(runs * size, np.nan)
    flat_costs[:count], flat_losses[:count] = part.costs + border[1], part.losses + border[0]
    least = flat_losses[np.minimum(np.arange(1, runs + 1) * size, count) - 1]
    left_costs, left_losses = flat_costs.reshape(runs, size), flat_losses.reshape(runs, size)
    steps = _Steps(
        curve,
        float(left_costs[0, 0] + right[:, 1].min()),
        float(left_costs[-1, -1] + right[:, 1].max()),
        min(max(4 * count, 1 << 10), _STEPS),
    )
    # The least cost and loss of a run and a candidate: where they are not below the curve, no sum of theirs is.
    low_costs = left_costs[:, 0, None] + right[None, :, 1]
    run, candidate = np.nonzero(least[:, None] + right[None, :, 0] <= steps.over(low_costs))
    # Those of similar cost together, so that they can beat each other while few are in memory.
    order = np.argsort(low_costs[run, candidate])
    run, candidate = run[order], candidate[order]
    found = []
    for begin in range(0, len(run), max(1, _SUMS // size)):
        rows, picks = run[begin : begin + _SUMS // size], candidate[begin : begin + _SUMS // size]
        costs = (left_costs[rows] + right[picks, 1][:, None]).reshape(-1)
        losses = (left_losses[rows] + right[picks, 0][:, None]).reshape(-1)
        kept = np.flatnonzero(losses <= steps.over(costs))
        kept = kept[_thin(costs[kept], losses[kept])]
        at, inside = np.divmod(kept, size)
        parents, places = rows[at] * size + inside, group[picks[at]]
        found.append((costs[kept], losses[kept], part.keys[parents] * width + places, part.places[parents], places))
    if not found:
        return np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64), none, none
    costs, losses, keys, parents, places = (np.concatenate(c) for c in zip(*found, strict=True))
    return costs, losses, keys, parents, places


def _thin(costs: Array, losses: Array) -> Positions:
    """Return positions without many of those that are beaten: what one in a cheaper cell beats in loss."""
    if len(costs) < 512:
        return np.arange(len(costs))
    low = costs.min()
    span = costs.max() - low
    if span <= 0:
        return np.arange(len(costs))
    cells = min(_CELLS, len(costs))
    cell = ((costs - low) * ((cells - 1) / span)).astype(np.intp)
    best = np.full(cells + 1, np.inf)
    np.minimum.at(best, cell + 1, losses)
    np.minimum.accumulate(best, out=best)
    return np.flatnonzero(losses < best[cell])


def _falling(costs: Array, losses: Array, keys: npt.NDArray[np.int64]) -> Positions:
    """Return the positions of the front, cheapest first; of equal points the one with the least key."""
    thin = _thin(costs, losses)
    costs, losses = costs[thin], losses[thin]
    order = np.argsort(costs)
    ordered = costs[order]
    if (ordered[1:] == ordered[:-1]).any():
        order = np.lexsort((keys[thin], losses, costs))
    falling = losses[order]
    least = np.concatenate([[np.inf], np.minimum.accumulate(falling)[:-1]])
    return np.asarray(thin[order[falling < least]])


def _renumber(parts: dict[int, _Partial]) -> None:
    """Give all partial networks small keys in the same order."""
    keys = np.concatenate([part.keys for part in parts.values()])
    rank = np.empty(len(keys), dtype=np.int64)
    rank[np.argsort(keys)] = np.arange(len(keys))
    begin = 0
    for part in parts.values():
        part.keys = rank[begin : begin + len(part.keys)]
        begin += len(part.keys)
