"""`qaedge teacher check`: the network that everything is measured against, block by block."""

from __future__ import annotations

from typing import Annotated

import typer

from qaedge import report
from qaedge.cli import options
from qaedge.cli.resolve import need_nn, warn_untrained
from qaedge.errors import UnsupportedOperator
from qaedge.project import Workspace

EXAMPLES = ("qaedge teacher check", "qaedge teacher check --no-miou --json")


def run(
    miou: Annotated[bool, typer.Option("--miou/--no-miou", help="Evaluate it on the validation images.")] = True,
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Print the teacher's blocks, shapes, parameters, MACs and mIoU, and whether it can be exported.

    Needs the extra `nn`.
    """
    workspace = Workspace.open(project)
    need_nn()
    from qaedge.nn.block_costs import block_costs
    from qaedge.nn.data import open_split
    from qaedge.nn.metrics import evaluate
    from qaedge.nn.teacher import load_teacher
    from qaedge.nn.tracing import trace

    teacher = load_teacher(workspace, untrained=True)
    costs = block_costs(teacher)
    obstacle: UnsupportedOperator | None = None
    try:
        trace(teacher.module, teacher.input_shape)
    except UnsupportedOperator as problem:
        obstacle = problem
    data = workspace.project.data
    confusion = None
    if miou:
        split = open_split(data, workspace.path(data.path) if data.path else None, "val")
        split.check()
        for step in report.progress(evaluate(teacher.module, split), "evaluating", quiet):
            confusion = step.result
        classes = split.classes
    warn_untrained(workspace)
    if as_json:
        value: dict[str, object] = {
            "digest": teacher.digest,
            "input_shape": teacher.input_shape,
            "blocks": costs,
            "exportable": obstacle is None,
        }
        if obstacle is not None:
            value["obstacle"] = str(obstacle)
        if confusion is not None:
            value["miou"] = confusion.miou
            value["iou"] = {name: float(iou) for name, iou in zip(classes, confusion.iou, strict=True)}
        report.json_out(value)
        return
    report.table(
        ("block", "path", "in", "out", ">parameters", ">MACs"),
        [
            (
                row.name,
                row.path or None,
                "x".join(map(str, row.input_shape)) if row.path else None,
                "x".join(map(str, row.output_shape)) if row.path else None,
                f"{row.parameters:,}",
                f"{row.macs / 1e6:,.1f} M",
            )
            for row in costs
        ],
    )
    parameters, macs = sum(row.parameters for row in costs), sum(row.macs for row in costs)
    report.line(f"in all: {parameters:,} parameters, {macs / 1e6:,.1f} M MACs")
    if confusion is not None:
        report.line(f"mIoU on {len(split)} validation images: {100 * confusion.miou:.2f} %")
        if not workspace.project.teacher.weights:
            report.warn(
                "teacher.weights is empty, so these are fresh, untrained weights. "
                "Name a file there, or train one: qaedge teacher train"
            )
    if obstacle is not None:
        report.warn(f"As it is, this network cannot be exported, so it cannot be measured. {obstacle}")
