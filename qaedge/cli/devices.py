"""`qaedge devices`: the devices that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from qaedge import report
from qaedge.cli import options
from qaedge.device import Device, known_devices, load_device
from qaedge.errors import QaedgeError
from qaedge.project import FILE_NAME, Workspace
from qaedge.tables import LatencyTable

EXAMPLES = ("qaedge devices", "qaedge devices --state --json")


class Row(msgspec.Struct, frozen=True):
    """A device as it is listed; None where it is not known, or was not asked for.

    `error` says why a description cannot be read; of such a device only name and file are known.
    """

    name: str
    description: str
    connection: str
    address: str | None
    arch: str
    runtimes: tuple[str, ...]
    file: str
    measured_rows: int | None
    state: str | None = None
    why: str | None = None
    error: str | None = None


def run(
    state: Annotated[
        bool,
        typer.Option("--state", help="Connect to each, and say whether it is free; without it no network is used."),
    ] = False,
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List the devices that are known, where they are, and what was measured on each.

    Descriptions are looked for in ./devices first and then among those that come with qaedge.
    """
    inside = project is not None or Path(FILE_NAME).exists()
    workspace = Workspace.open(project) if inside else None
    found, readable, broken = _look(workspace)
    if state:
        found = _with_states(found, readable, quiet)
    if as_json:
        report.json_out(found)
    else:
        _show(found, state)
        if workspace is None:
            report.note(f"No ./{FILE_NAME} here, so nothing is said about what was measured.", quiet)
    if broken:
        raise QaedgeError(
            f"{len(broken)} description{'s' if len(broken) > 1 else ''} cannot be read: {', '.join(broken)}.",
            "\n".join(f"{error.message} {error.hint}".strip() for error in broken.values()),
        )


def _look(workspace: Workspace | None) -> tuple[list[Row], list[Device], dict[str, QaedgeError]]:
    """Return a row for each description, those that can be read, and what is wrong with the others."""
    rows, readable, broken = [], [], {}
    for name, path in known_devices().items():
        try:
            device = load_device(name)
        except QaedgeError as error:
            broken[name] = error
            rows.append(Row(name, "(cannot be read)", "", None, "", (), str(path), None, error=error.message))
            continue
        readable.append(device)
        rows.append(_row(device, path, workspace))
    return rows, readable, broken


def _show(found: list[Row], state: bool) -> None:
    extra = ("state",) if state else ()
    report.table(
        ("device", "description", "connection", "address", "arch", "runtimes", ">measured", *extra, "file"),
        [
            (
                d.name,
                d.description,
                d.connection,
                d.address,
                d.arch,
                ", ".join(d.runtimes),
                d.measured_rows,
                *([_state(d)] if state else []),
                d.file,
            )
            for d in found
        ],
    )


def _row(device: Device, path: Path, workspace: Workspace | None) -> Row:
    measured = None
    if workspace is not None:
        table = LatencyTable.store(workspace.latency_file(device.name)).rows()
        measured = len(LatencyTable(device.name, table).rows)
    return Row(
        device.name,
        device.description,
        device.connection,
        _address(device),
        device.arch,
        device.runtimes,
        str(path),
        measured,
    )


def _address(device: Device) -> str | None:
    """Return where a device is, as its own file or ssh's say; None where neither does."""
    own = device.ssh is not None and device.ssh.host
    if device.connection != "ssh" or not (own or (Path.home() / ".ssh" / "config").exists()):
        return None
    from qaedge.hil.address import address_of  # paramiko takes a tenth of a second to import

    try:
        return str(address_of(device))
    except QaedgeError:
        return None


def _with_states(rows: list[Row], devices: list[Device], quiet: bool) -> list[Row]:
    """Ask those devices that are somewhere; a fake board is always there, and one without an address nowhere."""
    from qaedge.hil.state import states

    somewhere = {row.name for row in rows if row.address is not None or row.connection == "local"}
    asked = [device for device in devices if device.name in somewhere]
    report.note(f"asking {', '.join(device.name for device in asked)}", quiet)
    found = states(asked)
    return [
        msgspec.structs.replace(row, state=found[row.name].state, why=found[row.name].why or None)
        if row.name in found
        else row
        for row in rows
    ]


def _state(row: Row) -> str | None:
    return f"{row.state} ({row.why})" if row.why else row.state
