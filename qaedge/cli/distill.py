"""`qaedge distill`: train, quantize and score every candidate that the loss table lacks."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qaedge import report
from qaedge.cli import options
from qaedge.cli.resolve import need_nn, resolve
from qaedge.cli.steps import show_steps, steps_of
from qaedge.files import decode_json, write_json
from qaedge.gains import StepGain
from qaedge.influence import influence_rows, interplay_file, singles
from qaedge.interplay import AGAIN, Interplay, fit_interplay, interplay_rows
from qaedge.project import Workspace
from qaedge.space import SearchSpace
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
    """What the loss table holds of the space: by block, and what each step of quantization gains, by scheme.

    `interplay` is how harms of blocks add up, where enough networks were drawn to tell.
    """

    blocks: tuple[BlockRow, ...]
    steps: tuple[StepGain, ...]
    interplay: Interplay | None = None


def run(project: options.Project = None, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Distill the candidates of the space against the teacher's blocks.

    Each is trained alone, quantized, and scored as it will be deployed. Then some take their block's place in the
    teacher, one at a time, which tells how much a block's loss matters to the whole network, and networks of candidates
    drawn at random tell how that adds up. What has a row already is not done again; stop it at any time.
    """
    need_nn()
    from qaedge.nn.influence import measure_influence
    from qaedge.nn.interplay import measure_interplay
    from qaedge.nn.library import distilling, fill_library, missing_tasks
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
    loss_file, (train, _) = workspace.loss_file(space.origin), open_splits(workspace)
    with distilling(loss_file):  # two at once would do the same networks
        weighed = measure_influence(workspace, teacher, space, train)
        for _ in report.progress(weighed, "replacing blocks of the teacher", quiet):
            pass
        together = measure_interplay(workspace, teacher, space, train)
        for _ in report.progress(together, "putting candidates together", quiet):
            pass
        table = LossTable(LossTable.store(loss_file).rows())
        interplay = _fitted(loss_file, space, table)
    rows = []
    for block in space.blocks:
        losses = sorted(table.row(block.name, c).loss for c in block.candidates)
        own = table.row(block.name, block.candidates[0]).loss
        rows.append(BlockRow(block.name, len(losses), losses[0], losses[len(losses) // 2], losses[-1], own))
    steps = steps_of(space, table)
    if as_json:
        report.json_out(Summary(tuple(rows), tuple(steps), interplay))
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
    if interplay is not None:
        report.line(
            f"{interplay.networks} networks of candidates drawn at random: Kendall's tau of their divergence from the "
            f"teacher with summed harm is {interplay.plain_tau:.2f}, and {interplay.tau:.2f} with weights of blocks "
            f"fitted to other networks{'' if interplay.is_better else ', which are not used'}."
        )


def _fitted(loss_file: Path, space: SearchSpace, losses: LossTable) -> Interplay | None:
    """Return how harms add up in drawn networks, kept beside the loss table; fitted again where a row is newer."""
    path = interplay_file(loss_file)
    rows = [each.path for each in (influence_rows(loss_file), interplay_rows(loss_file)) if each.path.exists()]
    if path.exists() and all(each.stat().st_mtime_ns <= path.stat().st_mtime_ns for each in rows):
        return decode_json(path, Interplay, hint=AGAIN)
    known = singles(influence_rows(loss_file).rows(), space, losses)
    fitted = None if known is None else fit_interplay(interplay_rows(loss_file).rows(), known)
    if fitted is None:
        path.unlink(missing_ok=True)
    else:
        write_json(path, fitted)
    return fitted
