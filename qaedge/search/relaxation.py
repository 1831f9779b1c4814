"""Relaxation: lower bounds by Lagrange multipliers, and the lower hull of a front.

With weights for the columns, the network of least weighted cost is found block by block: a sum of minima,
or a shortest path where neighbours cost each other. Any weights give a valid bound; good ones only save
time. (Everett 1963; Fisher 1981.)
"""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import numpy.typing as npt

from qaedge.search.layers import Layers
from qaedge.search.problem import Array, Positions

_ROUNDS = 120  # of the search for multipliers
_VERTICES = 4096  # of a hull: more of them bound no better


class Prices(msgspec.Struct, eq=False):
    """What weights say [s: one for each row of weights].

    Attributes:
        weights: [s, d].
        after: for each layer, the least weighted cost of all that follows, by its leaving class [s, leaving].
        least: the least weighted cost of a whole network [s].
        places: that network's places in the layers [s, blocks].
        totals: that network's points, summed in block order [s, d].
    """

    weights: Array
    after: list[Array]
    least: Array
    places: Positions
    totals: Array


def price(layers: Layers, weights: Array) -> Prices:
    """Find the network of least weighted cost for each row of weights [s, d]."""
    if layers.is_plain:
        return _price_plain(layers, weights)
    count = len(weights)
    rows = np.arange(count)
    last = len(layers.layers) - 1
    after: list[Array] = [np.zeros((count, int(layers.layers[last].leaves.max(initial=0)) + 1))]
    best_of: list[Positions] = []  # place by entering class [s, entering]
    enter_of: list[Positions] = []  # entering class of the next layer by leaving class [s, leaving]
    for number in range(last, -1, -1):
        layer, rest = layers.layers[number], after[-1]
        value = weights @ layer.points.T
        value += rest[:, layer.leaves] if rest.shape[1] > 1 else rest
        entering = layers.borders[number - 1].shape[1] if number else 1
        if entering == 1:
            place = value.argmin(axis=1)[:, None]
            least = value[rows, place[:, 0]][:, None]
        else:
            place = np.zeros((count, entering), dtype=np.intp)
            least = np.full((count, entering), np.inf)
            for enter in range(entering):
                group = np.flatnonzero(layer.enters == enter)
                if len(group):
                    at = value[:, group].argmin(axis=1)
                    place[:, enter] = group[at]
                    least[:, enter] = value[rows, group[at]]
        best_of.append(place)
        if number:
            change = np.einsum("xed,sd->sxe", layers.borders[number - 1], weights) + least[:, None, :]
            enter_of.append(change.argmin(axis=2))
            after.append(change.min(axis=2))
    best_of, enter_of, after = best_of[::-1], enter_of[::-1], after[::-1]
    places = np.empty((count, last + 1), dtype=np.intp)
    totals = np.repeat(layers.start[None, :], count, axis=0)
    enters = np.zeros(count, dtype=np.intp)
    for number, layer in enumerate(layers.layers):
        places[:, number] = best_of[number][rows, enters]
        totals += layer.points[places[:, number]]
        if number < last:
            leaving = layer.leaves[places[:, number]]
            enters = enter_of[number][rows, leaving]
            totals += layers.borders[number][leaving, enters]
    return Prices(weights, after, weights @ layers.start + least.min(axis=1), places, totals)


def _price_plain(layers: Layers, weights: Array) -> Prices:
    """Do the same where neighbours cost nothing together: each block is a minimum by itself."""
    count = len(weights)
    rows = np.arange(count)
    places = np.empty((count, len(layers.layers)), dtype=np.intp)
    after: list[Array] = [np.zeros((count, 1))]
    for number in range(len(layers.layers) - 1, -1, -1):
        value = weights @ layers.layers[number].points.T
        places[:, number] = value.argmin(axis=1)
        after.append(after[-1] + value[rows, places[:, number]][:, None])
    totals = np.repeat(layers.start[None, :], count, axis=0)
    for number, layer in enumerate(layers.layers):
        totals += layer.points[places[:, number]]
    return Prices(weights, after[-2::-1], weights @ layers.start + after[-1][:, 0], places, totals)


