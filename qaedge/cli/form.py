"""Which form INT8 files take on a device: as its table was measured, else as its processor wants."""

from __future__ import annotations

from collections.abc import Callable

from qaedge.candidate import QuantScheme
from qaedge.device import Device, choose_form
from qaedge.project import Workspace
from qaedge.tables import LatencyTable


def choose_for(device: Device, workspace: Workspace) -> Callable[[int], tuple[str, str]]:
    """Return what gives form and reason for a number of weight bits.

    A file must have the form that was measured, so a table that is there decides; the device is
    only asked where it was never measured. Raises MeasurementError where it cannot be reached.
    """
    measured: dict[int, str] = {}
    for row in LatencyTable.read(workspace.latency_file(device.name), device.name).rows.values():
        text = row.key.split("@")[1]
        if text.startswith("w"):
            measured[QuantScheme.parse(text).weight_bits] = row.form
    asked: list[tuple[frozenset[str], str]] = []

    def choose(weight_bits: int) -> tuple[str, str]:
        if weight_bits in measured:
            return measured[weight_bits], f"as it was measured on {device.name}"
        if not asked:
            from qaedge.hil.profile import open_session

            with open_session(device, lock=False) as session:  # somebody may be measuring there
                asked.append((frozenset(session.hello.cpu_flags), session.hello.arch))
        return choose_form(device, weight_bits, *asked[0])

    return choose
