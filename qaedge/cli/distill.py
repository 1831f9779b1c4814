"""`qaedge distill`: train, quantize and score every candidate that the loss table lacks."""

from __future__ import annotations

import msgspec

from qaedge import report
from qaedge.cli import options
from qaedge.cli.resolve import need_nn, resolve
from qaedge.cli.steps import show_steps, steps_of
from qaedge.gains import StepGain
from qaedge.project import Workspace
from qaedge.tables import LossTable

EXAMPLES = ("qaedge distill", "qaedge distill --project examples/camvid/qaedge.toml --quiet")


class BlockRow(msgspec.Struct, frozen=True):
    """A block's part of the loss table: how far its candidates are from the teacher."""

    block: str
    rows: int
    least: float
    median: float
    greatest: float
    own: float


class Summary(msgspec.Struct, frozen=True):
    """What the loss table holds of the space: by block, and what each step of quantization gains, by scheme."""

    blocks: tuple[BlockRow, ...]
    steps: tuple[StepGain, ...]


def run(project: options.Project = None, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Distill the candidates of the space against the teacher's blocks.

    Each is trained alone, quantized, and scored as it will be deployed. Then some take their block's place in the
    teacher, one at a time, which tells how much a block's loss matters to the whole network. What has a row in the loss
    table already is not done again; stop it at any time.
    """
    need_nn()
    from qaedge.nn.influence import measure_influence
    from qaedge.nn.library import fill_library, missing_tasks
    from qaedge.nn.student import open_splits

    workspace = Workspace.open(project)
    teacher, space = resolve(workspace)
    if not workspace.project.teacher.weights:
        report.warn(
            "teacher.weights is empty: the candidates would imitate fresh, untrained weights. "
            "Name a file there, or train one: qaedge teacher train"
        )
    missing = sum(len(task.schemes) for task in missing_tasks(workspace, space))
    total = sum(len(block.candidates) for block in space.blocks)
    report.note(f"{total - missing} of {total} rows are there; {missing} to go.", quiet)
    for _ in report.progress(fill_library(workspace, teacher, space), "distilling", quiet):
        pass
    weighed = measure_influence(workspace, teacher, space, open_splits(workspace)[0])
    for _ in report.progress(weighed, "replacing blocks of the teacher", quiet):
        pass
    table = LossTable(LossTable.store(workspace.loss_file(space.origin)).rows())
    rows = []
    for block in space.blocks:
        losses = sorted(table.row(block.name, c).loss for c in block.candidates)
        own = table.row(block.name, block.candidates[0]).loss
        rows.append(BlockRow(block.name, len(losses), losses[0], losses[len(losses) // 2], losses[-1], own))
    steps = steps_of(space, table)
    if as_json:
        report.json_out(Summary(tuple(rows), tuple(steps)))
        return
    report.table(
        ("block", ">rows", ">least loss", ">median", ">greatest", ">teacher's own, quantized"),
        [
            (r.block, str(r.rows), f"{r.least:.4f}", f"{r.median:.4f}", f"{r.greatest:.4f}", f"{r.own:.4f}")
            for r in rows
        ],
        title="Block losses after quantization (0: the teacher's features, 1: only their mean)",
    )
    show_steps(steps)