class _Pricer:
    """`price` for one row of weights at a time, hundreds of times."""

    def __init__(self, layers: Layers) -> None:
        self._layers, self._is_plain = layers, layers.is_plain
        # Side by side: a product for all blocks at once, on numbers that follow each other in memory.
        self._columns = np.ascontiguousarray(np.concatenate([layer.points for layer in layers.layers]).T)
        self._ends = np.cumsum([len(layer.index) for layer in layers.layers]).tolist()

    def __call__(self, weights: Array) -> tuple[float, Positions, Array]:
        """Return the least weighted cost, and that network's places [blocks] and point [d]."""
        if not self._is_plain:
            found = price(self._layers, weights[None, :])
            return float(found.least[0]), found.places[0], found.totals[0]
        value = weights @ self._columns
        begins = [0, *self._ends]
        at = [begin + int(value[begin:end].argmin()) for begin, end in itertools.pairwise(begins)]
        least = 0.0
        for cost in value[at[::-1]].tolist():  # in the order of `price`
            least += cost
        total = self._layers.start.copy()
        for point in self._columns.T[at]:
            total += point
        return float(weights @ self._layers.start) + least, np.subtract(at, begins[:-1]), total


def price_before(layers: Layers, weights: Array) -> list[Array]:
    """Return, for each layer, the least weighted cost of all before it, by the class in which it is entered [s, e]."""
    before = [(weights @ layers.start)[:, None]]
    for layer, border in zip(layers.layers, layers.borders, strict=False):
        value = weights @ layer.points.T + before[-1][:, layer.enters]
        if border.shape[0] == 1:
            least = value.min(axis=1, keepdims=True)
        else:
            least = np.full((len(weights), border.shape[0]), np.inf)
            for leave in range(border.shape[0]):
                group = layer.leaves == leave
                if group.any():
                    least[:, leave] = value[:, group].min(axis=1)
        before.append((np.einsum("xed,sd->sxe", border, weights) + least[:, :, None]).min(axis=1))
    return before


def within(layers: Layers, weights: Array, most: Array) -> Layers:
    """Return the layers without candidates with which every network has more than `most` [s] by some row of weights."""
    prices, before = price(layers, weights), price_before(layers, weights)
    masks: list[npt.NDArray[np.bool_]] = []
    for number, layer in enumerate(layers.layers):
        value = weights @ layer.points.T + before[number][:, layer.enters] + prices.after[number][:, layer.leaves]
        masks.append(np.asarray((value <= most[:, None]).all(axis=0)))
    return layers.keep(masks)


class Dual(msgspec.Struct, eq=False):
    """The best multipliers found.

    Attributes:
        lower: no network within the limits has less than this.
        weights: what gives that bound; 1, and the multiplier of each limit [d].
        upper: the least of the networks within the limits that were met on the way; infinite if none was.
        places: that network [blocks]; None if none was.
    """

    lower: float
    weights: Array
    upper: float
    places: Positions | None


