"""A/A: a file compared with itself, again and again, which tells a device's noise and its false alarms."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

import msgspec

from qaedge.artifact import Artifact
from qaedge.device import Device
from qaedge.hil.contest import Contest, contest
from qaedge.progress import Step
from qaedge.regression.noise import Trial, of_the_last_state


def aa(
    device: Device,
    artifact: Artifact,
    comparisons: int,
    threads: int | None = None,
    wait_s: float = 0.0,
    known: Sequence[Trial] = (),
) -> Iterator[Step]:
    """Compare a file with itself until there are so many trials; yield a Step with each, and others between.

    Each is a session of its own. `known` are those of a run that did not end; where the device is in another state
    now, they do not count, and a warning says so. Verdicts are those of a device of which no noise is known: the
    floor would keep down the alarms that it is to tell of.
    """
    found = list(known)
    while len(found) < comparisons:
        number = len(found)
        steps = contest(device, (artifact, artifact), threads=threads, wait_s=wait_s)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                found = of_the_last_state([*found, trial := _trial(end.value)])
                break
            yield Step(number, comparisons, step.what, warning=step.warning)
        warning = ""
        if len(found) <= number:
            warning = f"{device.name} is in another state than before: {number} comparisons from then do not count."
        yield Step(len(found), comparisons, f"{trial.ratio:.4f}", trial, warning)


def _trial(found: Contest) -> Trial:
    rounds = found.baseline.rounds_ns
    return Trial(
        ratio=found.comparison.ratio,
        verdict=found.comparison.verdict.value,
        median_s=found.baseline.median_s,
        spread=statistics.stdev(rounds) / statistics.mean(rounds),
        fingerprint=msgspec.to_builtins(found.baseline.fingerprint),
    )
