"""Profiling: artifacts x device -> measurements, in chunks, as soon as each is final."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from qaedge.artifact import Artifact
from qaedge.device import Device
from qaedge.errors import (
    CandidateCrashed,
    CandidateFailed,
    CandidateTimeout,
    MeasurementError,
    ProtocolError,
    QaedgeError,
    UsageError,
)
from qaedge.hil import frames
from qaedge.hil.agent import AgentSession
from qaedge.hil.connect import target_for
from qaedge.hil.contents import contents_of
from qaedge.hil.given import Inputs, described
from qaedge.hil.meter import Meter
from qaedge.hil.readings import Readings
from qaedge.hil.runtimes import options_for, runtime_for
from qaedge.hil.settings import Settings
from qaedge.hil.target import Target
from qaedge.measurement import Measurement
from qaedge.progress import Step

__all__ = ["AgentSession", "Failed", "Measured", "Settings", "measure", "open_session"]

FAILURES: dict[str, type[MeasurementError]] = {"crashed": CandidateCrashed, "timeout": CandidateTimeout}
#: What helps where inputs do not fit a file.
_INPUTS_HINT = (
    "Write what it takes: numpy.savez(FILE, **{'NAME OF THE INPUT': array}). Without any, it gets random numbers."
)


class Measured(msgspec.Struct, frozen=True):
    """A candidate that was measured."""

    artifact: Artifact
    measurement: Measurement


class Failed(msgspec.Struct, frozen=True):
    """A candidate that was not, and why."""

    artifact: Artifact
    error: QaedgeError


def open_session(device: Device, target: Target | None = None, wait_s: float = 0.0, lock: bool = True) -> AgentSession:
    """Start the agent on a device; use it in a `with` statement.

    Without a target it is reached as its description says. `wait_s` is how long to wait where somebody else
    measures there. Without `lock` only the greeting can be read, also while somebody measures.
    Raises Unreachable and its kin, AgentFailed, DeviceLost, DeviceBusy or ProtocolError.
    """
    return AgentSession(device, target or target_for(device), wait_s=wait_s, lock=lock)


def measure(
    session: AgentSession,
    artifacts: Sequence[Artifact],
    settings: Settings,
    threads: int,
    seed: int = 0,
    interleave: bool = False,
    inputs: Inputs | None = None,
) -> Iterator[Step]:
    """Measure files; yield a Step with Measured or Failed as soon as each is final, and one per round without.

    Files with equal content are measured once. `interleave` is for comparing: all files in one
    chunk, each in every round, `settings.interleaved_rounds` of them, there and back again (ABBA), so
    that the round medians of two files are pairs; there, equal files are measured apart. With
    `settings.energy`, each file that is measured then loops for a while, for its energy (R16).
    Files of different formats take turns, too, each with the runtime that is the first for it. `inputs` are
    what they get instead of random numbers, each file those of its own names.

    Raises UsageError where there are more threads than the device has cores; MeasurementError where
    energy is asked for and nothing can measure it; DeviceLost,
    AgentKilled, AgentFailed or ProtocolError where the device is gone; what was yielded before stands.
    """
    cores = session.hello.cores
    if threads > cores:
        raise UsageError(
            f"{threads} threads were asked for, and {session.device.name} has "
            f"{cores} core{'s' if cores > 1 else ''}: they would wait for each other.",
            f"Give at most {cores}: --threads {cores}",
        )
    settings = settings.on(session.device)
    with _meter(session, settings) as meter:
        items, contents = described(inputs) if inputs is not None else (None, {})
        work = _Work(session, settings, threads, seed, interleave, len(artifacts), meter, items)
        absent = session.missing(contents)
        if absent:
            session.put({sha256: contents[sha256] for sha256 in absent})
        yield from _chunks(work, session, artifacts, settings, seed, interleave)
        if absent:
            session.drop(absent)


@contextlib.contextmanager
def _meter(session: AgentSession, settings: Settings) -> Iterator[Meter | None]:
    """Give the external meter, where there is one to be used; raise MeasurementError where there is none at all."""
    if not settings.energy:
        yield None
    elif settings.meter:
        with Meter(settings.meter) as meter:
            yield meter
    elif session.hello.power_rails:
        yield None
    else:
        raise MeasurementError(
            f"{session.device.name} has no sensor for its power: {session.hello.no_power or 'none was found'}.",
            "Measure at its supply with an external meter: --meter COMMAND (docs/measuring.md), or leave out --energy.",
        )


def _chunks(
    work: _Work,
    session: AgentSession,
    artifacts: Sequence[Artifact],
    settings: Settings,
    seed: int,
    interleave: bool,
) -> Iterator[Step]:
    groups: list[list[Artifact]] = [[a] for a in artifacts] if interleave else _equal(artifacts)
    there: dict[str, bytes] = {}
    chunk = len(groups) if interleave else settings.chunk
    absent = session.missing(sorted({group[0].sha256 for group in groups}))
    for number, start in enumerate(range(0, len(groups), max(1, chunk))):
        ready: list[list[Artifact]] = []
        for group in groups[start : start + chunk]:
            try:
                data = _read(session, group[0])
            except QaedgeError as error:
                yield from work.fail(group, error)
                continue
            if group[0].sha256 in absent:
                there[group[0].sha256] = data
            ready.append(group)
        session.put(there)
        absent -= set(there)
        if ready:
            yield from work.chunk(ready, seed + number)
        later = {group[0].sha256 for group in groups[start + chunk :]}
        session.drop(set(there) - later)
        there = {}


def _equal(artifacts: Sequence[Artifact]) -> list[list[Artifact]]:
    groups: dict[str, list[Artifact]] = {}
    for artifact in artifacts:
        groups.setdefault(artifact.sha256, []).append(artifact)
    return list(groups.values())


def _read(session: AgentSession, artifact: Artifact) -> bytes:
    """Return a file that may be sent; raise MissingFile, InvalidFile, CandidateFailed or AgentFailed."""
    runtime_for(session, artifact)
    return contents_of(artifact)


class _Work:
    """One call of `measure`: what is the same for all its chunks, and how many files are final."""

    def __init__(
        self,
        session: AgentSession,
        settings: Settings,
        threads: int,
        seed: int,
        interleave: bool,
        total: int,
        meter: Meter | None,
        inputs: list[dict[str, Any]] | None = None,
    ) -> None:
        self._session = session
        self._settings = settings
        self._threads = threads
        self._interleave = interleave
        self._total = total
        self._meter = meter
        self._done = 0
        self._stored = {
            **msgspec.to_builtins(settings),
            "meter": list(settings.meter),
            "threads": threads,
            "pin": session.device.pin,
            "seed": seed,
            "interleave": interleave,
        }
        self._inputs = inputs
        if inputs is not None:
            self._stored["inputs"] = {item["name"]: item["sha256"] for item in inputs}
        self._readings = Readings(session, settings, threads, self._stored, meter)

    def fail(self, group: Sequence[Artifact], error: QaedgeError) -> Iterator[Step]:
        for artifact in group:
            self._done += 1
            yield Step(self._done, self._total, artifact.name, Failed(artifact, error), warning=error.message)

    def chunk(self, groups: Sequence[Sequence[Artifact]], seed: int) -> Iterator[Step]:
        started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        runtimes = [runtime_for(self._session, group[0]) for group in groups]
        # The one that the device prefers has the reference model, whichever file comes first.
        main = min(runtimes, key=self._session.device.runtimes.index)
        order = {
            "runtime": main,
            "entries": [
                {"id": i, "sha256": group[0].sha256, **self._own(runtime, main)}
                for i, (group, runtime) in enumerate(zip(groups, runtimes, strict=True))
            ],
            "settings": msgspec.to_builtins(self._settings),
            "threads": self._threads,
            "pin": self._session.device.pin,
            "seed": seed,
            "interleave": self._interleave,
            "options": self._options(main),
            "energy": self._settings.energy,
            "meter": "host" if self._meter is not None else "board",
        }
        rounds: dict[int, list[frames.Samples]] = {}
        final: set[int] = set()
        for message in self._session.measure(order):
            if isinstance(message, frames.Round):
                what = f"round {message.number} of at most {message.of}, {message.left} files left of {len(groups)}"
                again = f", again: {_words(message.tainted)}" if message.tainted else ""
                yield Step(self._done, self._total, what + again)
                continue
            if isinstance(message, frames.Cooling):
                at = f" at {message.temperature_c:.0f} °C" if message.temperature_c is not None else ""
                what = f"cooling{at}, for {message.waited_s:.0f} s: {_words(message.reasons)}"
                yield Step(self._done, self._total, what)
                continue
            if isinstance(message, frames.Energy):
                if self._meter is not None:
                    self._meter.mark(message)
                if message.begins:
                    yield Step(self._done, self._total, f"power, {frames.clean(message.phase)}")
                continue
            if message.id >= len(groups):
                raise ProtocolError(f"{self._session.device.name} speaks of a file that was not asked for.")
            group = groups[message.id]
            if message.id in final:
                raise ProtocolError(f"{self._session.device.name} speaks of {group[0].name}, which is final already.")
            if isinstance(message, frames.Samples):
                rounds.setdefault(message.id, []).append(message)
                continue
            final.add(message.id)
            if isinstance(message, frames.Failed):
                yield from self.fail(group, self._error(group[0], message))
            else:
                runtime = runtimes[message.id]
                found = self._readings.measurement(group[0], runtime, rounds.get(message.id, []), message, started_at)
                if runtime != main:  # another's reference model: its time compares with that of no other session
                    found = msgspec.structs.replace(
                        found, reference_s=None, conditions={**found.conditions, "reference_runtime": main}
                    )
                for artifact in group:
                    self._done += 1
                    yield Step(self._done, self._total, artifact.name, Measured(artifact, found))
        silent = [group[0].name for i, group in enumerate(groups) if i not in final]
        if silent:
            raise ProtocolError(f"{self._session.device.name} said nothing of {', '.join(silent)} before its end.")

    def _options(self, runtime: str) -> dict[str, Any]:
        return {"sizes": self._settings.sizes, "seed": 0, **options_for(self._session.device, runtime)}

    def _own(self, runtime: str, main: str) -> dict[str, Any]:
        """Return what of a candidate's order is not the whole chunk's."""
        own: dict[str, Any] = {} if runtime == main else {"runtime": runtime, "options": self._options(runtime)}
        return own if self._inputs is None else {**own, "inputs": self._inputs}

    def _error(self, artifact: Artifact, message: frames.Failed) -> MeasurementError:
        what = {
            "crashed": "ended the process that ran it",
            "timeout": f"did not finish within {self._settings.deadline_s:g} s",
            "memory": "ran out of memory",
            "inputs": "does not take the inputs that were given",
        }.get(message.kind, "was refused by the runtime")
        tries = f", {message.retries + 1} times" if message.retries else ""
        return FAILURES.get(message.kind, CandidateFailed)(
            f"{artifact.name} ({artifact.sha256[:12]}) {what} on {self._session.device.name}{tries}: "
            f"{self._without_folder(artifact, frames.clean(message.text))[:600].rstrip('.')}.",
            _INPUTS_HINT
            if message.kind == "inputs"
            else "The other files are not affected. "
            + (
                "This one may be damaged, or hold what the runtime does not know: export it again, or leave it out."
                if self._interleave
                else f"To look at it alone, run: qaedge bench {artifact.path}"
            ),
        )

    def _without_folder(self, artifact: Artifact, text: str) -> str:
        """Say the file's own name where a runtime says the one in the agent's folder, which is gone soon."""
        folder = self._session.hello.folder.rstrip("/")
        return text.replace(f"{folder}/files/{artifact.sha256}", Path(artifact.path).name)


def _words(reasons: Sequence[str]) -> str:
    return ", ".join(map(frames.clean, reasons))
