"""Profiling: artifacts x device -> measurements, in chunks, as soon as each is final."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from qaedge.artifact import Artifact
from qaedge.device import Device
from qaedge.errors import (
    AgentFailed,
    CandidateCrashed,
    CandidateFailed,
    CandidateTimeout,
    InvalidFile,
    MeasurementError,
    ProtocolError,
    QaedgeError,
)
from qaedge.files import read_bytes
from qaedge.hil import frames
from qaedge.hil.agent import AgentSession
from qaedge.hil.onnx_file import external_tensor
from qaedge.hil.settings import Settings
from qaedge.hil.target import LocalTarget, Target
from qaedge.measurement import Measurement
from qaedge.progress import Step

__all__ = ["AgentSession", "Failed", "Measured", "Settings", "measure", "open_session"]

#: A file's format -> the runtime that measures it.
RUNTIMES = {"onnx": "onnxruntime"}
_FAILURES: dict[str, type[MeasurementError]] = {"crashed": CandidateCrashed, "timeout": CandidateTimeout}
#: What a fingerprint takes from the conditions; the rest of it are facts (R15).
_FINGERPRINT = ("boot_id", "governor", "clock_limits_khz")


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

    Without a target the device is this machine. `wait_s` is how long to wait where somebody else
    measures there. Without `lock` only the greeting can be read, also while somebody measures.
    Raises AgentFailed, DeviceLost, DeviceBusy or ProtocolError.
    """
    if target is None:
        if device.connection != "local":
            raise AgentFailed(
                f"{device.name} is reached by {device.connection!r}, and no target was given.",
                "This version measures on the machine it runs on: --device local.",
            )
        target = LocalTarget()
    return AgentSession(device, target, wait_s=wait_s, lock=lock)


def measure(
    session: AgentSession,
    artifacts: Sequence[Artifact],
    settings: Settings,
    threads: int,
    seed: int = 0,
    interleave: bool = False,
) -> Iterator[Step]:
    """Measure files; yield a Step with Measured or Failed as soon as each is final, and one per round without.

    Files with equal content are measured once. `interleave` is for comparing: all files in one
    chunk, each in every round, `settings.interleaved_rounds` of them, there and back again (ABBA), so
    that the round medians of two files are pairs; there, equal files are measured apart.

    Raises DeviceLost, AgentKilled, AgentFailed or ProtocolError where the device is gone; what was
    yielded before stands.
    """
    work = _Work(session, settings, threads, seed, interleave, total=len(artifacts))
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
    runtime = RUNTIMES.get(artifact.format)
    if runtime is None:
        raise CandidateFailed(
            f"{artifact.name}: no runtime measures {artifact.format or 'unknown'!r} files.",
            f"Known: {', '.join(RUNTIMES)}.",
        )
    if runtime not in session.hello.runtimes:
        why = session.hello.runtime_failures.get(runtime, "it is not there")
        raise AgentFailed(
            f"{artifact.name} needs {runtime} on {session.device.name}: {why}.",
            f"Install it there: {session.hello.executable} -m pip install {runtime}",
        )
    path = Path(artifact.path)
    data = read_bytes(path)
    found = hashlib.sha256(data).hexdigest()
    if found != artifact.sha256:
        raise InvalidFile(
            path, "", f"the content {artifact.sha256[:12]}", found[:12], "It was changed; export it again."
        )
    name = external_tensor(data)
    if name is not None:
        raise CandidateFailed(
            f"{artifact.name}: the tensor {frames.clean(name)[:80]!r} lies in another file.",
            "Only the file itself goes to a device. Save it as one: "
            "onnx.save(onnx.load(path), path, save_as_external_data=False).",
        )
    return data


