"""`qaedge device reset`: what `tune` found, restored."""

from __future__ import annotations

from qaedge import report
from qaedge.cli import options
from qaedge.cli.device_tune import asker
from qaedge.device import load_device
from qaedge.units import parse_seconds

EXAMPLES = ("qaedge device reset pi4", "qaedge device reset pi4 --yes")


def run(
    name: options.DeviceName,
    yes: options.Yes = False,
    wait: options.Wait = "0s",
    quiet: options.Quiet = False,
) -> None:
    """Restore the governor, clocks and power mode that `tune` found on a board, whoever ran it."""
    from qaedge.hil.tune import tune

    report.note(f"looking at {name}", quiet)
    done = tune(load_device(name), asker(name, yes), reset=True, wait_s=parse_seconds(wait))
    for note in done.notes:
        report.note(note)
    if not done.commands:
        report.line(f"Nothing to do on {name}.")
    else:
        report.line(f"{name} is as it was." if done.done else "Nothing was done.")
