"""`qaedge teacher train`: fine-tune the teacher on the project's data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from qaedge import report
from qaedge.cli import options
from qaedge.cli.resolve import need_nn
from qaedge.errors import UsageError
from qaedge.project import Workspace

EXAMPLES = (
    "qaedge teacher train --epochs 20",
    "qaedge teacher train --learning-rate 6e-3 --output teacher.safetensors",
)


def run(
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the training images.")] = 20,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate", min=0, help="[default: the project's finetune.learning_rate]", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Weights.  [default: the project's teacher.weights]",
            show_default=False,
        ),
    ] = None,
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train the teacher on the project's labels, from its weights where they are there, else from scratch.

    An interrupted training goes on from its last epoch.
    """
    need_nn()
    from qaedge.nn.student import open_splits
    from qaedge.nn.teacher import load_teacher
    from qaedge.nn.training import TrainedTeacher, train_teacher

    workspace = Workspace.open(project)
    given = workspace.project.teacher
    if output is None and not given.weights:
        raise UsageError(
            "The project names no teacher.weights to write to.", "Name a file there, or pass --output FILE."
        )
    path = output or workspace.path(given.weights)
    if path.suffix != ".safetensors":
        raise UsageError(f"Weights are written as safetensors, not to {path}.", "Pass --output NAME.safetensors.")
    if given.weights and not workspace.path(given.weights).exists():
        report.note(f"{given.weights} is not there yet: the teacher starts from scratch.", quiet)
        untrained = msgspec.structs.replace(given, weights="")
        workspace = Workspace(workspace.root, msgspec.structs.replace(workspace.project, teacher=untrained))
    # Fresh weights have no statistics yet that could be kept.
    frozen = bool(workspace.project.teacher.weights) and workspace.project.finetune.freeze_batch_norm
    config = msgspec.structs.replace(workspace.project.finetune, epochs=epochs, freeze_batch_norm=frozen)
    if learning_rate is not None:
        config = msgspec.structs.replace(config, learning_rate=learning_rate)
    train, val = open_splits(workspace)
    found: TrainedTeacher | None = None
    for step in report.progress(
        train_teacher(load_teacher(workspace), train, val, config, path), "training the teacher", quiet
    ):
        found = step.result
    assert found is not None
    if as_json:
        report.json_out([found])
        return
    report.table(
        ("weights", ">epochs", ">mIoU before", ">mIoU after"),
        [(found.path, str(found.epochs), f"{found.before:.4f}", f"{found.after:.4f}")],
    )
