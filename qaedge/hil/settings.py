"""Settings: every number of the measuring protocol (R2 to R8, R14, R16 of docs/measuring.md); each row stores them."""

from __future__ import annotations

import math
import os

import msgspec

from qaedge.device import Device
from qaedge.errors import UsageError

#: The environment may say how long is waited for a quiet moment: a machine of CI is always busy, and time is short.
QUIET_S = "QAEDGE_QUIET_S"


def _quiet_s() -> float:
    """Return 5 s, or what QAEDGE_QUIET_S says; raise UsageError where that is no time."""
    text = os.environ.get(QUIET_S, "5")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise UsageError(f"{QUIET_S} is {text!r}.", "It is a number of seconds, such as 5 or 0.")
    return seconds


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How candidates are measured.

    Attributes:
        sample_s: a sample is as many back-to-back runs as last this long (R2) [s].
        warmup_runs, warmup_s, warmup_limit_s: the least of the warm-up, and its end [s] (R4).
        warmup_window, warmup_within: steady is when the medians of the last and the previous so
            many samples agree within this share.
        rewarm_runs, rewarm_s: the short warm-up before each later round.
        round_samples, round_s: the least of a round (R5).
        canary_s: how long the loop beside each sample takes that tells a disturbed moment (R17) [s].
        canary_within: a moment is disturbed where that loop takes longer than at its quickest by more than this share.
        quiet_share: how much time may go, for each second of undisturbed samples, to waiting for such moments and to
            samples that are set aside; 0: nothing is looked at, and all count.
        quiet_s: how much of that time there is at first, and at most [s]; never more than a quarter of `deadline_s`;
            without it what QAEDGE_QUIET_S says, or 5 s.
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
        reference: whether the reference model is measured between rounds (R14).
        reference_samples, reference_s: the least of one of its readings; the reading is their median [s].
        reference_every_s: in a round that takes longer, it is read again between two candidates
            after so long [s]; and after `chunk` candidates, where a round has more.
        drift_accept, drift_limit: up to the one, samples stay as they are; up to the other, they
            are scaled; beyond, the round does not count.
        drift_pause_s: how long is waited at least before a round is taken again [s].
        retakes: how many rounds of a chunk are taken again, at most.
        temperature_start_c, temperature_pause_c: measuring starts at or below the one, and pauses
            at the other [degrees Celsius]; 0: as the device's description says.
        cool_limit_s: how long a chunk may wait for that in all [s].
        energy: whether energy per inference is measured, too (R16).
        energy_s, energy_idle_s: how long a candidate loops, and rest is looked at [s].
        energy_interval_s: how often the board's own sensor is read [s].
        meter: the command of an external meter on the host; empty: the board's own sensor.
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
    canary_s: float = 2e-5
    canary_within: float = 0.2
    quiet_share: float = 4.0
    quiet_s: float = msgspec.field(default_factory=_quiet_s)
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
    reference: bool = True
    reference_samples: int = 15
    reference_s: float = 0.02
    reference_every_s: float = 60.0
    drift_accept: float = 0.02
    drift_limit: float = 0.05
    drift_pause_s: float = 0.5
    retakes: int = 3
    temperature_start_c: float = 0.0
    temperature_pause_c: float = 0.0
    cool_limit_s: float = 300.0
    energy: bool = False
    energy_s: float = 10.0
    energy_idle_s: float = 5.0
    energy_interval_s: float = 0.1
    meter: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse numbers that measure nothing."""
        may_be_zero = {"retries", "memory_limit_bytes", "overhead_s", "rewarm_s", "rewarm_runs", "warmup_s"}
        may_be_zero |= {"temperature_start_c", "temperature_pause_c", "cool_limit_s", "drift_pause_s", "retakes"}
        may_be_zero |= {"drift_accept", "quiet_share", "quiet_s"}
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if isinstance(value, bool | dict | tuple):
                continue
            if value < 0 or (value == 0 and field not in may_be_zero):
                raise UsageError(f"The setting {field} is {value!r}.", "It must be above 0.")
        if self.rounds_min > self.rounds_max:
            raise UsageError(f"rounds_min is {self.rounds_min} and rounds_max is {self.rounds_max}.")
        if self.drift_accept > self.drift_limit:
            raise UsageError(f"drift_accept is {self.drift_accept} and drift_limit is {self.drift_limit}.")
        if self.drift_limit > 0.4:
            raise UsageError(f"drift_limit is {self.drift_limit}.", "More than 0.4 cannot be mended by scaling.")
        if self.temperature_start_c > self.temperature_pause_c:
            raise UsageError(
                f"temperature_start_c is {self.temperature_start_c:g} and temperature_pause_c "
                f"is {self.temperature_pause_c:g}.",
                "Measuring would pause before it starts.",
            )

    def on(self, device: Device) -> Settings:
        """Return these settings with the device's own temperatures, where none are set."""
        if self.temperature_start_c or self.temperature_pause_c:
            return self
        return msgspec.structs.replace(
            self, temperature_start_c=device.temperature_start_c, temperature_pause_c=device.temperature_pause_c
        )
