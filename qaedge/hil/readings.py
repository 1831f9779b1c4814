"""Readings: what an agent said of a file, made into a measurement, with what is to be doubted of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from qaedge.artifact import Artifact
from qaedge.errors import ProtocolError
from qaedge.hil import frames
from qaedge.hil.agent import AgentSession
from qaedge.hil.meter import Meter
from qaedge.hil.runtimes import options_for
from qaedge.hil.settings import Settings
from qaedge.measurement import DOUBTS, Measurement

#: How many standard errors above rest a candidate's power must be to be told from it.
_SIGMAS = 3.0
#: What a fingerprint takes from the conditions; the rest of it are facts (R15).
_FINGERPRINT = ("boot_id", "governor", "clock_limits_khz", "gpu_clock_limits_khz")


class Readings:
    """What is the same for all measurements of one call: the session, how it was asked, and what is stored of that."""

    def __init__(
        self,
        session: AgentSession,
        settings: Settings,
        threads: int,
        stored: dict[str, Any],
        meter: Meter | None,
    ) -> None:
        """Keep them; `meter` is that of the supply, where the board's own is not used."""
        self._session = session
        self._settings = settings
        self._threads = threads
        self._stored = stored
        self._meter = meter

    def measurement(
        self,
        artifact: Artifact,
        runtime: str,
        rounds: Sequence[frames.Samples],
        message: frames.Measured,
        started_at: str,
    ) -> Measurement:
        """Return the measurement of a file.

        Args:
            artifact: the file.
            runtime: what ran it.
            rounds: all that were taken, tainted ones, too.
            message: what the agent said at their end.
            started_at: when, in ISO 8601.

        Raises:
            ProtocolError: a doubt that is not known.
            MeasurementError: values that cannot be times.
        """
        hello, device = self._session.hello, self._session.device
        unknown = [frames.clean(doubt) for doubt in message.doubts if doubt not in DOUBTS]
        if unknown:
            raise ProtocolError(f"{device.name} doubts {artifact.name} for a reason that is not known: {unknown[0]!r}.")
        before, after = frames.cleaned(message.before), frames.cleaned(message.after)
        whole = [r for r in rounds if not r.tainted]
        aside = [whole[place] for place in message.aside if place < len(whole)]
        tainted = [r for r in rounds if r.tainted] + aside
        rounds = [r for r in whole if r not in aside]
        scales = tuple(r.scale for r in rounds)
        energy = self._energy(message)
        measuring_s = sum(sum(r.samples_ns) + sum(r.warmup_ns) * r.repeats for r in rounds) * 1e-9
        found = Measurement(
            sha256=artifact.sha256,
            device=device.name,
            runtime=runtime,
            runtime_version=hello.runtimes[runtime],
            threads=self._threads,
            rounds=_seconds(rounds),
            scales=scales if any(scale != 1.0 for scale in scales) else (),
            tainted_rounds=_seconds(tainted),
            aside_s=tuple(t / r.repeats * 1e-9 for r in whole for t in r.aside_ns),
            repeats=rounds[-1].repeats if rounds else 1,
            warmup_s=tuple(t * 1e-9 for r in whole for t in r.warmup_ns),
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
                **({"power_mode": hello.power_mode} if hello.power_mode else {}),
                **options_for(device, runtime),
            },
            conditions={
                "before": before,
                "after": after,
                "during": frames.cleaned(message.during),
                "warm": message.warm,
                **({"energy": energy} if energy else {}),
                **({"delegate": frames.clean(message.delegate)} if message.delegate else {}),
                **_present(involuntary_switches=message.switches, waited_ns=message.waited_ns),
            },
            doubts=tuple(frames.clean(doubt) for doubt in message.doubts),
            retries=message.retries,
            reference_s=message.reference_ns * 1e-9 if message.reference_ns is not None else None,
            instructions=message.instructions,
            cycles=message.cycles,
            energy_j=energy.get("joules"),
            energy_samples=int(energy["busy_samples"]) if "joules" in energy else None,
        )
        return msgspec.structs.replace(found, doubts=found.doubts + self._doubts(found, message, measuring_s))

    def _energy(self, message: frames.Measured) -> dict[str, float]:
        """Return what was read of power, and `joules` per inference where they can be told from rest (R16)."""
        found = dict(message.energy or {})
        if found and self._meter is not None:
            found.update(self._meter.values(message.id))
        if "busy_w" in found and "idle_w" in found:
            above_w = found["busy_w"] - found["idle_w"]
            error_w = math.hypot(found["busy_error_w"], found["idle_error_w"])
            if above_w > max(_SIGMAS * error_w, 1e-6 * found["idle_w"]):
                found["joules"] = above_w * found["seconds"] / found["runs"]
                found["error_joules"] = error_w * found["seconds"] / found["runs"]
        return found

    def _doubts(self, found: Measurement, message: frames.Measured, measuring_s: float) -> tuple[str, ...]:
        doubts = []
        if found.outliers > self._settings.outlier_share * len(found.samples_s):
            doubts.append("outliers")
        if message.waited_ns is not None and message.waited_ns * 1e-9 > self._settings.waited_share * measuring_s:
            doubts.append("waited")
        if self._settings.energy and found.energy_j is None:
            doubts.append("no energy")
        return tuple(doubts)


def _seconds(rounds: Sequence[frames.Samples]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(t / r.repeats * 1e-9 for t in r.samples_ns) for r in rounds)


def _present(**values: Any) -> Mapping[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
