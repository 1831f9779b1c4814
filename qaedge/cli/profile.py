"""`qaedge profile`: every candidate, and the whole teacher, measured on a device: the latency table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from qaedge import report
from qaedge.artifact import Artifact
from qaedge.borders import borders
from qaedge.cli import options
from qaedge.cli.plan import Plan, plan
from qaedge.cli.resolve import need_nn, note_fake, resolve
from qaedge.cli.rows import measure_loads
from qaedge.cli.slower import Slower, SlowerBits, show, slower_in_fewer_bits, slower_in_integers
from qaedge.device import load_devices, table_name, with_runtime
from qaedge.errors import MeasurementError, UsageError
from qaedge.layer_bits import LayerBits
from qaedge.project import Workspace
from qaedge.runtime import formats_of
from qaedge.space import Block, SearchSpace
from qaedge.tables import LatencyTable, anchor_key
from qaedge.units import format_seconds, parse_seconds

if TYPE_CHECKING:
    from qaedge.hil.fleet import Share
    from qaedge.hil.profile import Failed
    from qaedge.nn.teacher import Teacher

EXAMPLES = (
    "qaedge profile --device local",
    "qaedge profile --device pi4 --runtime both",
    "qaedge profile --device local --repeat 3",
    "qaedge profile --device pi4-a,pi4-b --unstable --json",
)


class BlockRow(msgspec.Struct, frozen=True):
    """A block as it was measured; latencies [s] are without the call (R12), and None where no row is there."""

    block: str
    candidates: int
    measured: int
    fastest_s: float | None
    own_s: float | None
    slowest_s: float | None
    unstable: int


class BorderRow(msgspec.Struct, frozen=True):
    """What lies between two blocks whose activations are of unlike widths [bits], and takes in a network [s].

    `latency_s` is None where no row is there.
    """

    before: int
    after: int
    shape: tuple[int, int, int]
    latency_s: float | None


class Summary(msgspec.Struct, frozen=True):
    """What one run of the command did, and what the table holds then."""

    device: str
    forms: dict[str, str]
    kept: int
    measured: int
    failed: tuple[str, ...]
    teacher_s: float | None
    blocks: tuple[BlockRow, ...]
    boards: tuple[Share, ...] = ()
    format: str = "onnx"
    slower: tuple[Slower, ...] = ()
    slower_bits: tuple[SlowerBits, ...] = ()
    borders: tuple[BorderRow, ...] = ()


def run(
    unstable: Annotated[
        bool, typer.Option("--unstable", help="Measure again, too, what is marked unstable, drifted or disturbed.")
    ] = False,
    repeat: Annotated[
        int,
        typer.Option(
            min=1, max=20, metavar="N", help="Measure each N times, loaded anew and at another time; all samples count."
        ),
    ] = 1,
    no_xnnpack: options.NoXnnpack = False,
    device: options.Devices = None,
    threads: options.Threads = None,
    runtime: options.Runtime = "",
    energy: options.Energy = False,
    meter: options.Meter = "",
    wait: options.Wait = "0s",
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure every candidate of the space, and the whole teacher, on a device.

    Each row is on disk as soon as it is measured, and a second run measures what is missing, or was
    measured in another state of the device (after a reboot, that is all) or while it throttled.
    On a machine that others use, too, --repeat 3 makes predictions truer, for three times the time.
    Several boards of one kind share one table and the work. Needs the extra `nn`.
    """
    wait_s = parse_seconds(wait)
    workspace = Workspace.open(project)
    need_nn()
    from qaedge.hil.fleet import Fleet
    from qaedge.hil.settings import Settings

    described = tuple(with_runtime(one, runtime) for one in load_devices(device or workspace.project.device))
    if threads:  # rows of another number of threads are of another state, and measured anew
        described = tuple(msgspec.structs.replace(one, threads=threads) for one in described)
    if no_xnnpack:
        described = tuple(msgspec.structs.replace(one, tflite_xnnpack=False) for one in described)
    note_fake(described, quiet)
    name = table_name(described)
    if meter and len(described) > 1:
        raise UsageError("--meter reads the supply of one device.", "Name one with --device.")
    settings = Settings(energy=energy or bool(meter), meter=options.words(meter, "--meter"))
    teacher, space = resolve(workspace, untrained=True)
    store = LatencyTable.store(workspace.latency_file(name))
    summaries, failed, total, spoiled = [], [], 0, 0
    with Fleet(described, wait_s=wait_s) as fleet:
        for file_format in formats_of(runtime, described[0].runtimes):
            table = LatencyTable(name, store.rows(), file_format)
            layers = LayerBits.read(workspace, space)
            planned = plan(table, space, described, fleet, unstable, settings.energy, layers, repeat)
            for note in planned.notes():
                report.note(note, quiet)
            artifacts = _export(workspace, teacher, space, planned, quiet)
            before = {share.device: share for share in fleet.shares}
            measured, mine = measure_loads(fleet, artifacts, settings, planned, store.append, repeat, quiet)
            table = LatencyTable(name, store.rows(), file_format)
            summaries.append(summarize(space, table, planned, measured, mine, _since(before, fleet.shares)))
            failed += mine
            total += len(planned.wanted)
            spoiled += sum(row.measurement.is_spoiled for key, row in table.rows.items() if key in planned.wanted)
    if as_json:
        report.json_out(summaries[0] if len(summaries) == 1 else summaries)
    else:
        for summary in summaries:
            _show(summary)
    if spoiled:
        report.warn(
            f"{spoiled} of {total} rows were taken while {name} throttled, and are marked: their times are not "
            "the networks'. Cool it, or give it a better supply, and run the same command again: it measures them anew."
        )
    if failed:
        candidates = "candidate was" if total == 1 else "candidates were"
        raise MeasurementError(
            f"{len(failed)} of {total} {candidates} not measured.",
            "\n".join(f"{f.artifact.name}: {f.error.message}" for f in failed)
            + "\nThe others are in the table, and search leaves these out, or warns where it has older rows of them."
            + _without(space, {f.artifact.name for f in failed}),
        )


