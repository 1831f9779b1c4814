"""A comparison: is the contender slower than the baseline, faster, the same, or not known yet?

SLOWER needs three things at once: Mann-Whitney p < 0.002, never with fewer than 7 rounds a side; a
ratio of medians above 1 + max(3 %, three times the device's noise floor, the threshold asked for);
and a 95 % bootstrap interval of the ratio that excludes 1. FASTER is the same with the sides
exchanged. SAME needs the whole interval to lie within the threshold. All else is UNKNOWN, and more
rounds may decide it. (The U test and a factor: as asv does; the rest is stricter than asv.)
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from qaedge.errors import NotComparable, UsageError
from qaedge.fingerprint import Difference, differences
from qaedge.units import parse_percent

P_VALUE = 0.002
FEWEST_ROUNDS = 7  # with 6 a side, the least possible p is 0.00216
FIRST_ROUNDS, MOST_ROUNDS = 10, 160
LEAST_THRESHOLD = 0.03
NOISE_FACTOR = 3.0
MOST_THRESHOLD = 10.0  # eleven times as slow: beyond it, a share is a typing error
COLD_THRESHOLD = 0.25  # of peak memory, where each side was loaded once
LOADS_THRESHOLD = 0.05  # of first run and peak memory, where each side was loaded at least seven times
RESAMPLES = 2000
DISCOVERY_RATE = 0.05  # q of Benjamini and Hochberg, where many are compared


class Verdict(enum.Enum):
    """What a comparison says."""

    SAME = "same"
    SLOWER = "slower"
    FASTER = "faster"
    UNKNOWN = "unknown"


class Side(msgspec.Struct, frozen=True):
    """One of the two files compared.

    Attributes:
        name: what the file is called.
        values_s: one value per round [s], in the order of the rounds.
        size_bytes: compared, too, where it is known.
        peak_memory_bytes, first_run_s: so are these, one value for each time that the file was loaded; none: not known.
        fingerprint: what must agree on both sides: device, runtime, its version, threads, and whatever
            the agent read of the machine.
    """

    name: str
    values_s: tuple[float, ...]
    size_bytes: int | None = None
    peak_memory_bytes: tuple[int, ...] = ()
    first_run_s: tuple[float, ...] = ()
    fingerprint: dict[str, Any] = {}

    def __post_init__(self) -> None:
        """Refuse values that cannot be times."""
        for value in self.values_s:
            if not (math.isfinite(value) and value > 0):
                raise NotComparable(f"{self.name} holds the value {value!r}, which is not a time.")


class Comparison(msgspec.Struct, frozen=True):
    """A verdict, and all the figures it rests on.

    `ratio` is the contender's median over the baseline's; `low` to `high` is its 95 % interval;
    `threshold` is what the ratio was held against (0.03: 3 %). `size_ratio`, `memory_ratio` and
    `first_run_ratio` are None where a side does not know; `grown` names those of them that lie
    beyond the threshold, see `_grown`. They do not change the verdict on latency.
    `samples` are those behind the contender's rounds; of `aa_comparisons` of a file with itself on that
    device, `false_slower` were called slower. `reason` says why a verdict was held back; `held_for` names the doubts
    about the samples for which a SLOWER or FASTER was.
    `runtime_change` is not empty where the two sides had two versions of a runtime: what changed is
    then that, and not the file alone. `noise_doubt` says in what the device differed when its noise was measured.
    """

    baseline: str
    contender: str
    verdict: Verdict
    ratio: float
    low: float
    high: float
    p_value: float
    baseline_s: float
    contender_s: float
    rounds: int
    threshold: float
    noise_floor: float
    size_ratio: float | None = None
    memory_ratio: float | None = None
    first_run_ratio: float | None = None
    grown: tuple[str, ...] = ()
    samples: int = 0
    false_slower: int | None = None
    aa_comparisons: int | None = None
    reason: str = ""
    held_for: tuple[str, ...] = ()
    runtime_change: str = ""
    noise_doubt: str = ""


def compare(
    baseline: Side,
    contender: Side,
    *,
    threshold: float = 0.0,
    noise_floor: float = 0.0,
    least_threshold: float = LEAST_THRESHOLD,
    paired: bool = True,
    seed: int = 0,
) -> Comparison:
    """Judge a contender against a baseline.

    Args:
        baseline: what is there.
        contender: what would replace it.
        threshold: the least change that matters to the user (0.05: 5 %).
        noise_floor: 95th percentile of |A/A ratio - 1| on that device.
        least_threshold: below this nothing is called a change; lower it only where counts are exact.
        paired: the sides were measured in the same rounds, so that a round's noise is common to both.
        seed: of the bootstrap.

    Raises:
        NotComparable: fingerprints differ (the message names the field and both values), or paired
            sides have different numbers of rounds, or one has none.
        UsageError: a negative threshold or noise floor.
    """
    for what, value in (("threshold", threshold), ("noise floor", noise_floor), ("least threshold", least_threshold)):
        if not (math.isfinite(value) and value >= 0):
            raise UsageError(f"The {what} is {value!r}.", "Give a share from 0, such as 0.05 for 5 %.")
    _check(baseline, contender, paired)
    left, right = np.array(baseline.values_s), np.array(contender.values_s)
    allowed = max(least_threshold, NOISE_FACTOR * noise_floor, threshold)
    ratio = float(np.median(right) / np.median(left))
    low, high = _interval(left, right, paired, np.random.default_rng(seed))
    p_value = _p_value(left, right)
    rounds = min(len(left), len(right))
    certain = rounds >= FEWEST_ROUNDS and p_value < P_VALUE
    if certain and ratio > 1 + allowed and low > 1:
        verdict = Verdict.SLOWER
    elif certain and 1 / ratio > 1 + allowed and high < 1:
        verdict = Verdict.FASTER
    elif rounds >= FEWEST_ROUNDS and low >= 1 / (1 + allowed) and high <= 1 + allowed:
        verdict = Verdict.SAME
    else:
        verdict = Verdict.UNKNOWN
    return Comparison(
        baseline=baseline.name,
        contender=contender.name,
        verdict=verdict,
        ratio=ratio,
        low=low,
        high=high,
        p_value=p_value,
        baseline_s=float(np.median(left)),
        contender_s=float(np.median(right)),
        rounds=rounds,
        threshold=allowed,
        noise_floor=noise_floor,
        size_ratio=_ratio([baseline.size_bytes or 0], [contender.size_bytes or 0]),
        memory_ratio=_ratio(baseline.peak_memory_bytes, contender.peak_memory_bytes),
        first_run_ratio=_ratio(baseline.first_run_s, contender.first_run_s),
        grown=_grown(baseline, contender, allowed),
    )


def parse_threshold(text: str) -> float:
    """Return 0.05 for "5%"; raise UsageError for what is no share, 0 or less, or above 1000 %."""
    share = parse_percent(text)
    hint = f"Write it like 5%: more than 0%, at most {100 * MOST_THRESHOLD:g}%."
    if share is None:
        raise UsageError(f"The threshold {text!r} is not a share.", hint)
    if not 0 < share <= MOST_THRESHOLD:
        raise UsageError(f"The threshold {text!r} tells nothing apart.", hint)
    return share


def needs_more(comparison: Comparison, most: int = MOST_ROUNDS) -> int:
    """Return how many more rounds a side to measure before judging again; 0 when that is decided or at the limit.

    The number of rounds doubles each time; fewer than the first 10 are filled up to 10.
    """
    if comparison.verdict is not Verdict.UNKNOWN or comparison.rounds >= most:
        return 0
    wanted = max(FIRST_ROUNDS, 2 * comparison.rounds) if comparison.rounds >= FEWEST_ROUNDS else FIRST_ROUNDS
    return min(wanted, most) - comparison.rounds


def held_back(comparison: Comparison, reason: str) -> Comparison:
    """Return a comparison that decides nothing, and says why."""
    return msgspec.structs.replace(comparison, verdict=Verdict.UNKNOWN, reason=reason)


def discoveries(p_values: Sequence[float], rate: float = DISCOVERY_RATE) -> tuple[bool, ...]:
    """Say which of many findings stand when at most this share of those that do may be chance.

    Benjamini and Hochberg, "Controlling the false discovery rate", J. R. Statist. Soc. B 57, 1995.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    passed = [rank for rank, place in enumerate(order, 1) if p_values[place] <= rate * rank / len(order)]
    stands = set(order[: max(passed, default=0)])
    return tuple(place in stands for place in range(len(p_values)))