class _Work:
    """One call of `measure`: what is the same for all its chunks, and how many files are final."""

    def __init__(
        self, session: AgentSession, settings: Settings, threads: int, seed: int, interleave: bool, total: int
    ) -> None:
        self._session = session
        self._settings = settings
        self._threads = threads
        self._interleave = interleave
        self._total = total
        self._done = 0
        self._stored = {
            **msgspec.to_builtins(settings),
            "threads": threads,
            "pin": session.device.pin,
            "seed": seed,
            "interleave": interleave,
        }

    def fail(self, group: Sequence[Artifact], error: QaedgeError) -> Iterator[Step]:
        for artifact in group:
            self._done += 1
            yield Step(self._done, self._total, artifact.name, Failed(artifact, error), warning=error.message)

    def chunk(self, groups: Sequence[Sequence[Artifact]], seed: int) -> Iterator[Step]:
        started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        runtime = RUNTIMES[groups[0][0].format]
        order = {
            "runtime": runtime,
            "entries": [{"id": i, "sha256": group[0].sha256} for i, group in enumerate(groups)],
            "settings": msgspec.to_builtins(self._settings),
            "threads": self._threads,
            "pin": self._session.device.pin,
            "seed": seed,
            "interleave": self._interleave,
            "options": {"sizes": self._settings.sizes, "seed": 0},
        }
        rounds: dict[int, list[frames.Samples]] = {}
        for message in self._session.measure(order):
            if isinstance(message, frames.Round):
                what = f"round {message.number} of at most {message.of}, {message.left} files left of {len(groups)}"
                yield Step(self._done, self._total, what)
                continue
            if message.id >= len(groups):
                raise ProtocolError(f"{self._session.device.name} speaks of a file that was not asked for.")
            group = groups[message.id]
            if isinstance(message, frames.Samples):
                rounds.setdefault(message.id, []).append(message)
            elif isinstance(message, frames.Failed):
                yield from self.fail(group, self._error(group[0], message))
            else:
                found = self._measurement(group[0], runtime, rounds.get(message.id, []), message, started_at)
                for artifact in group:
                    self._done += 1
                    yield Step(self._done, self._total, artifact.name, Measured(artifact, found))

    def _error(self, artifact: Artifact, message: frames.Failed) -> MeasurementError:
        what = {
            "crashed": "ended the process that ran it",
            "timeout": f"did not finish within {self._settings.deadline_s:g} s",
            "memory": "ran out of memory",
        }.get(message.kind, "was refused by the runtime")
        tries = f", {message.retries + 1} times" if message.retries else ""
        return _FAILURES.get(message.kind, CandidateFailed)(
            f"{artifact.name} ({artifact.sha256[:12]}) {what} on {self._session.device.name}{tries}: "
            f"{self._without_folder(artifact, frames.clean(message.text))[:600].rstrip('.')}.",
            "The other files are not affected. "
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

    def _measurement(
        self,
        artifact: Artifact,
        runtime: str,
        rounds: Sequence[frames.Samples],
        message: frames.Measured,
        started_at: str,
    ) -> Measurement:
        hello, device = self._session.hello, self._session.device
        before, after = frames.cleaned(message.before), frames.cleaned(message.after)
        measuring_s = sum(sum(r.samples_ns) + sum(r.warmup_ns) * r.repeats for r in rounds) * 1e-9
        found = Measurement(
            sha256=artifact.sha256,
            device=device.name,
            runtime=runtime,
            runtime_version=hello.runtimes[runtime],
            threads=self._threads,
            rounds=tuple(tuple(t / r.repeats * 1e-9 for t in r.samples_ns) for r in rounds),
            repeats=rounds[-1].repeats if rounds else 1,
            warmup_s=tuple(t * 1e-9 for r in rounds for t in r.warmup_ns),
            load_s=message.load_ns * 1e-9,
            first_run_s=message.first_ns * 1e-9,
            overhead_s=message.overhead_ns * 1e-9,
            peak_memory_bytes=message.peak_bytes or None,
            started_at=started_at,
            settings=self._stored,
            fingerprint={
                "device": device.name,
                "arch": hello.arch,
                "cpu_model": hello.cpu_model,
                "board": hello.board,
                "kernel": hello.kernel,
                "runtime": runtime,
                "runtime_version": hello.runtimes[runtime],
                "threads": self._threads,
                "cores": list(message.cores),
                **{key: before[key] for key in _FINGERPRINT if key in before},
            },
            conditions={
                "before": before,
                "after": after,
                "warm": message.warm,
                **_present(involuntary_switches=message.switches, waited_ns=message.waited_ns),
            },
            doubts=tuple(frames.clean(doubt) for doubt in message.doubts),
            retries=message.retries,
        )
        return msgspec.structs.replace(found, doubts=found.doubts + self._doubts(found, message, measuring_s))

    def _doubts(self, found: Measurement, message: frames.Measured, measuring_s: float) -> tuple[str, ...]:
        doubts = []
        if found.outliers > self._settings.outlier_share * len(found.samples_s):
            doubts.append("outliers")
        if message.waited_ns is not None and message.waited_ns * 1e-9 > self._settings.waited_share * measuring_s:
            doubts.append("waited")
        return tuple(doubts)


def _present(**values: Any) -> Mapping[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
