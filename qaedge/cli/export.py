"""`qaedge export`: the INT8 ONNX file of a built student, checked, with its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from qaedge import report
from qaedge.cli import options
from qaedge.cli.form import choose_for
from qaedge.cli.resolve import device_of, need_nn, resolve
from qaedge.project import Workspace
from qaedge.units import format_bytes

EXAMPLES = ("qaedge export architecture", "qaedge export teacher --output teacher.onnx")


class Exported(msgspec.Struct, frozen=True):
    """A file that was written and checked.

    `same_class` is a share of pixels, `within_one_step` of the outputs of the worst block.
    """

    file: str
    manifest: str
    sha256: str
    size_bytes: int
    form: str
    form_reason: str
    miou: float
    same_class: float | None
    within_one_step: float | None


def run(
    student: Annotated[str, typer.Argument(metavar="STUDENT", help="The name that build gave it.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="[default: STUDENT.onnx]", show_default=False),
    ] = None,
    device: options.ForDevice = None,
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write out the INT8 ONNX file of a student, the very one that build scored.

    The file is run on validation images and must give at least 99.5 % of their pixels the class
    that torch gives them. The manifest beside it (FILE.json) says how to feed it and where its
    numbers come from.
    """
    need_nn()
    from qaedge.nn.release import export_student

    name = Path(student).stem if student.endswith(".json") else student
    workspace = Workspace.open(project)
    teacher, space = resolve(workspace)
    path = output or Path(f"{name}.onnx")
    choose = choose_for(device_of(device, project), workspace)
    artifact, manifest, parity, found = export_student(workspace, teacher, space, name, path, choose)
    row = Exported(
        file=str(path),
        manifest=str(manifest),
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        form=artifact.form,
        form_reason=found.form_reason,
        miou=found.miou,
        same_class=parity.same_class,
        within_one_step=parity.within_one_step,
    )
    if as_json:
        report.json_out([row])
        return
    same, steps = (None if v is None else f"{100 * v:.2f} %" for v in (row.same_class, row.within_one_step))
    report.table(
        ("file", "form", ">size", ">mIoU", ">same class as torch", ">blocks within a step"),
        [(row.file, row.form, format_bytes(row.size_bytes), f"{row.miou:.4f}", same, steps)],
        title=f"{row.form}: {row.form_reason}",
    )
    report.note(f"Manifest: {manifest}. Next: qaedge bench {path}", quiet)
