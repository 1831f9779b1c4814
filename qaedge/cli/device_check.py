"""`qaedge device check`: whether what is measured on a board would be true, and what to do where not."""

from __future__ import annotations

import typer

from qaedge import report
from qaedge.cli import options
from qaedge.device import load_device

EXAMPLES = ("qaedge device check pi4", "qaedge device check local --json")


def run(name: options.DeviceName, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Look a board over: connection, software, clocks, heat, supply, space, load; say what to do for each.

    Exit status 1 where something is bad: what would be measured there now would not be true.
    """
    from qaedge.hil.doctor import BAD, NOTE, PAGE, examine

    device = load_device(name)
    report.note(f"looking at {name}", quiet)
    findings = examine(device)
    bad = sum(found.verdict == BAD for found in findings)
    if as_json:
        report.json_out(findings)
    else:
        report.table(
            ("what", "found", "verdict"), [(found.what, _one_line(found.found), found.verdict) for found in findings]
        )
        for found in findings:
            if found.verdict in (NOTE, BAD):
                report.line(f"{found.verdict}: {found.what}. {_one_line(found.advice)}".rstrip())
                report.line(f"  See {PAGE}, {found.see!r}.")
        notes = sum(found.verdict == NOTE for found in findings)
        if bad:
            report.line(f"{name} is not fit for measuring: {bad} bad, {notes} to note.")
        else:
            report.line(f"{name} is fit for measuring{f'; {notes} to note' if notes else ''}.")
    if bad:
        raise typer.Exit(1)


def _one_line(text: str) -> str:
    return " ".join(text.split())
