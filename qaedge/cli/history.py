"""`qaedge history`: what models took over commits, and the steps that stay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qaedge import report
from qaedge.cli import options
from qaedge.errors import InvalidFile, MissingFile
from qaedge.units import format_seconds

EXAMPLES = ("qaedge history history.jsonl", "qaedge history history.jsonl --plot history.png --threshold 5%")


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `qaedge bench --suite ... --history FILE` wrote.")],
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw it as PNG; needs the extra nn.", show_default=False),
    ] = None,
    threshold: Annotated[str, typer.Option(metavar="SHARE", help="The least step that is told.")] = "3%",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List the steps in a history that stay, and whose they are: the model's, the runtime's, or the board's."""
    from qaedge.regression.compare import parse_threshold
    from qaedge.regression.history import history_store, series_of
    from qaedge.regression.writers.history_plot import history_plot

    least = parse_threshold(threshold)
    if not file.exists():
        raise MissingFile(f"No file {file}.", "Runs write it: qaedge bench --suite benchmarks.toml --history FILE")
    found = series_of(history_store(file).rows(), least)
    if not found:
        raise InvalidFile(file, "", "at least one run", "none")
    if plot is not None:
        history_plot(plot, found)
        report.note(f"drawn: {plot}", quiet)
    if as_json:
        report.json_out(
            [
                {"model": s.model, "device": s.device, "runtime": s.runtime, "runs": len(s.points), "steps": s.jumps}
                for s in found
            ]
        )
        return
    report.table(
        ("model", "device", "runtime", ">runs", ">now", ">steps"),
        [
            (s.model, s.device, s.runtime, len(s.points), format_seconds(s.points[-1].median_ns * 1e-9), len(s.jumps))
            for s in found
        ],
    )
    for series in found:
        for jump in series.jumps:
            change = (
                f"{format_seconds(jump.before_s)} to {format_seconds(jump.after_s)}, {100 * (jump.ratio - 1):+.1f} %"
            )
            why = f" ({jump.why})" if jump.why else ""
            report.line(
                f"{series.model} on {series.device} at {jump.commit or jump.at}: {change}: the {jump.whose}{why}"
            )
