"""`qaedge device tune`: governor and clocks as measuring wants them, each command shown first."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from qaedge import report
from qaedge.cli import options
from qaedge.device import load_device
from qaedge.errors import UsageError
from qaedge.units import parse_seconds

EXAMPLES = ("qaedge device tune pi4", "qaedge device tune orin --power-mode 0 --yes")


def run(
    name: options.DeviceName,
    power_mode: Annotated[
        int | None,
        typer.Option(
            "--power-mode", metavar="N", min=0, help="On a Jetson, the mode for nvpmodel -m; unset: as it is."
        ),
    ] = None,
    yes: options.Yes = False,
    wait: options.Wait = "0s",
    quiet: options.Quiet = False,
) -> None:
    """Set a board's governor and, on a Jetson, its clocks, until `reset` or its next start.

    Shows each command and asks first. The only command besides `reset` that asks for root there, by
    sudo; what it finds is kept on the board.
    """
    from qaedge.hil.tune import tune

    device = load_device(name)
    report.note(f"looking at {name}", quiet)
    done = tune(device, asker(name, yes), power_mode=power_mode, wait_s=parse_seconds(wait))
    for note in done.notes:
        report.note(note)
    if not done.commands:
        report.line(f"Nothing to do on {name}.")
    elif done.done:
        report.line(f"{name} is tuned.")
        report.note(f"To restore what was there: qaedge device reset {name}", quiet)
    else:
        report.line("Nothing was done.")


def asker(name: str, yes: bool) -> Callable[[Sequence[str]], bool]:
    """Return what shows commands and asks whether they may be run on that device."""

    def agree(commands: Sequence[str]) -> bool:
        report.line(f"On {name}:")
        for command in commands:
            report.line(f"  {command}")
        if yes:
            return True
        if not sys.stdin.isatty():
            raise UsageError("Nobody can be asked whether to run these.", "Add --yes.")
        return typer.confirm("Run these?", err=True)

    return agree
