"""A contest: two files measured in turn on a device until it is clear whether one is slower, and then again.

What a board did not finish is never judged: a pair that was interrupted is measured anew, from its first
round, and rounds of a device that was throttled or changed count for nothing.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeVar

import msgspec

from qaedge.artifact import Artifact
from qaedge.device import Device
from qaedge.errors import MeasurementError
from qaedge.fingerprint import OF_THE_RUNTIME
from qaedge.hil import fleet
from qaedge.hil.agent import HOST_PATIENCE_S, AgentSession
from qaedge.hil.profile import Failed, Settings, measure, open_session
from qaedge.progress import Step, changed
from qaedge.regression.compare import (
    FEWEST_ROUNDS,
    FIRST_ROUNDS,
    MOST_ROUNDS,
    Comparison,
    Verdict,
    compare,
    held_back,
    needs_more,
)
from qaedge.regression.noise import Noise
from qaedge.regression.result import Result, believed, confirmed, told

T = TypeVar("T")
#: How long the agent of a board that was lost may hold it, while it waits for its host [s].
_HELD_S = HOST_PATIENCE_S + 10.0
#: How often rounds that count for nothing are taken again, and sessions whose verdict is in doubt.
RETAKES = 2
#: How often each file is loaded in a session, for its first run and its peak memory: as often as the U test asks for.
LOADS = FEWEST_ROUNDS
#: Loading alone: the few runs that a round cannot do without.
_LOADING = {
    "interleaved_rounds": 1, "warmup_runs": 1, "warmup_s": 0.0, "warmup_limit_s": 1e-3, "round_samples": 1,
    "round_s": 1e-6, "reference": False, "energy": False,
}  # fmt: skip


class Contest(msgspec.Struct, frozen=True):
    """What a contest came to.

    Attributes:
        comparison: the verdict.
        baseline, contender: all rounds behind it.
        first: what the first session said, where a second one was needed.
        sessions: how many there were.
        seconds: how long they took, without connecting and waiting for the device.
    """

    comparison: Comparison
    baseline: Result
    contender: Result
    first: Comparison | None
    sessions: int
    seconds: float


def contest(
    device: Device,
    pair: tuple[Artifact, Artifact],
    *,
    threads: int | None = None,
    threshold: float = 0.0,
    noise: Noise | None = None,
    wait_s: float = 0.0,
    settings: Settings | None = None,
) -> Generator[Step, None, Contest]:
    """Judge a contender (second) against a baseline (first); yield what is going on, return the Contest.

    SLOWER has to be said by two sessions, each with fresh processes. A session whose SLOWER or FASTER is in doubt,
    because the device did other work, is held again, twice at most. A board that is lost is connected to again,
    and the pair begins anew there.

    Raises what `measure` and `open_session` raise, and a file's own error where it cannot be measured.
    """

    def one(wait_s: float) -> Generator[Step, None, Contest]:
        with open_session(device, wait_s=wait_s) as session:
            began = time.monotonic()
            order = settings or Settings()
            found = yield from _one(session, pair, threads or device.threads, threshold, noise, order)
            return msgspec.structs.replace(found, seconds=time.monotonic() - began)

    def settled() -> Generator[Step, None, Contest]:
        seconds = 0.0
        for number in range(1, RETAKES + 2):
            found = yield from persistently(device, wait_s, one)
            seconds += found.seconds
            if not found.comparison.held_for:
                break
            if number <= RETAKES:
                yield Step(0, 0, f"again: {' and '.join(found.comparison.held_for)}")
        return msgspec.structs.replace(found, sessions=number, seconds=seconds)

    first = yield from settled()
    if first.comparison.verdict is not Verdict.SLOWER:
        return first
    found = yield from _again(settled())
    return msgspec.structs.replace(
        found,
        comparison=confirmed(first.comparison, found.comparison),
        first=first.comparison,
        sessions=first.sessions + found.sessions,
        seconds=first.seconds + found.seconds,
    )


def persistently(
    device: Device, wait_s: float, work: Callable[[float], Generator[Step, None, T]]
) -> Generator[Step, None, T]:
    """Do work that opens a session, and all of it again where the board was lost in the middle.

    A board that was never reached is not tried again: that is the user's to mend.
    """
    reached = False

    def note(step: Step) -> Step:
        nonlocal reached
        reached = True
        return step

    for number, pause_s in enumerate((*fleet.WAITS_S, None)):
        try:
            for_this_time = work(max(wait_s, _HELD_S) if number else wait_s)
            return (yield from changed(for_this_time, note))
        except fleet.PASSING as error:
            if pause_s is None or not (reached or number):
                raise
            text = f"{error.message} What was not finished is measured anew."
            yield Step(0, 0, f"connecting again to {device.name}", warning=text)
            time.sleep(pause_s * random.uniform(0.5, 1.0))
    raise AssertionError("the last attempt returns or raises")


def gather(
    session: AgentSession,
    artifacts: Sequence[Artifact],
    settings: Settings,
    threads: int,
    seed: int = 0,
    commit: str = "",
) -> Generator[Step, None, dict[str, Result | MeasurementError]]:
    """Measure files in turn; return what each took, or why it was not measured, by its name."""
    found: dict[str, Result | MeasurementError] = {}
    for step in measure(session, artifacts, settings, threads, seed=seed, interleave=True):
        if isinstance(step.result, Failed):
            error = step.result.error
            kept = error if isinstance(error, MeasurementError) else MeasurementError(error.message, error.hint)
            found[step.result.artifact.name] = kept
        elif step.result is not None:
            artifact = step.result.artifact
            found[artifact.name] = Result.of(artifact.name, artifact, step.result.measurement, commit)
        yield msgspec.structs.replace(step, result=None, warning="")
    return found


def _one(
    session: AgentSession,
    pair: tuple[Artifact, Artifact],
    threads: int,
    threshold: float,
    noise: Noise | None,
    settings: Settings,
) -> Generator[Step, None, Contest]:
    """Measure both in one session, in more and more rounds, until it is decided or no use."""
    # The names differ even where a file is compared with itself.
    sides = (_named(pair[0], "baseline"), _named(pair[1], "contender"))
    # Files of two formats have two runtimes, and which is faster so is the question.
    apart = OF_THE_RUNTIME if pair[0].format != pair[1].format else frozenset()
    kept: list[Result] = []
    loads: list[list[Result]] = []

    def judged() -> Comparison:
        left, right = (
            msgspec.structs.replace(
                mine.side(artifact.path, apart),
                peak_memory_bytes=tuple(one[place].peak_memory_bytes or 0 for one in loads),
                first_run_s=tuple((one[place].first_run_ns or 0) * 1e-9 for one in loads),
            )
            for place, (mine, artifact) in enumerate(zip(kept, pair, strict=True))
        )
        floor = noise.floor if noise else 0.0
        return told(compare(left, right, threshold=threshold, noise_floor=floor), kept[1], noise)

    rounds, spoiled = FIRST_ROUNDS, 0
    for turn in range(100):
        order = msgspec.structs.replace(settings, interleaved_rounds=rounds)
        taken = yield from gather(session, sides, order, threads, seed=turn)
        parts = [_good(taken[side.name]) for side in sides]
        if not all(part.is_judged for part in parts):
            spoiled += 1
            if spoiled <= RETAKES:
                yield Step(0, 0, "again: the device was not itself")
                continue
        kept = [one.extended(more) for one, more in zip(kept, parts, strict=True)] if kept else parts
        loads.append(parts)
        found = judged()
        if spoiled > RETAKES:
            doubts = sorted({doubt for part in parts if not part.is_judged for doubt in part.doubts})
            found = held_back(found, f"the device was {' and '.join(doubts)} all the time")
            break
        rounds = needs_more(found, MOST_ROUNDS)
        if not rounds:
            loads += yield from _loaded(session, sides, settings, threads, len(loads))
            found = judged()
            break
    baseline, contender = _with_loads(kept, loads)
    return Contest(believed(found, *kept, in_turn=True), baseline, contender, None, 1, 0.0)


def _loaded(
    session: AgentSession, sides: Sequence[Artifact], settings: Settings, threads: int, before: int
) -> Generator[Step, None, list[list[Result]]]:
    """Load both in fresh processes, now the one first and now the other, until each was loaded LOADS times."""
    order = msgspec.structs.replace(settings, **_LOADING)
    found = []
    for number in range(before, LOADS):
        taken = yield from gather(session, sides if number % 2 else sides[::-1], order, threads)
        found.append([_good(taken[side.name]) for side in sides])
    return found


def _with_loads(kept: Sequence[Result], loads: Sequence[Sequence[Result]]) -> Iterator[Result]:
    """Yield both results with the medians of their loads as cold figures."""
    for mine, all_of_it in zip(kept, zip(*loads, strict=True), strict=True):
        known = {
            key: [value for one in all_of_it if (value := getattr(one, key))]
            for key in ("load_ns", "first_run_ns", "peak_memory_bytes")
        }
        yield msgspec.structs.replace(
            mine, **{key: round(statistics.median(values)) for key, values in known.items() if values}
        )


def _named(artifact: Artifact, role: str) -> Artifact:
    return msgspec.structs.replace(artifact, name=f"{artifact.name} ({role})")


def _good(found: Result | MeasurementError) -> Result:
    if isinstance(found, MeasurementError):
        raise found
    return found


def _again(steps: Generator[Step, None, T]) -> Generator[Step, None, T]:
    """Say that it is the second time."""
    return changed(steps, lambda step: msgspec.structs.replace(step, what=f"comparing again: {step.what}"))