def together(comparisons: Sequence[Comparison], rate: float = DISCOVERY_RATE) -> tuple[Comparison, ...]:
    """Judge many comparisons together: a change that is one of few among many may be chance, and is held back."""
    stands = discoveries([found.p_value for found in comparisons], rate)
    reason = f"not significant among {len(comparisons)} comparisons"
    changed = (Verdict.SLOWER, Verdict.FASTER)
    return tuple(
        held_back(found, reason) if found.verdict in changed and not stood else found
        for found, stood in zip(comparisons, stands, strict=True)
    )


def _check(baseline: Side, contender: Side, paired: bool) -> None:
    fields = {*baseline.fingerprint, *contender.fingerprint}
    if not paired:
        fields.discard("boot_id")  # within a run a reboot spoils the pairs; a saved baseline outlives many
    for found in differences(contender.fingerprint, baseline.fingerprint, fields):
        word = Difference.word
        raise NotComparable(
            f"{baseline.name} and {contender.name} were not measured under the same conditions: "
            f"{found.field} is {word(found.wanted)} for the baseline and {word(found.found)} for the contender.",
            "Measure both again, in one run.",
        )
    counts = len(baseline.values_s), len(contender.values_s)
    if min(counts) == 0 or (paired and counts[0] != counts[1]):
        raise NotComparable(
            f"{baseline.name} has {counts[0]} rounds and {contender.name} has {counts[1]}; "
            "they are compared round by round.",
            "Measure both in the same rounds.",
        )


