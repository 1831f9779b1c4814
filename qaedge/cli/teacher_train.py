"""`qaedge teacher train`: fine-tune the teacher on the project's data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from qaedge import report
from qaedge.cli import options
from qaedge.cli.resolve import need_nn
from qaedge.errors import MissingFile, UsageError
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
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance",
            min=0,
            help="Weight of its own classes before training.  [default: the project's finetune.guidance]",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILE", help="Weights to start from.  [default: teacher.weights]", show_default=False
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

    Trained from weights, it is guided by itself as it was before (finetune.guidance).
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
    if weights is not None and not weights.exists():
        raise MissingFile(f"No file {weights}.", "Name with --from the weights to start from, or leave it out.")
    start = str(weights.resolve()) if weights is not None else given.weights
    if weights is None and start and not workspace.path(start).exists():
        report.note(f"{start} is not there yet: the teacher starts from scratch.", quiet)
        start = ""
    workspace = Workspace(
        workspace.root,
        msgspec.structs.replace(workspace.project, teacher=msgspec.structs.replace(given, weights=start)),
        workspace.file,
    )
    config = msgspec.structs.replace(workspace.project.finetune, epochs=epochs)
    if guidance is not None:
        config = msgspec.structs.replace(config, guidance=guidance)
    if not start:  # fresh weights have no statistics that could be kept, and nothing to say
        config = msgspec.structs.replace(config, freeze_batch_norm=False, guidance=0.0)
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
