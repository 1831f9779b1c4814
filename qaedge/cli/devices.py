"""`qaedge devices`: the devices that are known."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qaedge import report
from qaedge.cli import options
from qaedge.device import known_devices, load_device
from qaedge.project import FILE_NAME, Workspace
from qaedge.tables import LatencyTable

EXAMPLES = ("qaedge devices", "qaedge devices --json")


class Row(msgspec.Struct, frozen=True):
    """A device as it is listed; `measured_rows` is None outside a project."""

    name: str
    description: str
    arch: str
    runtimes: tuple[str, ...]
    file: str
    measured_rows: int | None


def run(project: options.Project = None, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List the devices that are known, and what was measured on each.

    Descriptions are looked for in ./devices first and then among those that come with qaedge.
    """
    inside = project is not None or Path(FILE_NAME).exists()
    workspace = Workspace.open(project) if inside else None
    found = [_row(name, path, workspace) for name, path in known_devices().items()]
    if as_json:
        report.json_out(found)
        return
    report.table(
        ("device", "description", "arch", "runtimes", ">measured", "file"),
        [(d.name, d.description, d.arch, ", ".join(d.runtimes), d.measured_rows, d.file) for d in found],
    )
    if workspace is None:
        report.note(f"No ./{FILE_NAME} here, so nothing is said about what was measured.", quiet)


def _row(name: str, path: Path, workspace: Workspace | None) -> Row:
    device = load_device(name)
    measured = None
    if workspace is not None:
        measured = len(LatencyTable(name, LatencyTable.store(workspace.latency_file(name)).rows()).rows)
    return Row(name, device.description, device.arch, device.runtimes, str(path), measured)
