"""A/A: a file compared with itself, again and again, which tells a device's noise and its false alarms."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Generator

from qaedge.artifact import Artifact
from qaedge.device import Device
from qaedge.hil.contest import Contest, contest
from qaedge.progress import Step
from qaedge.regression.compare import Verdict
from qaedge.regression.noise import Noise


def aa(
    device: Device,
    artifact: Artifact,
    comparisons: int,
    threads: int | None = None,
    wait_s: float = 0.0,
    measured_at: str = "",
) -> Generator[Step, None, Noise]:
    """Compare a file with itself so many times, each in a session of its own; return the Noise.

    Verdicts are those of a device of which no noise is known: the floor would keep down the alarms that it is
    to tell of.
    """
    found: list[Contest] = []
    for number in range(comparisons):
        steps = contest(device, (artifact, artifact), threads=threads, wait_s=wait_s)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                found.append(end.value)
                break
            yield Step(number, comparisons, step.what, warning=step.warning)
        yield Step(number + 1, comparisons, f"{found[-1].comparison.ratio:.4f}")
    return noise_of(device, artifact, found, measured_at)


def noise_of(device: Device, artifact: Artifact, found: list[Contest], measured_at: str) -> Noise:
    """Summarize A/A comparisons of one device, in the order in which they were made."""
    medians = [contest.baseline.median_s for contest in found]
    verdicts = [contest.comparison.verdict for contest in found]
    return Noise(
        device=device.name,
        fingerprint=found[-1].baseline.fingerprint,
        file=artifact.name,
        measured_at=measured_at,
        comparisons=len(found),
        ratios=tuple(contest.comparison.ratio for contest in found),
        across=tuple(after / before for before, after in itertools.pairwise(medians)),
        false_slower=verdicts.count(Verdict.SLOWER),
        false_faster=verdicts.count(Verdict.FASTER),
        undecided=verdicts.count(Verdict.UNKNOWN),
        spread=statistics.median(
            statistics.stdev(contest.baseline.rounds_ns) / statistics.mean(contest.baseline.rounds_ns)
            for contest in found
        ),
    )
