"""`qaedge table check`: predicted against measured, on networks that the table has not learned from."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from qaedge import plots, report
from qaedge.cli import options
from qaedge.cli.loss_check import check_losses
from qaedge.cli.plan import SHAKY
from qaedge.cli.resolve import saved_space
from qaedge.cli.whole import SCALE, WholeNetworks
from qaedge.device import load_devices, table_name
from qaedge.errors import MeasurementError, NotMeasured, UsageError
from qaedge.fit import Fit
from qaedge.measurement import Measurement
from qaedge.network_key import HELD_OUT
from qaedge.predictions import Prediction, Predictions
from qaedge.probes import held_out
from qaedge.project import Workspace
from qaedge.runtime import FORMATS
from qaedge.space import SearchSpace
from qaedge.tables import LatencyRow, LatencyTable
from qaedge.units import format_seconds, parse_seconds

EXAMPLES = (
    "qaedge table check --device pi4",
    "qaedge table check --device pi4 --networks 40 --plot predicted.png",
    "qaedge table check --device pi4 --networks 0 --json",
    "qaedge table check --loss --networks 30 --plot ranked.png",
)

#: Networks of which a share within five percent means something.
NETWORKS = 16
#: More than this would take days.
MOST = 100_000


class Checked(msgspec.Struct, frozen=True):
    """How true a table of one format is: shares of the measured latency, and the teacher measured once more.

    `repeatability` is by how much a network's own measurement differs from itself, the median over networks: between
    repetitions where there are any, else the standard error over rounds. No prediction can be shown to be better.
    `teacher_again` is what the teacher took beside them over what the table has; their
    times are scaled by that, since a machine that is slower as a whole says nothing against a table.
    """

    device: str
    format: str
    n: int
    mape: float
    bias: float
    within_5: float
    within_10: float
    spearman: float | None
    worst: Prediction
    repeatability: float
    teacher_again: float | None
    fit: Fit
    networks: tuple[Prediction, ...]


def run(
    networks: Annotated[
        int,
        typer.Option(min=0, max=MOST, metavar="N", help="Hold so many random networks against it; 0: those there."),
    ] = NETWORKS,
    seed: Annotated[int, typer.Option(min=0, help="Which networks are drawn.")] = 0,
    anew: Annotated[bool, typer.Option("--anew", help="Measure again, too, what was measured before.")] = False,
    unstable: Annotated[
        bool, typer.Option("--unstable", help="Measure again, too, what is marked unstable, drifted or disturbed.")
    ] = False,
    repeat: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Measure each so often, loaded anew each time; all samples count."),
    ] = 1,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw predicted against measured as PNG.")] = None,
    loss: Annotated[
        bool,
        typer.Option(
            "--loss", help="Hold the loss table against networks that are assembled and run over validation images."
        ),
    ] = False,
    images: Annotated[
        int | None,
        typer.Option("--images", min=1, metavar="N", help="With --loss: so many.  [default: all]", show_default=False),
    ] = None,
    runtime: Annotated[
        str,
        typer.Option("--runtime", metavar="NAME", help="onnx, tflite or both.  [default: what was measured there]"),
    ] = "",
    device: options.ForDevice = None,
    wait: options.Wait = "0s",
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure random whole networks on a device, and hold them against what the table predicts.

    They are kept apart from the networks that predictions learn from, so the error is that of a network which
    the table has never seen. What was measured before is not measured again. With --loss the networks have
    their distilled weights, are not fine-tuned, and are run on this machine. Needs the extra `nn`.
    """
    workspace = Workspace.open(project)
    wait_s = parse_seconds(wait)
    if images and not loss:
        raise UsageError("--images is of --loss.", "Add --loss, or drop --images.")
    if loss:
        if runtime or repeat > 1 or unstable:
            raise UsageError(
                "--loss judges on this machine, and measures no time.", "Drop --runtime, --repeat and --unstable."
            )
        where = device or workspace.project.device
        check_losses(workspace, networks, seed, images, anew, plot, where, as_json, quiet)
        return
    devices = device or workspace.project.device
    name = table_name(load_devices(devices))
    space = saved_space(workspace)
    formats = _formats(workspace, name, runtime)
    wanted = dict(itertools.islice(held_out(space, seed), networks))
    tables = {kind: LatencyTable.read(workspace.latency_file(name), name, kind) for kind in formats}
    # Rows that stay, by format; those of fewer loads than are asked for are gone on with.
    stay = {
        kind: {
            key: table.rows[key]
            for key in wanted
            if not anew and key in table.rows and not (unstable and _is_shaky(table.rows[key]))
        }
        for kind, table in tables.items()
    }
    done = {kind: {key for key, row in rows.items() if row.measurement.loads >= repeat} for kind, rows in stay.items()}
    if any(wanted.keys() - keys for keys in done.values()):
        with WholeNetworks(workspace, devices, wait_s, quiet) as held:
            for kind, rows in stay.items():
                failed = held.repeat(kind, wanted, repeat, rows)
                if failed:
                    raise MeasurementError(
                        f"{len(failed)} of {len(wanted)} networks were not measured.",
                        "\n".join(f"{one.artifact.name}: {one.error.message}" for one in failed)
                        + "\nThe others are in the table; run the same command again.",
                    )
                tables[kind] = held.table(kind)
    found = [checked for kind in formats if (checked := check(tables[kind], space))]
    if not found:
        raise NotMeasured(
            f"No random network was measured on {name}.", f"Run: qaedge table check --device {name} --networks 16"
        )
    for each, path in zip(found, _files(plot, found), strict=False):
        plots.predicted_plot(
            path,
            [(row.measured_s, row.predicted_s) for row in each.networks],
            title=f"{space.name} on {each.device}, {each.format}: {each.n} networks held out",
        )
    if as_json:
        report.json_out(found[0] if len(found) == 1 else found)
        return
    _show(found)
    for path in _files(plot, found):
        report.line(f"wrote {path}")


