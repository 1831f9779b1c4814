"""Flags that several commands share, so that they are called and explained the same everywhere."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from qaedge.errors import UsageError


def words(text: str, flag: str) -> tuple[str, ...]:
    """Split a command line as a shell does; raise UsageError where a quote is left open."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"{flag} {text!r} is no command line: {error}.", "Close the quote.") from error


Project = Annotated[
    Path | None,
    typer.Option("--project", metavar="FILE", help="The project file.  [default: ./qaedge.toml]", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes; warnings and errors remain.")]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", help="Where to measure.  [default: the project's]", show_default=False),
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME[,NAME...]",
        help="Where to measure; several boards of one kind share the work.  [default: the project's]",
        show_default=False,
    ),
]
DeviceName = Annotated[str, typer.Argument(metavar="NAME", help="The device.")]
ForDevice = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", help="For which device.  [default: the project's]", show_default=False),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", min=1, metavar="N", help="Threads per inference.  [default: the device's]", show_default=False
    ),
]
NoXnnpack = Annotated[bool, typer.Option("--no-xnnpack", help="Let TFLite run every operator itself, without XNNPACK.")]
Wait = Annotated[
    str, typer.Option("--wait", metavar="TIME", help="How long to wait where somebody else measures, such as 5min.")
]
Runtime = Annotated[
    str,
    typer.Option(
        "--runtime",
        metavar="NAME",
        help="Measure with this runtime, or those of a format.  [default: the first of the device's that is there]",
        show_default=False,
    ),
]
Energy = Annotated[
    bool, typer.Option("--energy", help="Measure energy per inference, too: about 10 s more for each file.")
]
Meter = Annotated[
    str,
    typer.Option(
        "--meter",
        metavar="COMMAND",
        help="Take power from this command's output, and not from the board's own sensor.",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
