"""`qaedge device lock`: a board for oneself, for a while, without measuring there."""

from __future__ import annotations

from typing import Annotated

import typer

from qaedge import report
from qaedge.cli import options
from qaedge.device import load_device
from qaedge.errors import UsageError
from qaedge.units import parse_seconds

EXAMPLES = ("qaedge device lock pi4", "qaedge device lock pi4 --for 90min")
#: As long as a lease may be [s]; profilers/lease.py has the same.
_LONGEST_S = 7 * 24 * 3600.0


def run(
    name: options.DeviceName,
    time: Annotated[str, typer.Option("--for", metavar="TIME", help="For how long from now on.")] = "30min",
    wait: options.Wait = "0s",
    quiet: options.Quiet = False,
) -> None:
    """Keep a board for yourself: others' measurements there wait, or say who has it. Yours still run.

    The board itself keeps the lease; it ends with its time, with `unlock`, or when the board starts anew.
    """
    from qaedge.hil.lease import take

    seconds = parse_seconds(time)
    if not 1 <= seconds <= _LONGEST_S:
        raise UsageError(f"--for {time} is not between a second and a week.", "Write it like 30min.")
    report.note(f"asking {name}", quiet)
    owner = take(load_device(name), seconds, parse_seconds(wait))
    report.line(f"{name} is yours ({owner}) for {time}.")
    report.note(f"To give it back earlier: qaedge device unlock {name}", quiet)
