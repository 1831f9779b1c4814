"""`qaedge search`: the best network that the two tables know within the limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qaedge import report
from qaedge.cli import options
from qaedge.cli.resolve import saved_space
from qaedge.device import load_device
from qaedge.errors import NotMeasured
from qaedge.fingerprint import Difference
from qaedge.metric import SIZE, format_cost, latency_on, parse_limit, title
from qaedge.project import Workspace
from qaedge.tables import LatencyTable, LossTable, table_keys
from qaedge.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from qaedge.architecture import Architecture
    from qaedge.search import Choice, SpaceProblem
    from qaedge.space import SearchSpace

EXAMPLES = (
    "qaedge search --latency 25ms --size 1.2MiB --output arch.json",
    "qaedge search --latency 75% --plot front.png",
    "qaedge search --pareto --json",
)
#: A front on a terminal is cut to this many networks; `--json` lists all.
ROWS_SHOWN = 40
#: What takes the place of a limit to say that there is none, although the project has one.
NO_LIMIT = "none"


def run(
    latency: Annotated[
        str | None,
        typer.Option(
            metavar="LIMIT", help="Such as 25ms, 75% of the teacher's own, or \"none\".  [default: the project's]"
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="LIMIT", help="Such as 1.2MiB or 50%.  [default: the project's]")
    ] = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="List every network that no other beats in both loss and latency.")
    ] = False,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Save the chosen network.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the front as PNG.")] = None,
    power: Annotated[
        float,
        typer.Option(
            min=1,
            help="Raise block losses to this before summing: above 1, one bad block counts for more than several.",
        ),
    ] = 1.0,
    device: options.ForDevice = None,
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find the network of least block loss that keeps the limits, exactly.

    Reads what `qaedge distill` and `qaedge profile` have written; torch is not needed. Says when no
    network keeps the limits, and by how much they are missed.
    """
    workspace = Workspace.open(project)
    name = load_device(device or workspace.project.device).name
    found = _problem(workspace, name, latency, size, power)
    if found.left_out:
        counts = ", ".join(f"{count} in {block}" for block, count in found.left_out.items())
        report.warn(f"candidates without a row in both tables are left out: {counts}. See: qaedge space")
    for metric, count in found.doubtful.items():
        candidates = "candidate was" if count == 1 else "candidates were"
        report.note(f"{title(metric)}: {count} {candidates} measured with doubts, such as unstable rounds.", quiet)

    if pareto and not (output or plot):
        _show_front(found, name, as_json, quiet)
        return
    choice = found.solve()
    chosen = found.architecture(choice)
    if output:
        chosen.save(output)
    front = found.front(latency_on(name)) if pareto or plot else []
    if plot:
        _draw(plot, found, front, choice, name)
    if as_json:
        report.json_out({"architecture": chosen, "teacher": found.teacher, **_front_json(front, found, name)})
        return
    _show_choice(found, choice, chosen, name)
    for path in (output, plot):
        if path:
            report.line(f"wrote {path}")
    if output:
        report.note(f"Next: qaedge build {output}", quiet)


def _problem(workspace: Workspace, device: str, latency: str | None, size: str | None, power: float) -> SpaceProblem:
    from qaedge.search import Constraint, build_problem

    space = saved_space(workspace)
    losses = LossTable(LossTable.store(workspace.loss_file(space.origin)).rows())
    if not losses.rows:
        raise NotMeasured("The loss table of this space is empty.", "Run: qaedge distill")
    table = LatencyTable(device, LatencyTable.store(workspace.latency_file(device)).rows())
    _warn_of_mixed(table, space)
    found = build_problem(space, losses, {device: table}, power=power)
    limits = workspace.project.limits
    wanted = {
        latency_on(device): limits.latency if latency is None else latency,
        SIZE: limits.size if size is None else size,
    }
    return found.limited(
        Constraint(metric, parse_limit(text, found.teacher[metric], metric))
        for metric, text in wanted.items()
        if text and text != NO_LIMIT
    )