def summarize(
    space: SearchSpace,
    table: LatencyTable,
    planned: Plan,
    measured: int,
    failed: Iterable[Failed],
    shares: Iterable[Share] = (),
) -> Summary:
    """Count and compare what the table holds of each block."""
    anchor = table.rows.get(anchor_key(space, str(space.blocks[0].candidates[0].scheme)))
    return Summary(
        device=table.device,
        forms={str(bits): form for bits, (form, _) in planned.forms.items()},
        kept=planned.kept,
        measured=measured,
        failed=tuple(failure.artifact.name for failure in failed),
        teacher_s=anchor.measurement.median_s if anchor else None,
        blocks=tuple(_block_row(block, table) for block in space.blocks),
        boards=tuple(shares),
        format=table.format,
        slower=slower_in_integers(space, table),
        slower_bits=slower_in_fewer_bits(space, table),
        borders=tuple(
            BorderRow(each.before, each.after, each.shape, table.border_s(each) if key in table.rows else None)
            for key, each in borders(space).items()
        ),
    )


def _without(space: SearchSpace, failed: set[str]) -> str:
    """Say what a search does that finds no row of a border; nothing where none failed."""
    if failed.isdisjoint(borders(space)):
        return ""
    return (
        "\nWhat lies between two blocks cannot be left out: search --forbid scheme=SCHEME takes out the candidates "
        "that need it."
    )


def _since(before: dict[str, Share], shares: Iterable[Share]) -> tuple[Share, ...]:
    """What each board did since then."""
    return tuple(
        msgspec.structs.replace(
            share,
            measured=share.measured - (before[share.device].measured if share.device in before else 0),
            losses=share.losses - (before[share.device].losses if share.device in before else 0),
        )
        for share in shares
    )


def _export(
    workspace: Workspace, teacher: Teacher, space: SearchSpace, planned: Plan, quiet: bool
) -> list[tuple[str, Artifact]]:
    from qaedge.nn.candidates import export_candidates

    keys = planned.missing | planned.fewer
    if not keys:
        return []
    steps = export_candidates(workspace, teacher, space, lambda bits: planned.forms[bits], keys, planned.table.format)
    return [step.result for step in report.progress(steps, "exporting", quiet)]


def _block_row(block: Block, table: LatencyTable) -> BlockRow:
    rows = [table.rows[c.key].measurement for c in block.candidates if c.key in table.rows]
    times = [row.inside_s for row in rows]
    own = table.rows.get(block.candidates[0].key)
    return BlockRow(
        block=block.name,
        candidates=len(block.candidates),
        measured=len(rows),
        fastest_s=min(times, default=None),
        own_s=own.measurement.inside_s if own else None,
        slowest_s=max(times, default=None),
        unstable=sum("unstable" in row.doubts for row in rows),
    )


def _show(summary: Summary) -> None:
    def time(value: float | None) -> str | None:
        return None if value is None else format_seconds(value)

    report.table(
        ("block", ">candidates", ">measured", ">fastest", ">teacher's own", ">slowest", ">unstable"),
        [
            (b.block, b.candidates, b.measured, time(b.fastest_s), time(b.own_s), time(b.slowest_s), b.unstable)
            for b in summary.blocks
        ],
        title=f"{summary.device}, {summary.format}",
    )
    if summary.borders:
        times = [each.latency_s for each in summary.borders if each.latency_s is not None]
        taken = f": {format_seconds(min(times))} to {format_seconds(max(times))} each" if times else ""
        report.line(f"{len(times)} of {len(summary.borders)} changes of activation width were measured{taken}")
    show(summary.slower, summary.slower_bits)
    for board in summary.boards:
        if len(summary.boards) > 1 or board.losses or board.given_up:
            lost = f", lost {board.losses} time{'s' if board.losses != 1 else ''}" if board.losses else ""
            ended = ", then given up" if board.given_up else ""
            report.line(f"{board.device}: {board.measured} of {summary.measured} rows{lost}{ended}")
    if summary.teacher_s is not None:
        report.line(f"the whole teacher on {summary.device}, {summary.format}: {format_seconds(summary.teacher_s)}")