def _ratio(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Return the ratio of medians; None where a side has none, or 0."""
    known = bool(left and right) and all(left) and all(right)
    return float(np.median(right) / np.median(left)) if known else None


def _grown(baseline: Side, contender: Side, allowed: float) -> tuple[str, ...]:
    """Name what is larger beside latency.

    Size by the threshold. Peak memory and first run, where both were loaded seven times, by 5 % or the threshold, and
    where of all pairs of loads at most one is the other way round: by chance that is once in 1,700 (the U test, exact).
    A single load tells peak memory by 25 %, and of the first run nothing: what else the system does then is most of it.
    """
    found = []
    size = _ratio([baseline.size_bytes or 0], [contender.size_bytes or 0])
    if size is not None and size > 1 + allowed:
        found.append("size")
    for what, left, right in (
        ("peak memory", baseline.peak_memory_bytes, contender.peak_memory_bytes),
        ("first run", baseline.first_run_s, contender.first_run_s),
    ):
        ratio = _ratio(left, right)
        often = min(len(left), len(right)) >= FEWEST_ROUNDS
        least = max(allowed, LOADS_THRESHOLD if often else COLD_THRESHOLD)
        if ratio is None or ratio <= 1 + least or (what == "first run" and not often):
            continue
        if not often or sum(new <= old for new in right for old in left) <= 1:
            found.append(what)
    return tuple(found)


def _interval(
    left: npt.NDArray[np.float64], right: npt.NDArray[np.float64], paired: bool, generator: np.random.Generator
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the ratio of medians."""
    one = generator.integers(len(left), size=(RESAMPLES, len(left)))
    two = one if paired else generator.integers(len(right), size=(RESAMPLES, len(right)))
    ratios = np.median(right[two], axis=1) / np.median(left[one], axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def _p_value(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    """Return the two-sided p of the Mann-Whitney U test; 1 where all values are one and the same."""
    if (left[0] == left).all() and (left[0] == right).all():
        return 1.0  # the normal approximation would divide by a variance of 0
    from scipy.stats import mannwhitneyu  # costs half a second, which other commands should not pay

    return float(mannwhitneyu(left, right, alternative="two-sided").pvalue)