def _warn_of_mixed(table: LatencyTable, space: SearchSpace) -> None:
    """Say where rows of several states of the device are compared: their differences may be the device's (R15)."""
    mixed = table.mixed(table_keys(space))
    if not mixed:
        return
    fields = {found.field: found for several in mixed.values() for found in several}
    word = Difference.word
    names = "; ".join(f"{f.field} was {word(f.found)}, and is {word(f.wanted)} in the newest" for f in fields.values())
    count = sum(key in table.rows for key in table_keys(space))
    report.warn(
        f"{len(mixed)} of the {count} latencies were measured in another state of {table.device}: {names}. "
        f"Measure those again: qaedge profile --device {table.device}"
    )


def _show_choice(found: SpaceProblem, choice: Choice, chosen: Architecture, device: str) -> None:
    table = found.latencies[device]
    report.table(
        ("block", "candidate", "scheme", ">block loss", ">alone", ">teacher's own"),
        [
            (
                block.name,
                picked.spec if not picked.spec.is_own else "the teacher's own",
                picked.scheme,
                f"{loss:.4f}",
                format_seconds(table.row(picked.key).measurement.median_s),
                format_seconds(table.row(block.candidates[0].key).measurement.median_s),
            )
            for block, picked, loss in zip(
                found.space.blocks, found.candidates(choice), found.block_losses(choice), strict=True
            )
        ],
    )
    report.line()
    time, size = chosen.costs[latency_on(device)], chosen.costs[SIZE]
    teacher_s, teacher_bytes = found.teacher[latency_on(device)], found.teacher[SIZE]
    own = found.own()
    report.table(
        ("", ">loss", f">latency on {device}", ">size"),
        [
            (
                "teacher, measured",
                f"{own.loss:.4f}" if own else None,
                format_seconds(teacher_s),
                format_bytes(round(teacher_bytes)),
            ),
            (
                "found, predicted",
                f"{chosen.loss:.4f}",
                f"{format_seconds(time.value)} ± {format_seconds(time.error)}",
                format_bytes(round(size.value)),
            ),
            (
                "change",
                None,
                f"{100 * (time.value / teacher_s - 1):+.1f} %",
                f"{100 * (size.value / teacher_bytes - 1):+.1f} %",
            ),
            *_limit_rows(found, device),
        ],
    )


def _limit_rows(found: SpaceProblem, device: str) -> list[tuple[object, ...]]:
    limits = {c.metric: format_cost(c.metric, c.limit) for c in found.problem.constraints}
    return [("limit", None, limits.get(latency_on(device)), limits.get(SIZE))] if limits else []


def _show_front(found: SpaceProblem, device: str, as_json: bool, quiet: bool) -> None:
    front = found.front(latency_on(device))
    if as_json:
        report.json_out({"teacher": found.teacher, **_front_json(front, found, device)})
        return
    step = max(1, -(-len(front) // ROWS_SHOWN))
    shown = [*front[:-1:step], front[-1]]
    report.table(
        (f">latency on {device}", ">loss", ">size", "candidates"),
        [
            (
                format_seconds(choice.costs[latency_on(device)]),
                f"{choice.loss:.4f}",
                format_bytes(round(choice.costs[SIZE])),
                "  ".join("own" if c.spec.is_own else str(c.spec) for c in found.candidates(choice)),
            )
            for choice in shown
        ],
    )
    if len(shown) < len(front):
        report.note(f"{len(shown)} of {len(front)} networks on the front; --json lists all.", quiet)


def _front_json(front: list[Choice], found: SpaceProblem, device: str) -> dict[str, object]:
    if not front:
        return {}
    return {
        "front": [
            {
                "latency_s": choice.costs[latency_on(device)],
                "size_bytes": round(choice.costs[SIZE]),
                "loss": choice.loss,
                "candidates": [f"{c.spec}@{c.scheme}" for c in found.candidates(choice)],
            }
            for choice in front
        ]
    }


def _draw(path: Path, found: SpaceProblem, front: list[Choice], choice: Choice, device: str) -> None:
    metric = latency_on(device)
    own = found.own()
    limit = {c.metric: c.limit for c in found.problem.constraints}.get(metric)
    report.front_plot(
        path,
        [(c.costs[metric], c.loss) for c in front],
        chosen=(choice.costs[metric], choice.loss),
        teacher=(found.teacher[metric], own.loss) if own else None,
        title=f"Space {found.space.name}: {found.space.networks:,} networks, the best of them on {device}",
        limit_s=limit,
    )
