"""A measurement: raw samples, the conditions they were taken under, and reasons to distrust them."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

import msgspec

from qaedge.errors import MeasurementError

#: Below this many samples a quantile is not estimable (twice beyond the quantile's own share).
SAMPLES_FOR_P90, SAMPLES_FOR_P99 = 64, 662
#: Every reason to distrust a row that this version knows; docs/measuring.md has a heading for each.
DOUBTS = frozenset(
    {
        "boards differ",
        "changed",
        "disturbed",
        "drifted",
        "hot",
        "no energy",
        "outliers",
        "retried",
        "throttled",
        "under-voltage",
        "unreferenced",
        "unstable",
        "waited",
    }
)
#: The condition that counts how often the file was loaded, where that is more than once.
LOADS = "loads"
#: The condition that holds what each load of a whole network took [s], where that is known apart.
REPEATED = "repeated_s"
#: Doubts that say that the time is not the network's: such a row is there, and marked, until a rerun replaces it (R14).
SPOILED = frozenset({"throttled", "under-voltage"})


class Measurement(msgspec.Struct, frozen=True):
    """What ran, where, how, and every raw value [s]; summaries are computed, never stored.

    `rounds` holds the samples of each round in the order taken; a sample is the time of one
    inference (a sample that timed `repeats` back-to-back runs is divided by them). `settings` are
    the numbers of the protocol (R2 to R7), `fingerprint` what must agree before two measurements
    compare (R15), `conditions` what was read before and after. `scales` are what the samples of each
    round are multiplied by for summaries (R14; none: all by 1), `reference_s` is what the reference
    model took on this board when it was in its usual state. `tainted_rounds` are rounds that count
    for nothing, kept as evidence, as are samples of disturbed moments, set `aside_s` (R17). `instructions`
    and `cycles` are per inference, in user space. `energy_j` is per inference, without what the board takes
    at rest (R16), from `energy_samples` readings of power; None where it was not asked for, or cannot be
    told. `doubts` are reasons to distrust
    the row, each one of DOUBTS. Empty or non-positive values raise MeasurementError.
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
    scales: tuple[float, ...] = ()
    reference_s: float | None = None
    tainted_rounds: tuple[tuple[float, ...], ...] = ()
    aside_s: tuple[float, ...] = ()
    instructions: float | None = None
    cycles: float | None = None
    energy_j: float | None = None
    energy_samples: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that cannot be times."""
        if self.scales and len(self.scales) != len(self.rounds):
            raise MeasurementError(
                f"A measurement of {self.sha256[:12]} on {self.device} has {len(self.rounds)} rounds and "
                f"{len(self.scales)} scales."
            )
        samples = self.samples_s
        if not samples:
            raise MeasurementError(f"A measurement of {self.sha256[:12]} on {self.device} has no samples.")
        values = (*samples, self.load_s, self.first_run_s)
        if not all(map(math.isfinite, values)) or min(values) <= 0:
            bad = [s for s in values if not (math.isfinite(s) and s > 0)]
            raise MeasurementError(f"A measurement of {self.sha256[:12]} on {self.device} holds the value {bad[0]!r}.")
        for value in self.conditions.get(REPEATED, ()):
            if not isinstance(value, float | int) or not (math.isfinite(value) and value > 0):
                raise MeasurementError(
                    f"A measurement of {self.sha256[:12]} on {self.device}: {REPEATED} holds {value!r}."
                )
        for name in ("reference_s", "instructions", "cycles", "energy_j"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise MeasurementError(f"A measurement of {self.sha256[:12]} on {self.device}: {name} is {value!r}.")

    @property
    def is_spoiled(self) -> bool:
        """Whether the device's clocks were cut in rounds that had to count."""
        return not SPOILED.isdisjoint(self.doubts)

    @property
    def samples_s(self) -> tuple[float, ...]:
        """All samples, in the order taken, each scaled as its round is [s per inference]."""
        return tuple(itertools.chain.from_iterable(self._scaled))

    @property
    def loads(self) -> int:
        """How many times the file was loaded for these samples."""
        return int(self.conditions.get(LOADS, 1))

    @property
    def load_medians_s(self) -> tuple[float, ...]:
        """The median of each load [s]; of all samples where loads were not told apart."""
        return tuple(float(value) for value in self.conditions.get(REPEATED, ())) or (self.median_s,)

    def with_load(self, other: Measurement) -> Measurement:
        """Return these samples and those of another load of the same file, of another time, as one measurement.

        What is told of loading is that of the first load; the state of the device that of the last.
        """
        scales = (*(self.scales or (1.0,) * len(self.rounds)), *(other.scales or (1.0,) * len(other.rounds)))
        peaks = [m.peak_memory_bytes for m in (self, other) if m.peak_memory_bytes is not None]
        return msgspec.structs.replace(
            self,
            rounds=self.rounds + other.rounds,
            scales=scales if any(scale != 1.0 for scale in scales) else (),
            tainted_rounds=self.tainted_rounds + other.tainted_rounds,
            aside_s=self.aside_s + other.aside_s,
            warmup_s=self.warmup_s + other.warmup_s,
            peak_memory_bytes=max(peaks, default=None),
            fingerprint=other.fingerprint,
            conditions={**self.conditions, "after": other.conditions.get("after", {}), LOADS: self.loads + other.loads},
            doubts=tuple(dict.fromkeys(self.doubts + other.doubts)),
            retries=self.retries + other.retries,
        )

    @property
    def _scaled(self) -> tuple[tuple[float, ...], ...]:
        if not self.scales:
            return self.rounds
        return tuple(tuple(s * k for s in samples) for samples, k in zip(self.rounds, self.scales, strict=True))

    @property
    def median_s(self) -> float:
        """The median of all samples [s]."""
        return statistics.median(self.samples_s)

    @property
    def inside_s(self) -> float:
        """The median without the call that it was measured by (R12) [s]: what this takes as a part of a network."""
        return max(0.0, self.median_s - self.overhead_s)

    def statistic_s(self, name: str) -> float:
        """The "median", "p25" or "min" of all samples [s] (R9)."""
        if name == "median":
            return self.median_s
        return self.quantile(0.25) if name == "p25" else min(self.samples_s)

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
        return tuple(statistics.median(samples) for samples in self._scaled)

    @property
    def error_s(self) -> float:
        """Standard error of the median over rounds [s]: spread of round medians by the root of their number."""
        medians = self.round_medians_s
        if len(medians) < 2:
            return self.median_s * 0.02
        # 1.2533: a median's standard error over a mean's, for normal noise.
        # By hand: statistics.stdev takes fractions, and a search asks for thousands of these.
        mean = math.fsum(medians) / len(medians)
        spread = math.sqrt(math.fsum((m - mean) ** 2 for m in medians) / (len(medians) - 1))
        return 1.2533 * spread / math.sqrt(len(medians))

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
