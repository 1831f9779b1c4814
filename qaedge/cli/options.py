"""Flags that several commands share, so that they are called and explained the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
Wait = Annotated[
    str, typer.Option("--wait", metavar="TIME", help="How long to wait where somebody else measures, such as 5min.")
]
