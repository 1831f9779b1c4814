"""A measurement: raw samples, the conditions they were taken under, and reasons to distrust them."""

from __future__ import annotations

import math
import statistics
from typing import Any

import msgspec

from qaedge.errors import MeasurementError

#: Below this many samples a quantile is not estimable (twice beyond the quantile's own share).
SAMPLES_FOR_P90, SAMPLES_FOR_P99 = 64, 662


class Measurement(msgspec.Struct, frozen=True):
    """What ran, where, how, and every raw value [s]; summaries are computed, never stored.

    `rounds` holds the samples of each round in the order taken; a sample is the time of one
    inference (a sample that timed `repeats` back-to-back runs is divided by them). `settings` are
    the numbers of the protocol (R2 to R7), `fingerprint` what must agree before two measurements
    compare (R15), `conditions` what was read before and after. `doubts` are reasons to distrust
    the row: "unstable", "throttled". Empty or non-positive values raise MeasurementError.
    """

    sha256: str
    device: str
    runtime: str
    runtime_version: str
    threads: int
    rounds: tuple[tuple[float, ...], ...]
    repeats: int
    warmup_s: tuple[float, ...]
    load_s: float
    first_run_s: float
    overhead_s: float
    peak_memory_bytes: int | None
    started_at: str
    settings: dict[str, Any]
    fingerprint: dict[str, Any]
    conditions: dict[str, Any]
    doubts: tuple[str, ...] = ()
    retries: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot be times."""
        samples = self.samples_s
        if not samples:
            raise MeasurementError(f"A measurement of {self.sha256[:12]} on {self.device} has no samples.")
        bad = [s for s in (*samples, self.load_s, self.first_run_s) if not (math.isfinite(s) and s > 0)]
        if bad:
            raise MeasurementError(f"A measurement of {self.sha256[:12]} on {self.device} holds the value {bad[0]!r}.")

    @property
    def samples_s(self) -> tuple[float, ...]:
        """All samples, in the order taken [s per inference]."""
        return tuple(s for samples in self.rounds for s in samples)

    @property
    def median_s(self) -> float:
        """The median of all samples [s]."""
        return statistics.median(self.samples_s)

    @property
    def min_s(self) -> float:
        """The least sample [s]."""
        return min(self.samples_s)

    @property
    def p25_s(self) -> float:
        """The lower quartile of all samples [s]."""
        return self.quantile(0.25)

    @property
    def p90_s(self) -> float | None:
        """The 90th percentile [s], or None where there are too few samples to tell."""
        return self.quantile(0.9) if len(self.samples_s) >= SAMPLES_FOR_P90 else None

    @property
    def p99_s(self) -> float | None:
        """The 99th percentile [s], or None where there are too few samples to tell."""
        return self.quantile(0.99) if len(self.samples_s) >= SAMPLES_FOR_P99 else None

    @property
    def round_medians_s(self) -> tuple[float, ...]:
        """The median of each round [s]."""
        return tuple(statistics.median(samples) for samples in self.rounds)

    @property
    def error_s(self) -> float:
        """Standard error of the median over rounds [s]: spread of round medians by the root of their number."""
        medians = self.round_medians_s
        if len(medians) < 2:
            return self.median_s * 0.02
        # 1.2533: a median's standard error over a mean's, for normal noise.
        return 1.2533 * statistics.stdev(medians) / math.sqrt(len(medians))

    @property
    def outliers(self) -> int:
        """How many samples lie beyond 14.8 median absolute deviations (R8); none is deleted."""
        center = self.median_s
        deviation = statistics.median(abs(s - center) for s in self.samples_s)
        return sum(abs(s - center) > 14.8 * deviation for s in self.samples_s) if deviation else 0

    def quantile(self, share: float) -> float:
        """The `share` quantile of all samples [s], by linear interpolation."""
        ordered = sorted(self.samples_s)
        position = share * (len(ordered) - 1)
        low = int(position)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (position - low) * (ordered[high] - ordered[low])
