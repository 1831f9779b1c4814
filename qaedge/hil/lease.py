"""Leases, from the host: a device for oneself for a while, kept by the device itself."""

from __future__ import annotations

from qaedge.device import Device
from qaedge.hil import frames
from qaedge.hil.agent import AgentSession, leased, owner
from qaedge.hil.connect import target_for
from qaedge.hil.target import Target


def take(device: Device, seconds: float, wait_s: float = 0.0, target: Target | None = None) -> str:
    """Have a device for so long; return under which name. Raises DeviceBusy where somebody else has it, or measures."""
    with AgentSession(device, target or target_for(device), wait_s=wait_s, runtime=False) as session:
        held = _ask(session, seconds=seconds, force=False)
    if held.get("owner") != owner():
        raise leased(device.name, {"owner": "Somebody", **held})
    return owner()


def give_back(device: Device, force: bool = False, target: Target | None = None) -> str:
    """End the lease on a device; return whose it was, or nothing. Raises DeviceBusy where it is somebody else's."""
    with AgentSession(device, target or target_for(device), lock=False, runtime=False) as session:
        found = session.ask({"type": "board", "device": device.name}, frames.Board)
        held = _ask(session, seconds=0, force=force)
    if held:
        raise leased(device.name, {"owner": "Somebody", **held})
    return frames.clean(found.lease.get("owner", ""))


def _ask(session: AgentSession, **values: object) -> dict[str, str]:
    message = {"type": "lease", "device": session.device.name, "owner": owner(), **values}
    answer = session.ask(message, frames.Leased)
    return {frames.clean(key): frames.clean(text) for key, text in answer.holder.items()}
