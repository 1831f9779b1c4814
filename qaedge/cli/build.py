"""`qaedge build`: from an architecture to a fine-tuned student, scored in float and in INT8."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qaedge import report
from qaedge.cli import options
from qaedge.cli.form import choose_for
from qaedge.cli.resolve import device_of, need_nn, resolve
from qaedge.errors import UsageError
from qaedge.project import Workspace
from qaedge.units import format_bytes

EXAMPLES = ("qaedge build architecture.json", "qaedge build --teacher", "qaedge build fast.json --epochs 20")


def run(
    architecture: Annotated[
        Path | None, typer.Argument(metavar="[ARCH]", help="What search wrote.", show_default=False)
    ] = None,
    teacher: Annotated[bool, typer.Option("--teacher", help="Build the teacher itself: the baseline.")] = False,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the student.  [default: the file's]", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", min=0, help="Of fine-tuning.  [default: the project's]", show_default=False),
    ] = None,
    device: options.ForDevice = None,
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Assemble an architecture's distilled blocks, fine-tune them together, score the exported file.

    The teacher guides the fine-tuning. Of the weights before and after it, those with the better
    mIoU on the validation split are kept. An interrupted build goes on from its last epoch.
    """
    need_nn()
    from qaedge.architecture import Architecture
    from qaedge.nn.student import StudentReport, build_student

    if (architecture is None) == (not teacher):
        raise UsageError("Name an architecture or ask for --teacher: one of the two.", "See: qaedge build --help")
    workspace = Workspace.open(project)
    loaded, space = resolve(workspace)
    if architecture is None:
        chosen, named = Architecture.own(space), "teacher" if name is None else name
    else:
        chosen, named = Architecture.load(architecture, space), architecture.stem if name is None else name
    choose = choose_for(device_of(device, project), workspace)
    steps = build_student(workspace, loaded, space, chosen, named, choose, epochs)
    found: StudentReport | None = None
    for step in report.progress(steps, f"building {named}", quiet):
        found = step.result
    assert found is not None
    if as_json:
        report.json_out([found])
        return
    report.table(
        ("network", ">float mIoU", f">{found.form} mIoU", ">epochs"),
        [
            (f"{named}, before fine-tuning", f"{found.before.float_miou:.4f}", f"{found.before.miou:.4f}", "0"),
            *(
                [
                    (
                        f"{named}, after fine-tuning",
                        f"{found.after.float_miou:.4f}",
                        f"{found.after.miou:.4f}",
                        str(found.epochs),
                    )
                ]
                if found.after is not None
                else []
            ),
        ],
        title=f"{found.scheme} as {found.form} ({found.form_reason}), {format_bytes(found.size_bytes)}",
    )
    report.note(f"Kept: {found.kept} fine-tuning. Next: qaedge export {named}", quiet)
