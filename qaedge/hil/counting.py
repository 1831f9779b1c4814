"""Counting: two files compared by the instructions that an inference takes, which hardly vary, in the place of times.

A count says nothing of caches, clocks or memory: what takes as many instructions may still be slower. It is exact
to a few thousandths, on a board that is busy, throttles or is emulated, too.
"""

from __future__ import annotations

import time
from collections.abc import Generator

import msgspec

from qaedge.artifact import Artifact
from qaedge.device import Device
from qaedge.errors import MeasurementError
from qaedge.hil.contest import Contest, gather, persistently
from qaedge.hil.profile import AgentSession, Settings, open_session
from qaedge.progress import Step
from qaedge.regression.compare import FEWEST_ROUNDS, Comparison, Side, Verdict, compare, held_back
from qaedge.regression.result import Result, confirmed

#: Below this share, two counts are the same.
LEAST = 0.005
#: A count takes no long rounds, and no reference model: clocks do not matter to it.
SETTINGS = Settings(
    interleaved_rounds=1, warmup_s=0.0, warmup_limit_s=0.01, round_s=0.005, round_samples=5, overhead_s=0.0,
    reference=False, quiet_share=0.0, quiet_s=0.0,
)  # fmt: skip


def count_contest(
    device: Device,
    pair: tuple[Artifact, Artifact],
    *,
    threads: int | None = None,
    threshold: float = 0.0,
    wait_s: float = 0.0,
    settings: Settings = SETTINGS,
) -> Generator[Step, None, Contest]:
    """Judge a contender by its count, from seven processes of each; SLOWER has to be said by two sessions.

    Raises as `contest`; MeasurementError, too, where the device does not count.
    """
    began = time.monotonic()

    def one(wait_s: float) -> Generator[Step, None, Contest]:
        with open_session(device, wait_s=wait_s) as session:
            return (yield from _one(session, pair, threads or device.threads, threshold, settings))

    found = yield from persistently(device, wait_s, one)
    sessions, first = 1, None
    if found.comparison.verdict is Verdict.SLOWER:
        first = found.comparison
        found = yield from persistently(device, wait_s, one)
        found = msgspec.structs.replace(found, comparison=confirmed(first, found.comparison))
        sessions = 2
    return msgspec.structs.replace(found, first=first, sessions=sessions, seconds=time.monotonic() - began)


def _one(
    session: AgentSession, pair: tuple[Artifact, Artifact], threads: int, threshold: float, settings: Settings
) -> Generator[Step, None, Contest]:
    sides = tuple(
        msgspec.structs.replace(artifact, name=f"{artifact.name} ({role})")
        for artifact, role in zip(pair, ("baseline", "contender"), strict=True)
    )
    counts: list[list[float]] = [[], []]
    last: list[Result] = []
    for turn in range(FEWEST_ROUNDS):
        taken = yield from gather(session, sides, settings, threads, seed=turn)
        last = [_good(taken[side.name]) for side in sides]
        for kept, result in zip(counts, last, strict=True):
            if result.instructions is None:
                raise MeasurementError(
                    f"{session.device.name} does not count instructions.",
                    "It takes hardware that does, and kernel.perf_event_paranoid of at most 2 there. Or compare times.",
                )
            kept.append(result.instructions)
    return Contest(_judged(pair, last, counts, threshold), last[0], last[1], None, 1, 0.0)


def _judged(
    pair: tuple[Artifact, Artifact], last: list[Result], counts: list[list[float]], threshold: float
) -> Comparison:
    found = compare(
        *(
            Side(artifact.path, tuple(count), artifact.size_bytes, fingerprint=result.side().fingerprint)
            for artifact, count, result in zip(pair, counts, last, strict=True)
        ),
        threshold=threshold,
        least_threshold=LEAST,
    )
    if found.verdict is Verdict.UNKNOWN:
        return held_back(found, "counts that vary: something in the file depends on chance or on other threads")
    return found


def _good(found: Result | MeasurementError) -> Result:
    if isinstance(found, MeasurementError):
        raise found
    return found
