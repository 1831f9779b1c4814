"""Samples, warm-up and rounds: rules R2, R4, R5 and R7 of docs/measuring.md, on integers of nanoseconds.

Each takes the clock as an argument, so that the rules are tested on known times.
"""

import itertools
import math
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

Run = Callable[[], Any]
Clock = Callable[[], int]
Settings = Dict[str, Any]
#: So many undisturbed samples stand for a round.
ENOUGH = 5


def ns(seconds: float) -> int:
    """Return seconds as nanoseconds."""
    return round(seconds * 1e9)


def median(values: List[float]) -> float:
    """Return the median; `statistics` is slow to import on a small board."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2.0


def sample(run: Run, repeats: int, clock: Clock) -> int:
    """Return the time of `repeats` back-to-back runs [ns]; at least 1, whatever the clock's step.

    A run that has a `timed` of its own is asked instead: a GPU works on while the processor's clock
    is read, and knows best.
    """
    timed = getattr(run, "timed", None)
    if timed is not None:
        return max(1, int(timed(repeats)))
    turns = itertools.repeat(None, repeats)
    start = clock()
    for _ in turns:
        run()
    return max(1, clock() - start)


def repeats_for(run_ns: float, sample_ns: int) -> int:
    """Return how many runs make a sample last `sample_ns` (R2)."""
    return max(1, math.ceil(sample_ns / max(1.0, run_ns)))


def warm_up(run: Run, settings: Settings, clock: Clock) -> Tuple[List[float], int, bool, int]:
    """Run until times are steady (R4).

    Returns the time per run of each sample [ns], the runs per sample from here on (R2), whether it
    became steady before the limit, and the whole time spent [ns].
    """
    window, within = int(settings["warmup_window"]), float(settings["warmup_within"])
    least, limit, target = ns(settings["warmup_s"]), ns(settings["warmup_limit_s"]), ns(settings["sample_s"])
    times: List[float] = []
    spent = runs = 0
    repeats = 1
    steady = False
    while True:
        taken = sample(run, repeats, clock)
        times.append(taken / repeats)
        spent += taken
        runs += repeats
        if runs >= settings["warmup_runs"]:
            repeats = repeats_for(median(times[-window:]), target)
        if len(times) >= 2 * window:
            now, before = median(times[-window:]), median(times[-2 * window : -window])
            steady = abs(now - before) <= within * before
        if runs >= settings["warmup_runs"] and ((spent >= least and steady) or spent >= limit):
            return times, repeats, steady, spent


def warm_again(run: Run, settings: Settings, repeats: int, clock: Clock) -> Tuple[List[float], int]:
    """Run a little after others have run: caches are cold, clocks are not. Returns as `warm_up`."""
    least = ns(settings["rewarm_s"])
    times: List[float] = []
    spent = runs = 0
    while runs < settings["rewarm_runs"] or spent < least:
        taken = sample(run, repeats, clock)
        times.append(taken / repeats)
        spent += taken
        runs += repeats
    return times, spent


class Round(NamedTuple):
    """What was sampled in one round.

    samples: what counts, each the time of `repeats` runs [ns], in the order taken.
    aside: samples in a disturbed moment, where enough others were taken (R17) [ns].
    disturbed: whether not enough others could be taken, so that all count.
    spent_ns: how long it took, with what was waited for a quiet moment.
    """

    samples: List[int]
    aside: List[int]
    disturbed: bool
    spent_ns: int


def take_round(
    run: Run, settings: Settings, repeats: int, clock: Clock, canary: Any = None, counters: Any = None
) -> Round:
    """Return the samples of one round (R5); with a canary, of undisturbed moments where there are enough (R17).

    For these a round lasts longer, by what the canary can spare: waiting, and samples that are set aside. `counters`
    run during samples alone.
    """
    least, target = ns(settings["round_s"]), int(settings["round_samples"])
    taken: List[Tuple[int, bool]] = []
    quiet = quiet_ns = all_ns = 0
    start = clock()
    if canary is not None:
        canary.begin()
    while quiet < target or quiet_ns < least:
        is_quiet = canary is None or canary.wait()
        if counters is not None:
            counters.start()
        took = sample(run, repeats, clock)
        if counters is not None:
            counters.stop()
        is_quiet = canary is None or canary.was_quiet(took, is_quiet)
        taken.append((took, is_quiet))
        all_ns += took
        if is_quiet:
            quiet, quiet_ns = quiet + 1, quiet_ns + took
        elif not canary.can_wait and len(taken) >= target and all_ns >= least:
            break
    spent = clock() - start
    if quiet >= min(ENOUGH, target):
        return Round([took for took, ok in taken if ok], [took for took, ok in taken if not ok], False, spent)
    canary.yield_some()
    return Round([took for took, _ in taken], [], True, spent)


def confidence(values: List[float]) -> Tuple[float, float]:
    """Return the 95 % confidence interval of the median, by order statistics (no distribution assumed).

    (-inf, inf) where there are too few values for one.
    """
    ordered = sorted(values)
    reach = 1.96 * math.sqrt(len(ordered)) / 2
    low, high = math.ceil(len(ordered) / 2 - reach), math.ceil(len(ordered) / 2 + reach)
    if len(ordered) < 6:  # even the whole range of five holds the median with less than 95 %
        return -math.inf, math.inf
    return ordered[low - 1], ordered[high - 1]


def is_stable(rounds: Sequence[Sequence[float]], settings: Settings) -> bool:
    """Whether the latest rounds agree and the median is known well enough (R7).

    The latest `rounds_min` rounds are asked to agree, not all: a disturbance in the first would
    otherwise condemn a candidate to the limit.
    """
    least = int(settings["rounds_min"])
    if len(rounds) < least:
        return False
    medians = [median([float(s) for s in samples]) for samples in rounds[-least:]]
    if max(medians) > min(medians) * (1 + settings["rounds_within"]):
        return False
    values = [float(s) for samples in rounds for s in samples]
    low, high = confidence(values)
    center, within = median(values), settings["confidence_within"]
    return bool(low >= center * (1 - within) and high <= center * (1 + within))
