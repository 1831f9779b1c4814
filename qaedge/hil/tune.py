"""Tuning, from the host: what would be done on a device, and then done."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from qaedge.device import Device
from qaedge.errors import MeasurementError, NeedsRoot, QaedgeError
from qaedge.hil import frames
from qaedge.hil.agent import AgentSession
from qaedge.hil.connect import target_for
from qaedge.hil.target import Target


class Tuned(msgspec.Struct, frozen=True):
    """The commands that were to be run on a device, whether they were, and what else was noticed."""

    commands: tuple[str, ...]
    done: bool
    notes: tuple[str, ...]


def tune(
    device: Device,
    agree: Callable[[Sequence[str]], bool],
    *,
    power_mode: int | None = None,
    reset: bool = False,
    wait_s: float = 0.0,
    target: Target | None = None,
) -> Tuned:
    """Set a device's governor, and a Jetson's clocks and power mode, or restore what was there before.

    Args:
        device: which; its `governor` is set, "performance" where it has no wish.
        agree: is shown the commands, and says whether they may be run.
        power_mode: the number that `nvpmodel -m` takes; None leaves it.
        reset: restore instead.
        wait_s: how long to wait where somebody measures there.
        target: how to get there; without it as the description says.

    Raises:
        NeedsRoot: sudo there wants a password.
        QaedgeError: a command failed.
    """
    order = {
        "type": "tune",
        "governor": device.governor or "performance",
        "power_mode": power_mode,
        "reset": reset,
    }
    with AgentSession(device, target or target_for(device), wait_s=wait_s, runtime=False) as session:
        plan = session.ask({**order, "do": False}, frames.Tuned)
        commands, notes = _clean(plan.commands), _clean(plan.notes)
        if commands and not agree(commands):
            return Tuned(commands, False, notes)
        if not commands and not reset:
            return Tuned((), True, notes)
        found = session.ask({**order, "do": True}, frames.Tuned)
    if found.failed:
        raise _failure(device.name, found, _clean(found.commands)[found.ran :])
    return Tuned(commands, True, notes)


def _failure(name: str, found: frames.Tuned, left: Sequence[str]) -> QaedgeError:
    by_hand = "\n".join(["Type there yourself:", *(f"  {command}" for command in left)])
    if found.needs_password:
        return NeedsRoot(f"sudo on {name} wants a password, and qaedge has none to give.", by_hand)
    return MeasurementError(f"A command failed on {name}: {frames.clean(found.failed)[:400]}.", by_hand)


def _clean(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(frames.clean(line) for line in lines)