def _spread(found: Measurement) -> float:
    """Return by what share a measurement differs from itself: between repetitions where there are any, else rounds."""
    times = found.load_medians_s
    return statistics.stdev(times) / statistics.fmean(times) if len(times) > 1 else found.error_s / found.median_s


def _is_shaky(row: LatencyRow) -> bool:
    return not SHAKY.isdisjoint(row.measurement.doubts)


def check(table: LatencyTable, space: SearchSpace) -> Checked | None:
    """Hold the networks that a table has not learned from against it; None where it holds none."""
    found = Predictions.of(table, space)
    if found is None:
        return None
    scales = [row.measurement.conditions.get(SCALE) for _, row in table.networks(space, HELD_OUT)]
    known = [1 / float(scale) for scale in scales if scale]
    return Checked(
        device=table.device,
        format=table.format,
        n=len(found.rows),
        mape=found.mape,
        bias=found.bias,
        within_5=found.within(0.05),
        within_10=found.within(0.10),
        spearman=found.spearman,
        worst=found.worst,
        repeatability=statistics.median(_spread(row.measurement) for _, row in table.networks(space, HELD_OUT)),
        teacher_again=statistics.median(known) if known else None,
        fit=table.fit(space),
        networks=found.rows,
    )


def _formats(workspace: Workspace, device: str, runtime: str) -> tuple[str, ...]:
    there = tuple(kind for kind in FORMATS if LatencyTable.read(workspace.latency_file(device), device, kind).rows)
    if runtime in ("", "both"):
        if not there or (runtime and len(there) < len(FORMATS)):
            absent = next(kind for kind in FORMATS if kind not in there)
            raise NotMeasured(f"{device} has no table of {absent} files.", _command(device, absent))
        return there
    if runtime not in FORMATS:
        raise UsageError(f"--runtime {runtime!r} is none.", f"Known: {', '.join(FORMATS)}, both.")
    if runtime not in there:
        raise NotMeasured(f"{device} has no table of {runtime} files.", _command(device, runtime))
    return (runtime,)


def _command(device: str, file_format: str) -> str:
    return f"Run: {LatencyTable(device, [], file_format).command}"


def _files(plot: Path | None, found: list[Checked]) -> list[Path]:
    """Return a file for each picture: of several formats, each has its name in it."""
    if plot is None:
        return []
    if len(found) == 1:
        return [plot]
    return [plot.with_name(f"{plot.stem}-{each.format}{plot.suffix}") for each in found]


def _show(found: list[Checked]) -> None:
    report.table(
        ("table", ">networks", ">MAPE", ">in common", ">within 5 %", ">within 10 %", ">Spearman", ">worst", ">repeats"),
        [
            (
                f"{one.device}, {one.format}",
                one.n,
                f"{100 * one.mape:.1f} %",
                f"{100 * one.bias:+.1f} %",
                f"{100 * one.within_5:.0f} %",
                f"{100 * one.within_10:.0f} %",
                f"{one.spearman:.3f}" if one.spearman is not None else None,
                f"{100 * one.worst.off:+.1f} %",
                f"±{100 * one.repeatability:.1f} %",
            )
            for one in found
        ],
    )
    report.line()
    for one in found:
        fitted = one.fit
        report.line(
            f"{one.device}, {one.format}: predictions learned from {fitted.networks} whole networks "
            f"({fitted.model}, slope {fitted.common_slope:.3f}, {fitted.statistic}), "
            f"error {100 * fitted.relative_error:.1f} %; worst network {one.worst.network}: predicted "
            f"{format_seconds(one.worst.predicted_s)} ± {format_seconds(one.worst.error_s)}, measured "
            f"{format_seconds(one.worst.measured_s)}."
        )
        if one.teacher_again is not None:
            report.line(
                f"{one.device}, {one.format}: the teacher, measured in turn with them, took "
                f"{100 * one.teacher_again:.1f} % of what the table has; their times are scaled to that."
            )
