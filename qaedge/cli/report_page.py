"""`qaedge report`: one HTML page of what the tables, the search and the measured networks say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from qaedge import report
from qaedge.architecture import Architecture
from qaedge.cli import options
from qaedge.cli.pictures import TEACHER, Released, pictures_of, released
from qaedge.cli.resolve import note_fake, saved_space
from qaedge.cli.search import MARGIN
from qaedge.device import load_devices, table_name
from qaedge.errors import UsageError
from qaedge.files import write_atomic
from qaedge.influence import Influence
from qaedge.project import Workspace
from qaedge.runtime import FORMATS
from qaedge.tables import LatencyTable, LossTable
from qaedge.units import format_bytes

if TYPE_CHECKING:
    from qaedge.page.content import Content
    from qaedge.space import SearchSpace

EXAMPLES = (
    "qaedge report student.json",
    "qaedge report --latency 75% --latency 50% --output report.html",
    "qaedge report student.json --device pi4 --png figures",
)


def run(
    architectures: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="ARCH",
            help="Networks that `qaedge search --output` saved.  [default: none]",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page.")] = Path("report.html"),
    latency: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIMIT",
            help="Show the best network within this, too, such as 25ms or 75%; repeatable.",
            show_default=False,
        ),
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Draw every plot as PNG into this folder, too.", show_default=False),
    ] = None,
    images: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Run the networks on a few validation images.")
    ] = True,
    device: options.ForDevice = None,
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write one HTML page: the front, the networks chosen, pictures, candidates, conditions.

    It opens without a server or a network. What is not there yet, such as a student that was not built,
    is said on the page. Needs the extra `page`; for pictures `nn`, too.
    """
    from qaedge.page.collect import Source, collect
    from qaedge.page.figures import figures
    from qaedge.page.html import page, plotly_code

    plotly_code()  # before any work: it may not be installed
    workspace = Workspace.open(project)
    devices = load_devices(device or workspace.project.device)
    note_fake(devices, quiet)
    name = table_name(devices)
    space = saved_space(workspace)
    chosen, origins = _architectures(tuple(architectures or ()), space)
    teacher, files = _released(workspace, space, chosen, origins)
    tables = (LatencyTable.read(workspace.latency_file(name), name, each) for each in FORMATS)
    source = Source(
        space,
        LossTable(LossTable.store(workspace.loss_file(space.origin)).rows()),
        tuple(table for table in tables if table.rows),
        name,
        devices[0].description,
        chosen,
        {each: path.name for each, path in origins.items()},
        tuple(latency or ()),
        {each: next(iter(files[each].values())).built for each in chosen if files[each]},
        {suffix: each.built for suffix, each in teacher.items()},
        Influence.read(workspace.loss_file(space.origin), space),
        MARGIN,
    )
    content = report.result_of(collect(source), "collecting", quiet)
    if any(each.connection == "fake" for each in devices):
        content = msgspec.structs.replace(
            content, warnings=(f"{name} is a fake board: its numbers are made up.", *content.warnings)
        )
    if images:
        content = _with_pictures(content, workspace, [(TEACHER, teacher), *files.items()], quiet)
    written = page(content).encode()
    write_atomic(output, written)
    drawn = figures(content) if png else {}
    for file, picture in drawn.items():
        write_atomic((png or Path()) / file, picture)
    if as_json:
        report.json_out(_summary(content, output, len(written), [str((png or Path()) / each) for each in drawn]))
        return
    for text in content.warnings:
        report.warn(text)
    for text in content.missing:
        report.note(text, quiet)
    for file in drawn:
        report.line(f"wrote {(png or Path()) / file}")
    report.line(f"wrote {output} ({format_bytes(len(written))})")


def _architectures(paths: tuple[Path, ...], space: SearchSpace) -> tuple[dict[str, Architecture], dict[str, Path]]:
    """Return the networks of files, and the files, by their names; raise what is wrong with one."""
    chosen: dict[str, Architecture] = {}
    origins: dict[str, Path] = {}
    for path in paths:
        if path.stem in origins:
            raise UsageError(f"{origins[path.stem]} and {path} have one name.", "Name each network once.")
        chosen[path.stem], origins[path.stem] = Architecture.load(path, space), path
    return chosen, origins


def _released(
    workspace: Workspace, space: SearchSpace, chosen: dict[str, Architecture], origins: dict[str, Path]
) -> tuple[dict[str, Released], dict[str, dict[str, Released]]]:
    """Return the files that were built of the teacher and of each network, by their format."""
    folders = tuple(dict.fromkeys([*(path.parent for path in origins.values()), Path()]))
    files = {name: released(workspace, space, name, each, folders) for name, each in chosen.items()}
    return released(workspace, space, TEACHER, Architecture.own(space), folders), files


def _with_pictures(
    content: Content, workspace: Workspace, files: Sequence[tuple[str, dict[str, Released]]], quiet: bool
) -> Content:
    """Return the content with pictures, each network being run as the first of its files."""
    first = {name: next(iter(each.values())) for name, each in files if each}
    named = {f"{name} ({each.path.suffix[1:]})": each.path for name, each in first.items()}
    pictures, classes, why = pictures_of(workspace, named, quiet)
    missing = (*content.missing, why) if why else content.missing
    return msgspec.structs.replace(content, pictures=pictures, classes=classes, missing=missing)


def _summary(content: Content, output: Path, size: int, drawn: list[str]) -> dict[str, object]:
    return {
        "page": str(output),
        "size_bytes": size,
        "png": drawn,
        "device": content.device,
        "formats": content.formats,
        "front": {over: len(places) for over, places in content.fronts.items()},
        "chosen": content.chosen,
        "agreement": content.agreement,
        "pictures": [picture.name for picture in content.pictures],
        "warnings": content.warnings,
        "missing": content.missing,
    }
