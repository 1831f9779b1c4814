"""`qaedge device setup`: the pinned runtimes, in a private environment on the board."""

from __future__ import annotations

from typing import Annotated

import typer

from qaedge import report
from qaedge.cli import options
from qaedge.device import load_device
from qaedge.units import parse_seconds

EXAMPLES = ("qaedge device setup pi4", "qaedge device setup pi4 --offline")


def run(
    name: options.DeviceName,
    offline: Annotated[
        bool, typer.Option("--offline", help="Let this machine fetch and send everything, also where the board could.")
    ] = False,
    runtime: Annotated[
        list[str] | None,
        typer.Option("--runtime", metavar="NAME", help="Install only this one; may be given more than once."),
    ] = None,
    wait: options.Wait = "0s",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Install the pinned runtimes on a board, in ~/.qaedge/venv there; root is not needed.

    A board without internet gets everything from this machine. A second run does nothing, and an
    installation that fails leaves what was there before.
    """
    from qaedge.hil.install import SetUp, set_up

    device = load_device(name)
    if device.connection != "ssh":
        report.note(f"{name} is measured with the Python that runs qaedge; there is nothing to set up.", quiet)
        return
    done: SetUp | None = None
    steps = set_up(device, runtime or (), offline, parse_seconds(wait))
    for step in report.progress(steps, f"setting up {name}", quiet):
        done = step.result
    assert done is not None
    if as_json:
        report.json_out(done)
        return
    report.line(f"{name} was set up {done.way}." if done.done else f"{name} is up to date; nothing was done.")
    report.table(("package", "version"), sorted(done.versions.items()), f"Python {done.python}, {done.folder}")
    report.note(f"Next: qaedge device check {name}", quiet)
