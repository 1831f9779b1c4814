"""Warm-ups, rounds and their end on a fake board: R2, R4, R5 and R7 as the agent has them (profilers/sampling.py).

Neither imports the other; a test holds them against each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from qaedge.hil.fake.board import Board

Settings = Mapping[str, Any]


class Runs:
    """One thing that runs again and again: its repeats once it is warm, and what that took."""

    def __init__(self, board: Board, latency_s: float) -> None:
        """Nothing has run yet."""
        self._board = board
        self._latency_s = latency_s
        self.repeats = 1
        self.spent_ns = self.waited_ns = 0

    def _sample(self) -> int:
        taken, waited = self._board.run(self._latency_s, self.repeats)
        self.spent_ns += taken
        self.waited_ns += waited
        return taken

    def warm_up(self, settings: Settings) -> tuple[list[int], bool]:
        """Run until times are steady (R4); return the time of a run in each sample [ns], and whether they became so."""
        window, start = int(settings["warmup_window"]), self.spent_ns
        least, limit = settings["warmup_s"] * 1e9, settings["warmup_limit_s"] * 1e9
        times: list[float] = []
        runs, steady = 0, False
        while True:
            times.append(self._sample() / self.repeats)
            runs += self.repeats
            spent = self.spent_ns - start
            if runs >= settings["warmup_runs"]:
                self.repeats = max(1, math.ceil(settings["sample_s"] * 1e9 / max(1.0, median(times[-window:]))))
                if len(times) >= 2 * window:
                    before = median(times[-2 * window : -window])
                    steady = abs(median(times[-window:]) - before) <= settings["warmup_within"] * before
                if (spent >= least and steady) or spent >= limit:
                    return [int(time) for time in times], steady

    def warm_again(self, settings: Settings) -> list[int]:
        """Run a little; returns the times as `warm_up`."""
        times: list[int] = []
        start = self.spent_ns
        while len(times) * self.repeats < settings["rewarm_runs"] or self.spent_ns - start < settings["rewarm_s"] * 1e9:
            times.append(self._sample() // self.repeats)
        return times

    def take(self, samples: int, least_s: float) -> list[int]:
        """Return the samples of a round (R5), each the time of `repeats` runs [ns]."""
        found: list[int] = []
        while len(found) < samples or sum(found) < least_s * 1e9:
            found.append(self._sample())
        return found


def is_stable(rounds: Sequence[Sequence[float]], settings: Settings) -> bool:
    """Whether the latest rounds agree and the median is known well enough (R7)."""
    least = int(settings["rounds_min"])
    if len(rounds) < least:
        return False
    medians = [median(samples) for samples in rounds[-least:]]
    if max(medians) > min(medians) * (1 + settings["rounds_within"]):
        return False
    values = sorted(value for samples in rounds for value in samples)
    if len(values) < 6:
        return False
    reach = 1.96 * math.sqrt(len(values)) / 2
    low, high = values[math.ceil(len(values) / 2 - reach) - 1], values[math.ceil(len(values) / 2 + reach) - 1]
    center, within = median(values), settings["confidence_within"]
    return bool(low >= center * (1 - within) and high <= center * (1 + within))
