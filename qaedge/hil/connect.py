"""Connecting: from a device's description to a target."""

from __future__ import annotations

from qaedge.device import Device
from qaedge.hil.target import LocalTarget, Target


def target_for(device: Device) -> Target:
    """Return the target that a device's `connection` names; raise what is wrong with it."""
    if device.connection == "ssh":
        # paramiko takes a tenth of a second to import, and most devices are this machine.
        from qaedge.hil.address import address_of
        from qaedge.hil.ssh import SshTarget

        return SshTarget(address_of(device), device.python)
    if device.connection == "fake":
        from qaedge.hil.fake import fake_target

        return fake_target(device)
    return LocalTarget(device.python) if device.python else LocalTarget()