def maximize_bound(layers: Layers, upper: float) -> Dual:
    """Return multipliers of a great lower bound; a network of the value `upper` is known.

    One limit: the crossing of two lines of the dual, repeated, ends at its maximum. Several:
    subgradient steps after Polyak.
    """
    columns = sum(layer.points.max(axis=0) - layer.points.min(axis=0) for layer in layers.layers)
    columns = columns + sum(border.max(axis=(0, 1)) - border.min(axis=(0, 1)) for border in layers.borders)
    scale = np.where(columns[1:] > 0, columns[1:], 1.0)
    start, bounds = layers.start, layers.bounds
    weights = np.zeros(len(start))
    weights[0] = 1.0
    found = Dual(-np.inf, weights, upper, None)

    pricer = _Pricer(layers)

    def visit(weights: Array) -> Array:
        """Take note of what weights tell, and return the point of their network."""
        least, places, total = pricer(weights)
        bound = float(least - weights[1:] @ bounds[1:])
        if total[0] < found.upper and (total <= bounds).all():
            found.upper, found.places = float(total[0]), places
        if bound > found.lower:
            found.lower, found.weights = bound, weights.copy()
        return total

    total = visit(weights)
    if (total <= bounds).all():
        return found
    if len(start) == 2:
        above, below = total, price(layers, np.array([[0.0, 1.0]])).totals[0]
        while above[1] > below[1]:
            slope = max(0.0, (below[0] - above[0]) / (above[1] - below[1]))
            total = visit(np.array([1.0, slope]))
            line = above[0] + slope * above[1]
            if total[0] + slope * total[1] >= line - 1e-13 * abs(line):
                break
            above, below = (total, below) if total[1] > bounds[1] else (above, total)
        return found
    pace, stale = 1.0, 0
    for _ in range(_ROUNDS):
        slope = (total[1:] - bounds[1:]) / scale
        square = float(slope @ slope)
        if square == 0 or found.upper <= found.lower:
            break
        step = pace * max(found.upper - found.lower, 0.0) / square
        weights = np.concatenate([[1.0], np.maximum(0.0, weights[1:] + step * slope / scale)])
        lower = found.lower
        total = visit(weights)
        stale = 0 if found.lower > lower else stale + 1
        if stale == 4:
            pace, stale, weights = pace / 2, 0, found.weights.copy()
    return found


class Hull(msgspec.Struct, eq=False):
    """The lower convex hull of a front of two columns.

    Attributes:
        totals: its corners, cheapest first [n, 2].
        slopes: what a unit of cost buys along each edge, falling [n - 1].
        least: the weighted cost of an edge, `loss + slope * cost` [n - 1].
    """

    totals: Array
    slopes: Array
    least: Array


def hull(layers: Layers) -> Hull:
    """Find the hull's corners: between two of them, the weights of their edge tell whether there is another."""
    ends = price(layers, np.array([[0.0, 1.0], [1.0, 0.0]]))
    # Weighted by one column alone, a tie in it hides a better value in the other.
    tiny = 1e-9
    scale = np.abs(ends.totals[0] - ends.totals[1]) + 1e-300
    ends = price(layers, np.array([[tiny / scale[0], 1 / scale[1]], [1 / scale[0], tiny / scale[1]]]))
    totals = ends.totals
    open_edges = (
        np.ones(1, dtype=bool)
        if totals[0, 1] < totals[1, 1] and totals[0, 0] > totals[1, 0]
        else np.zeros(1, dtype=bool)
    )
    if not open_edges.any():
        keep = 0 if totals[0, 0] <= totals[1, 0] else 1
        return Hull(totals[[keep]], np.zeros(0), np.zeros(0))
    while open_edges.any() and len(totals) < _VERTICES:
        edges = np.flatnonzero(open_edges)
        left, right = totals[edges], totals[edges + 1]
        slopes = (left[:, 0] - right[:, 0]) / (right[:, 1] - left[:, 1])
        found = price(layers, np.column_stack([np.ones(len(edges)), slopes]))
        line = left[:, 0] + slopes * left[:, 1]
        new = (
            (found.totals[:, 0] + slopes * found.totals[:, 1] < line - 1e-13 * np.abs(line))
            & (found.totals[:, 1] > left[:, 1])
            & (found.totals[:, 1] < right[:, 1])
            & (found.totals[:, 0] < left[:, 0])
            & (found.totals[:, 0] > right[:, 0])
        )
        at = edges[new] + 1
        flags = open_edges.copy()
        flags[edges[~new]] = False
        totals = np.insert(totals, at, found.totals[new], axis=0)
        open_edges = np.insert(flags, at, True)
    slopes = (totals[:-1, 0] - totals[1:, 0]) / (totals[1:, 1] - totals[:-1, 1])
    least = price(layers, np.column_stack([np.ones(len(slopes)), slopes])).least
    return Hull(totals, slopes, least)
