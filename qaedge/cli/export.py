"""`qaedge export`: the files of a built student, each checked, each with its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from qaedge import report
from qaedge.architecture import Architecture
from qaedge.artifact import FORMATS
from qaedge.cli import options
from qaedge.cli.form import choose_for
from qaedge.cli.resolve import device_of, need_nn, resolve
from qaedge.cli.verify import Verified, verify_on
from qaedge.device import load_device
from qaedge.errors import QaedgeError, UsageError
from qaedge.project import Workspace
from qaedge.units import format_bytes, parse_seconds

if TYPE_CHECKING:
    from qaedge.nn.manifest import Release
    from qaedge.nn.stored import StoredWeights

EXAMPLES = (
    "qaedge export architecture",
    "qaedge export architecture --format onnx,tflite --verify-on pi4",
    "qaedge export teacher --output teacher.onnx",
)


class Exported(msgspec.Struct, frozen=True):
    """A file that was written and checked.

    `same_class` is a share of pixels, `within_one_step` of the outputs of the worst block; `verified`
    is how alike this machine and a device are on the file, None where it was not asked for. `weights` tells
    what the file holds them in, `smallest_bytes` the smallest file of the network in each format it was built in.
    """

    file: str
    manifest: str
    format: str
    sha256: str
    size_bytes: int
    form: str
    form_reason: str
    miou: float
    images: int
    same_class: float | None
    within_one_step: float | None
    verified: Verified | None = None
    weights: tuple[StoredWeights, ...] = ()
    smallest_bytes: dict[str, int] = {}


def run(
    student: Annotated[str, typer.Argument(metavar="STUDENT", help="The name that build gave it.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="[default: STUDENT.onnx, STUDENT.tflite]", show_default=False
        ),
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", metavar="FORMATS", help="onnx, tflite, or both: onnx,tflite.")
    ] = "",
    verify: Annotated[
        str | None,
        typer.Option(
            "--verify-on", metavar="DEVICE", help="Run the files there, too, and compare.", show_default=False
        ),
    ] = None,
    wait: options.Wait = "0s",
    device: options.ForDevice = None,
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write out the files of a student, the very ones that build scored.

    Each is run on the calibration images and must give their pixels the class that torch gives them
    (99 % of them). The manifest beside a file (FILE.json) says how to feed
    it and where its numbers come from. Without --format, the file's name decides, or else the format that
    search chose the network for.
    """
    need_nn()
    from qaedge.nn.release import export_student
    from qaedge.nn.student import student_folder

    name = Path(student).stem if student.endswith(".json") else student
    wanted = _formats(formats)
    board = load_device(verify) if verify is not None else None
    workspace = Workspace.open(project)
    teacher, space = resolve(workspace)
    choose = choose_for(device_of(device, project), workspace)
    folder = student_folder(workspace, space, name)
    if not wanted and output is None and (folder / "architecture.json").exists():
        wanted = [Architecture.read(folder / "architecture.json").file_format]
    paths = _paths(name, output, wanted)
    releases: tuple[Release, ...] = ()
    steps = export_student(workspace, teacher, space, name, paths, choose)
    for step in report.progress(steps, f"exporting {name}", quiet):
        releases = step.result or ()
    wait_s = parse_seconds(wait)
    verified: dict[str, Verified] = {}
    if board is not None:
        try:
            verified = verify_on(board, releases, workspace, quiet, wait_s)
        except QaedgeError:  # the files are there all the same
            for release in releases:
                report.note(f"wrote {release.artifact.path}, not verified on {board.name}", quiet)
            raise
    rows = [
        Exported(
            file=str(release.artifact.path),
            manifest=str(release.manifest),
            format=release.artifact.format,
            sha256=release.artifact.sha256,
            size_bytes=release.artifact.size_bytes,
            form=release.file.form,
            form_reason=release.form_reason,
            miou=release.file.miou,
            images=release.parity.images,
            same_class=release.parity.same_class,
            within_one_step=release.parity.within_one_step,
            verified=verified.get(release.artifact.sha256),
            weights=release.weights,
            smallest_bytes=release.smallest_bytes,
        )
        for release in releases
    ]
    if as_json:
        report.json_out(rows)
    else:
        _show(rows, quiet)
    for row in rows:
        if row.verified is not None:
            row.verified.check(row.file)


def _formats(text: str) -> list[str]:
    """Return the formats that a flag names; raise UsageError for one that is none."""
    wanted = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for kind in wanted:
        if kind not in FORMATS.values():
            raise UsageError(f"--format {kind!r} is no format.", f"Known: {', '.join(FORMATS.values())}.")
    return wanted


def _paths(name: str, output: Path | None, wanted: list[str]) -> list[Path]:
    """Return the files to write; raise UsageError where format and name do not fit."""
    suffixes = {kind: suffix for suffix, kind in FORMATS.items()}
    if output is None:
        return [Path(f"{name}{suffixes[kind]}") for kind in wanted or ["onnx"]]
    if output.suffix not in FORMATS:
        raise UsageError(
            f"--output {output} does not say which format it is.", f"End its name in {' or '.join(FORMATS)}."
        )
    if not wanted:
        return [output]
    if len(wanted) == 1 and FORMATS[output.suffix] != wanted[0]:
        raise UsageError(f"--output {output} is no name of a file in {wanted[0]}.", "Leave out one of the two.")
    return [output.with_suffix(suffixes[kind]) for kind in wanted]


def _show(rows: list[Exported], quiet: bool) -> None:
    def share(value: float | None) -> str | None:
        return None if value is None else f"{100 * value:.2f} %"

    board = next((row.verified.device for row in rows if row.verified is not None), None)
    report.table(
        (
            "file",
            "form",
            ">size",
            ">mIoU",
            ">same class as torch",
            ">blocks within a step",
            *((f">same class on {board}",) if board else ()),
        ),
        [
            (
                row.file,
                row.form,
                format_bytes(row.size_bytes),
                f"{row.miou:.4f}",
                share(row.same_class),
                share(row.within_one_step),
                *((share(row.verified.same_class) if row.verified else None,) if board else ()),
            )
            for row in rows
        ],
        title="; ".join(f"{row.form}: {row.form_reason}" for row in rows if row.form_reason),
    )
    _show_weights(rows)
    files = " ".join(row.file for row in rows)
    report.note(f"Manifests: {', '.join(row.manifest for row in rows)}. Next: qaedge bench {files}", quiet)


def _show_weights(rows: list[Exported]) -> None:
    """Print how few-bit weights lie in each file, and the smallest file of them in each format."""
    from qaedge.nn.stored import told

    few = [row for row in rows if any(group.is_few_bit for group in row.weights)]
    for row in few:
        for line in told(row.weights, row.format):
            report.line(f"{row.file}: {line}")
    for sizes in [row.smallest_bytes for row in few][:1]:
        each = ", ".join(f"{format_bytes(size)} as {kind}" for kind, size in sizes.items())
        report.line(f"the smallest file that holds these weights: {each}")
