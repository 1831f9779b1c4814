"""`qaedge device unlock`: a board given back to the others."""

from __future__ import annotations

from typing import Annotated

import typer

from qaedge import report
from qaedge.cli import options
from qaedge.device import load_device

EXAMPLES = ("qaedge device unlock pi4", "qaedge device unlock pi4 --force")


def run(
    name: options.DeviceName,
    force: Annotated[bool, typer.Option("--force", help="Also where it is somebody else's.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """End the lease that `lock` took. Somebody else's is ended only by --force; what he measures goes on."""
    from qaedge.hil.lease import give_back

    report.note(f"asking {name}", quiet)
    before = give_back(load_device(name), force)
    report.line(f"{name} is free again; {before} had it." if before else f"Nobody had {name} for himself.")
