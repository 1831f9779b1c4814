"""Settings: every number of the measuring protocol (R2 to R8 of docs/measuring.md); each row stores them."""

from __future__ import annotations

import msgspec

from qaedge.errors import UsageError


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How candidates are measured.

    Attributes:
        sample_s: a sample is as many back-to-back runs as last this long (R2) [s].
        warmup_runs, warmup_s, warmup_limit_s: the least of the warm-up, and its end [s] (R4).
        warmup_window, warmup_within: steady is when the medians of the last and the previous so
            many samples agree within this share.
        rewarm_runs, rewarm_s: the short warm-up before each later round.
        round_samples, round_s: the least of a round (R5).
        rounds_min, rounds_max: how many rounds (R6).
        rounds_within, confidence_within: when to stop: round medians within this share of each
            other, and the 95 % confidence interval of the median within this share of it (R7).
        outlier_mads, outlier_share: how far out a sample is an outlier, and the share of them
            from which the row is doubted (R8).
        waited_share: the share of time without a core from which the row is doubted.
        chunk: how many candidates take turns (R6).
        interleaved_rounds: the rounds of each file when they are compared; no early stop.
        overhead_s: how long the empty model is measured, per shape and type (R12) [s].
        deadline_s: how long a candidate may take to load or for one round [s].
        retries: how often a candidate that fails is tried again.
        memory_limit_bytes: what a candidate's process may use; 0 is all of the board's memory.
        sizes: dynamic dimension -> its size.
    """

    sample_s: float = 1e-3
    warmup_runs: int = 3
    warmup_s: float = 0.1
    warmup_limit_s: float = 2.0
    warmup_window: int = 5
    warmup_within: float = 0.02
    rewarm_runs: int = 2
    rewarm_s: float = 0.005
    round_samples: int = 10
    round_s: float = 0.05
    rounds_min: int = 3
    rounds_max: int = 9
    rounds_within: float = 0.02
    confidence_within: float = 0.01
    outlier_mads: float = 14.8
    outlier_share: float = 0.05
    waited_share: float = 0.05
    chunk: int = 16
    interleaved_rounds: int = 10
    overhead_s: float = 0.02
    deadline_s: float = 60.0
    retries: int = 1
    memory_limit_bytes: int = 0
    sizes: dict[str, int] = {}

    def __post_init__(self) -> None:
        """Refuse numbers that measure nothing."""
        may_be_zero = {"retries", "memory_limit_bytes", "overhead_s", "rewarm_s", "rewarm_runs", "warmup_s"}
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if field != "sizes" and (value < 0 or (value == 0 and field not in may_be_zero)):
                raise UsageError(f"The setting {field} is {value!r}.", "It must be above 0.")
        if self.rounds_min > self.rounds_max:
            raise UsageError(f"rounds_min is {self.rounds_min} and rounds_max is {self.rounds_max}.")
