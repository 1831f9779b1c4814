"""Noise: how far a device is from itself, and how often a file was called slower than itself there (A/A).

`qaedge device noise` measures it. It lies beside the user's own descriptions of devices, as NAME.noise.json, fit
for git: whoever finds the description finds its noise.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from qaedge.device import folders
from qaedge.errors import InvalidFile
from qaedge.files import decode_json, write_json
from qaedge.fingerprint import differences
from qaedge.store import Store

FORMAT, VERSION = "qaedge noise", 1
#: The format of trials of a run that has not ended.
TRIALS = "qaedge noise run"
#: The share of A/A ratios that the floor is above.
SHARE = 0.95


class _Header(msgspec.Struct):
    format: str = ""
    version: int = 0


class Noise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What comparing a file with itself, again and again, told of a device.

    Attributes:
        device, fingerprint: of what, and in which state.
        file: what was held against itself.
        measured_at: when.
        comparisons: how many times, each with a session of its own.
        ratios: contender over baseline of each, both measured in turn.
        across: one session over the one before: what a saved baseline is held against.
        false_slower, false_faster, undecided: how many verdicts were not what they should be.
        spread: the median over comparisons of the coefficient of variation of round medians.
    """

    device: str
    fingerprint: dict[str, Any]
    file: str
    measured_at: str
    comparisons: int
    ratios: tuple[float, ...]
    across: tuple[float, ...]
    false_slower: int
    false_faster: int
    undecided: int
    spread: float
    format: str = FORMAT
    version: int = VERSION

    @property
    def floor(self) -> float:
        """95th percentile of |A/A ratio - 1|, both sides measured in turn."""
        return percentile([abs(ratio - 1) for ratio in self.ratios])

    @property
    def floor_across(self) -> float:
        """The same of two sessions, one after the other; at least what it is within one."""
        return max(self.floor, percentile([abs(ratio - 1) for ratio in self.across]))

    @property
    def false_alarm_bound(self) -> float:
        """What the rate of false SLOWER is below, with 95 % confidence (Clopper and Pearson)."""
        return rate_bound(self.false_slower, self.comparisons)


class Trial(msgspec.Struct, frozen=True):
    """One comparison of a file with itself.

    Attributes:
        ratio: contender over baseline.
        verdict: what it came to, as `Verdict` has it.
        median_s: of the baseline [s].
        spread: the coefficient of variation of its round medians.
        fingerprint: of the device then.
    """

    ratio: float
    verdict: str
    median_s: float
    spread: float
    fingerprint: dict[str, Any]

    def __post_init__(self) -> None:
        """Refuse what is no ratio or no time; msgspec turns that into an error with the line."""
        if not (0 < self.ratio < math.inf and 0 < self.median_s < math.inf):
            raise ValueError(f"a ratio of {self.ratio} at a median of {self.median_s} s")


class KeptTrial(msgspec.Struct, frozen=True):
    """A trial of a run that has not ended; `digest` is of the device's description, the file and the threads."""

    digest: str
    trial: Trial


def trial_store(device: str) -> Store[KeptTrial]:
    """Return the file of a run that has not ended; it lies beside the noise that it is to become."""
    return Store(noise_file(device).with_suffix(".jsonl"), KeptTrial, TRIALS)


def of_the_last_state(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials at the end that share the last one's fingerprint, less the boot id."""
    found: list[Trial] = []
    for trial in reversed(trials):
        fields = {*trial.fingerprint, *trials[-1].fingerprint} - {"boot_id"}
        if differences(trial.fingerprint, trials[-1].fingerprint, fields):
            break
        found.insert(0, trial)
    return found


def noise_of(device: str, file: str, trials: Sequence[Trial], measured_at: str) -> Noise:
    """Summarize trials of one device, in the order in which they were made."""
    verdicts = [trial.verdict for trial in trials]
    return Noise(
        device=device,
        fingerprint=trials[-1].fingerprint,
        file=file,
        measured_at=measured_at,
        comparisons=len(trials),
        ratios=tuple(trial.ratio for trial in trials),
        across=tuple(after.median_s / before.median_s for before, after in itertools.pairwise(trials)),
        false_slower=verdicts.count("slower"),
        false_faster=verdicts.count("faster"),
        undecided=verdicts.count("unknown"),
        spread=statistics.median(trial.spread for trial in trials),
    )


def rate_bound(events: int, tries: int) -> float:
    """Return the upper end of the one-sided 95 % interval of a rate (Clopper and Pearson)."""
    if events >= tries:
        return 1.0
    if not events:
        return float(1 - 0.05 ** (1 / tries))
    from scipy.stats import beta  # costs half a second, and is needed where something went wrong

    return float(beta.ppf(0.95, events + 1, tries - events))


def percentile(values: Sequence[float], share: float = SHARE) -> float:
    """Return the least value that this share of all are not above; 0 where there is none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def noise_file(device: str) -> Path:
    """Return where a device's noise is written."""
    return folders()[0] / f"{device}.noise.json"


def save_noise(noise: Noise) -> Path:
    """Write what was measured, beside the user's own descriptions; return where."""
    path = noise_file(noise.device)
    write_json(path, noise)
    return path


def load_noise(device: str) -> Noise | None:
    """Return what was measured of a device's noise, or None; raise InvalidFile for a file that tells nothing."""
    path = noise_file(device)
    if not path.exists():
        return None
    hint = f"Measure it again: qaedge device noise {device}"
    header = decode_json(path, _Header, hint)
    if (header.format, header.version) != (FORMAT, VERSION):
        raise InvalidFile(path, "version", f"{FORMAT!r}, {VERSION}", f"{header.format!r}, {header.version}", hint)
    found = decode_json(path, Noise, hint)
    if found.comparisons < 1 or not found.ratios:
        raise InvalidFile(path, "comparisons", "at least one", str(found.comparisons), hint)
    if found.device != device:
        raise InvalidFile(path, "device", repr(device), repr(found.device), hint)
    if bad := [ratio for ratio in (*found.ratios, *found.across) if not 0.01 < ratio < 100]:
        raise InvalidFile(path, "ratios", "ratios of two times of the same file", str(bad[0]), hint)
    if not 0 <= found.false_slower <= found.comparisons:
        raise InvalidFile(path, "false_slower", f"0 to {found.comparisons}", str(found.false_slower), hint)
    return found
