"""A fingerprint: the state of a device that rows must share, or a table mixes two machines (R15)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from qaedge.measurement import Measurement

#: What a device tells before anything is measured; a row that differs in one of them is measured again.
FACTS = ("arch", "cpu_model", "board", "kernel", "boot_id", "governor", "clock_limits_khz", "power_mode")

#: What says which runtime measured, and how it was told to.
OF_THE_RUNTIME = frozenset({"runtime", "runtime_version", "providers", "fp16", "xnnpack"})


class Difference(msgspec.Struct, frozen=True):
    """A field of two fingerprints that is not the same in both; None where one of them lacks it."""

    field: str
    found: Any
    wanted: Any

    @staticmethod
    def word(value: Any) -> str:
        """Say a value, or that there is none."""
        return "nothing" if value is None else repr(value)

    def __str__(self) -> str:
        """Name the field and both values."""
        return f"{self.field} is {self.word(self.found)}, and not {self.word(self.wanted)}"


def fingerprint_of(measurement: Measurement) -> dict[str, Any]:
    """Return what the device was, and how it was used, while something was measured."""
    pin = {"pin": measurement.settings["pin"]} if "pin" in measurement.settings else {}
    return {
        **measurement.fingerprint,
        "device": measurement.device,
        "runtime": measurement.runtime,
        "runtime_version": measurement.runtime_version,
        "threads": measurement.threads,
        **pin,
    }


def differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], fields: Collection[str] | None = None
) -> tuple[Difference, ...]:
    """Return the fields in which two fingerprints differ, of all or of those named; what is empty is absent."""
    names = sorted({*found, *wanted} if fields is None else fields)
    pairs = [(name, _value(found.get(name)), _value(wanted.get(name))) for name in names]
    return tuple(Difference(name, one, other) for name, one, other in pairs if one != other)


def strangers(measurements: Mapping[str, Measurement]) -> dict[str, tuple[Difference, ...]]:
    """Return, by key, what was measured in another state than the newest of the same device, and how they differ.

    Boards that share a table differ in what is each one's own, such as the boot id; they were held
    against each other when they were measured.
    """
    newest: dict[str, Measurement] = {}
    for measurement in measurements.values():
        known = newest.setdefault(measurement.device, measurement)
        if measurement.started_at > known.started_at:
            newest[measurement.device] = measurement
    states = {device: fingerprint_of(measurement) for device, measurement in newest.items()}
    found = {}
    for key, measurement in measurements.items():
        state, wanted = fingerprint_of(measurement), states[measurement.device]
        if state != wanted and (several := differences(state, wanted)):  # most are equal, which is told at once
            found[key] = several
    return found


def _value(value: Any) -> Any:
    if isinstance(value, list | tuple):
        value = list(value)  # a row that was read back holds lists
    return None if value in ("", {}, []) else value
