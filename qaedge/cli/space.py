"""`qaedge space`: how large the search space is, and what is still to be measured in it."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from qaedge import report
from qaedge.borders import borders
from qaedge.cli import options
from qaedge.cli.resolve import current_space
from qaedge.cli.steps import show_steps, steps_of
from qaedge.device import known_devices, load_devices, table_name
from qaedge.errors import NotMeasured
from qaedge.gains import StepGain
from qaedge.project import Workspace
from qaedge.runtime import FORMATS
from qaedge.space import SearchSpace
from qaedge.tables import LatencyTable, LossTable, anchor_key, table_keys

EXAMPLES = ("qaedge space", "qaedge space --gains", "qaedge space --json")


class BlockRow(msgspec.Struct, frozen=True):
    """A block as it is listed: shapes (channels, height, width), and rows missing in each table."""

    block: str
    input_shape: tuple[int, int, int]
    output_shape: tuple[int, int, int]
    candidates: int
    schemes: tuple[str, ...]
    missing_loss: int
    missing_latency: dict[str, int]


class Listing(msgspec.Struct, frozen=True):
    """The whole space as it is listed; `missing_teacher` counts, by device, the schemes it was not measured in.

    `missing_borders` counts the changes of activation width that were not; empty where the space has none.
    `steps` are what each step of quantization did, as the loss table has it.
    """

    space: str
    hash: str
    teacher: str
    networks: int
    candidates: int
    unique_candidates: int
    missing_loss: int
    missing_latency: dict[str, int]
    missing_teacher: dict[str, int]
    blocks: tuple[BlockRow, ...]
    steps: tuple[StepGain, ...] = ()
    missing_borders: dict[str, int] = {}


def run(
    context: typer.Context,
    gains: Annotated[
        bool, typer.Option("--gains", help="Show what each step of quantization gains, scheme by scheme, and no more.")
    ] = False,
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List the search space: candidates per block, networks in all, rows missing in each table.

    The space file is resolved against the teacher where anything changed since the last time; that
    needs the extra `nn`.
    """
    if context.invoked_subcommand is not None:  # `qaedge space check`
        return
    workspace = Workspace.open(project)
    listing = look(workspace, current_space(workspace))
    if as_json:
        report.json_out(listing)
        return
    if gains:
        if not listing.steps:
            raise NotMeasured("No candidate of this space was quantized yet.", "Run: qaedge distill")
        if not show_steps(listing.steps):
            report.line("Every candidate was rounded to the nearest, and no further step was taken.")
        return
    devices = list(listing.missing_latency)
    headings = ("block", "in", "out", ">candidates", "schemes", ">loss missing", *(f">{d} missing" for d in devices))
    report.table(
        headings,
        [
            (
                row.block,
                _shape(row.input_shape),
                _shape(row.output_shape),
                row.candidates,
                ", ".join(row.schemes),
                row.missing_loss,
                *(row.missing_latency[d] for d in devices),
            )
            for row in listing.blocks
        ],
        title=f"space {listing.space} ({listing.hash})",
    )
    report.line(
        f"{listing.networks:,} networks from {listing.candidates} candidates, "
        f"{listing.unique_candidates} of them different."
    )
    if listing.missing_loss:
        report.note(f"{listing.missing_loss} block losses are missing: qaedge distill", quiet)
    for device in devices:
        missing = listing.missing_latency[device] + listing.missing_teacher[device]
        missing += listing.missing_borders.get(device, 0)
        if missing:
            report.note(
                f"{missing} latencies are missing on {device}, or of another state of it: "
                f"qaedge profile --device {device.replace(' as ', ' --runtime ')}",
                quiet,
            )


def look(workspace: Workspace, space: SearchSpace) -> Listing:
    """Count what is there and what is missing, for the project's device and each that was measured on.

    A latency that was measured in another state of the device than the newest counts as missing.
    """
    losses = LossTable(LossTable.store(workspace.loss_file(space.origin)).rows())
    wanted = workspace.project.device
    # Boards that share the work share a table; one alone may be unknown here, as where it is not set up yet.
    names = [table_name(load_devices(wanted)) if "," in wanted else wanted]
    names += [name for name in known_devices() if name not in names and workspace.latency_file(name).exists()]
    tables = {}
    for name in names:
        stored = list(LatencyTable.store(workspace.latency_file(name)).rows())
        # A device has a table for each format that was measured on it; the usual one is missed where there is none.
        formats = [f for f in FORMATS if any(row.format == f for row in stored)] or [*FORMATS[:1]]
        for file_format in formats:
            table = LatencyTable(name, stored, file_format)
            tables[f"{name}{table.as_format}"] = table
    there = {name: table.rows.keys() - table.mixed(table_keys(space)).keys() for name, table in tables.items()}
    unique = {candidate.key for candidate in space.unique()}
    schemes = {str(candidate.scheme) for candidate in space.unique()}
    changes = borders(space).keys()
    blocks = tuple(
        BlockRow(
            block=block.name,
            input_shape=block.input_shape,
            output_shape=block.output_shape,
            candidates=len(block.candidates),
            schemes=tuple(dict.fromkeys(str(c.scheme) for c in block.candidates)),
            missing_loss=sum(not losses.has(block.name, c) for c in block.candidates),
            missing_latency={n: sum(c.key not in keys for c in block.candidates) for n, keys in there.items()},
        )
        for block in space.blocks
    )
    return Listing(
        space=space.name,
        hash=space.hash,
        teacher=space.teacher,
        networks=space.networks,
        candidates=sum(row.candidates for row in blocks),
        unique_candidates=len(unique),
        missing_loss=sum(row.missing_loss for row in blocks),
        missing_latency={name: len(unique - keys) for name, keys in there.items()},
        missing_teacher={
            name: sum(anchor_key(space, scheme) not in keys for scheme in schemes) for name, keys in there.items()
        },
        blocks=blocks,
        steps=tuple(steps_of(space, losses)),
        missing_borders={name: len(changes - keys) for name, keys in there.items()} if changes else {},
    )


def _shape(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))
