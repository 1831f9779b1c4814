"""`qaedge build`: from an architecture to a fine-tuned student, scored in float and in INT8."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qaedge import report
from qaedge.cli import options
from qaedge.cli.form import choose_for
from qaedge.cli.resolve import device_of, need_nn, resolve
from qaedge.errors import UsageError
from qaedge.project import Workspace
from qaedge.units import format_bytes

if TYPE_CHECKING:
    from qaedge.nn.student import StudentReport

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
    from qaedge.nn.build import build_student

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
    schemes = ", ".join(dict.fromkeys(choice.scheme for choice in chosen.choices))
    report.table(
        ("network", ">float mIoU", f">{found.form} mIoU", ">epochs"),
        _rows(found, named),
        title=f"{schemes} as {found.form} ({found.form_reason}), {format_bytes(found.size_bytes)}",
    )
    anew = [f"{block} ({recipe})" for block, recipe in found.recipes.items() if recipe.endswith("anew")]
    if anew:
        report.note(f"Fine-tuned weights were rounded by the steps they were scored with: {', '.join(anew)}.", quiet)
    kept = {"quantized": "after quantization-aware"}.get(found.kept, found.kept)
    report.note(f"Kept: {kept} fine-tuning. Next: qaedge export {named}", quiet)


def _rows(found: StudentReport, named: str) -> list[tuple[str | None, ...]]:
    """Return a line for each stage: float mIoU, mIoU as a file, and the epoch."""
    rows: list[tuple[str | None, ...]] = [
        (f"{named}, before fine-tuning", f"{found.before.float_miou:.4f}", f"{found.before.miou:.4f}", "0")
    ]
    if found.after is not None:
        miou = f"{found.after.float_miou:.4f}", f"{found.after.miou:.4f}"
        rows.append((f"{named}, after fine-tuning", *miou, str(found.epochs)))
    if found.quantized is not None:
        rows.append((f"{named}, then on its grids", None, f"{found.quantized.miou:.4f}", str(found.quantized_epoch)))
    elif found.tried_miou is not None:
        text = f"{named}, then on its grids: no epoch was better"
        rows.append((text, None, f"{found.tried_miou:.4f}", str(found.tried_epoch)))
    return rows
