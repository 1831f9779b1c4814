"""Change points: where a series of times makes a step that stays, and what its level is before and after.

The method is asv's (asv/step_detect.py; Potts functional with L1 cost): of all piecewise constant series, the one
with the least sum of absolute distances plus a price for each step, found by dynamic programming. Here times are
compared by their logarithms, a level lasts for at least `SHORTEST` points, and the price comes from the noise of the
series itself, its neighbors' differences (as in BIC), so that there is nothing to tune.
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections.abc import Sequence

import msgspec

#: A level that lasts for fewer points is an outlier, not a level.
SHORTEST = 3
#: The price of a step, in units of the noise times the logarithm of the number of points. By simulation, of series
#: of noise alone 1.5 % have a step where they are 20 points long, and none of 400 where they are 50 or 100.
PRICE = 3.0
#: Noise below this is that of the clock [share].
LEAST_NOISE = 0.002


class Change(msgspec.Struct, frozen=True):
    """A step: the first point of the new level, and the levels before and after."""

    at: int
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """The new level over the old one."""
        return self.after / self.before


def changes(values: Sequence[float], least: float = 0.0, price: float = PRICE) -> tuple[Change, ...]:
    """Return the steps of a series of positive values that are larger than a share `least`, in order."""
    bounds = _segments([math.log(value) for value in values], price)
    found = []
    for left, middle, right in zip(bounds, bounds[1:], bounds[2:], strict=False):
        change = Change(middle, statistics.median(values[left:middle]), statistics.median(values[middle:right]))
        if abs(math.log(change.ratio)) > math.log1p(least):
            found.append(change)
    return tuple(found)


def _segments(values: Sequence[float], price: float) -> list[int]:
    """Return where the levels begin, and the end of the last one."""
    count = len(values)
    if count < 2 * SHORTEST:
        return [0, count]
    fee = price * _noise(values) * math.log(count)
    best = [0.0] + [math.inf] * count
    last = [0] * (count + 1)
    for end in range(SHORTEST, count + 1):
        ordered: list[float] = []
        low = high = 0.0  # sums of the lower and of the upper half
        for start in range(end - 1, -1, -1):
            place = bisect.bisect_left(ordered, values[start])
            ordered.insert(place, values[start])
            size = len(ordered)
            half = size // 2
            if size <= 2 or size % 16 == 0:  # anew from time to time: sums of differences lose digits
                low, high = sum(ordered[:half]), sum(ordered[size - half :])
            else:
                low, high = _halves(ordered, place, low, high)
            if size < SHORTEST or best[start] == math.inf:
                continue
            cost = best[start] + (high - low) + (fee if start else 0.0)
            if cost < best[end]:
                best[end], last[end] = cost, start
    bounds = [count]
    while bounds[-1]:
        bounds.append(last[bounds[-1]])
    return bounds[::-1]


def _halves(ordered: list[float], place: int, low: float, high: float) -> tuple[float, float]:
    """Return the sums of the lower and the upper half after a value was put in at `place`."""
    size = len(ordered)
    half, value = size // 2, ordered[place]
    if size % 2:  # the middle one counts for neither half
        middle = ordered[half]
        if place < half:
            return low + value - middle, high
        if place > half:
            return low, high + value - middle
        return low, high
    # The size was odd before: its middle value, which counted for neither, goes to the half that is short of one.
    if place < half:
        return low + value, high + ordered[half]
    return low + ordered[half - 1], high + value


def _noise(values: Sequence[float]) -> float:
    """Return the mean absolute distance from a level, as the median difference of neighbors tells it."""
    steps = [abs(after - before) for before, after in itertools.pairwise(values)]
    # For normal noise: the median of |difference| is 0.954 sigma, the mean distance 0.798 sigma.
    return max(LEAST_NOISE, 0.798 / 0.954 * statistics.median(steps))
