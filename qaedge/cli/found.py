"""What `qaedge search` shows of what it found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qaedge import plots, report
from qaedge.metric import PEAK_MEMORY, SIZE, format_cost, kind_of, title
from qaedge.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from qaedge.architecture import Architecture, Predicted
    from qaedge.search.knapsack import Choice
    from qaedge.search.rivals import Contestant
    from qaedge.search.sensitivity import Sensitivity
    from qaedge.search.space_problem import SpaceProblem

#: A front on a terminal is cut to this many networks; `--json` lists all.
ROWS_SHOWN = 40
#: A margin below this share of a limit is the rounding of a sum.
_LEAST = 1e-6


def kind_of_file(found: SpaceProblem) -> str:
    """Return what kind of file a problem's networks are: "tflite, int8"."""
    return f"{found.format}, {'float' if found.is_float else 'integers'}"


def show_rivals(won: Contestant, problems: list[SpaceProblem], metric: str) -> None:
    """Print what the chosen network costs as each kind of file that it could be."""
    network = won.problem.candidates(won.choice)
    rows = []
    for problem in problems:
        same = problem.find(network) if problem.is_float == won.problem.is_float else None
        if same is not None:
            chosen = "chosen" if problem is won.problem else None
            rows.append(
                (
                    kind_of_file(problem),
                    *(format_cost(m, same.costs[m]) for m in dict.fromkeys((metric, SIZE))),
                    chosen,
                )
            )
    report.line()
    report.table(("this network as", *(f">{kind_of(m)}" for m in dict.fromkeys((metric, SIZE))), ""), rows)


def show_choice(
    found: SpaceProblem, choice: Choice, chosen: Architecture, gap: float, measured_s: float | None = None
) -> None:
    """Print the candidates of a network, and what it loses and costs beside the teacher and the limits.

    `measured_s` is its latency on the first of the devices, where it was measured whole.
    """
    columns = []
    for device, table in found.latencies.items():
        _, owns = table.origin(found.space, found.is_float)
        alone = [format_seconds(table.row(one.key).measurement.inside_s) for one in found.candidates(choice)]
        own = [format_seconds(row.measurement.inside_s) for row in owns]
        on = f" on {device}" if len(found.latencies) > 1 else ""
        columns += [(f">alone{on}", alone), (f">teacher's own{on}", own)]
    if PEAK_MEMORY in choice.costs:
        peaks = (
            block.peaks[PEAK_MEMORY][index] for block, index in zip(found.problem.blocks, choice.indices, strict=True)
        )
        columns.append((">peak memory", [format_bytes(round(peak)) for peak in peaks]))
    report.table(
        ("block", "candidate", "scheme", ">block loss", *(name for name, _ in columns)),
        [
            (
                block.name,
                picked.spec if not picked.spec.is_own else "the teacher's own",
                picked.scheme,
                f"{loss:.4f}",
                *cells,
            )
            for block, picked, loss, *cells in zip(
                found.space.blocks,
                found.candidates(choice),
                found.block_losses(choice),
                *(cells for _, cells in columns),
                strict=True,
            )
        ],
    )
    _show_borders(chosen)
    report.line()
    teacher = found.own()
    limits = {c.metric: format_cost(c.metric, c.limit) for c in found.problem.constraints}
    metrics = list(chosen.costs)
    report.table(
        ("", ">loss", *(f">{title(metric)}" for metric in metrics)),
        [
            (
                "teacher, measured" if found.latencies else "teacher",
                f"{teacher.loss:.4f}" if teacher else None,
                *(format_cost(m, found.teacher[m]) if m in found.teacher else None for m in metrics),
            ),
            ("found, predicted", f"{chosen.loss:.4f}", *(_with_error(m, chosen.costs[m]) for m in metrics)),
            *(
                [("found, measured", None, format_seconds(measured_s), *([None] * (len(metrics) - 1)))]
                if measured_s is not None
                else []
            ),
            (
                "change",
                None,
                *(
                    f"{100 * (chosen.costs[m].value / found.teacher[m] - 1):+.1f} %" if m in found.teacher else None
                    for m in metrics
                ),
            ),
            *([("limit", None, *(limits.get(m) for m in metrics))] if limits else []),
        ],
    )
    if gap:
        report.warn(f"this is not proven to be the best: another network could have {gap:.2g} less loss.")


def _show_borders(chosen: Architecture) -> None:
    """Say how many changes of activation width a network has, and what they take; nothing where it has none."""
    if not chosen.borders:
        return
    count = len(chosen.borders)
    taken: dict[str, float] = {}
    for border in chosen.borders:
        for device, value in border.latency_s.items():
            taken[device] = taken.get(device, 0.0) + value
    costs = [
        f"{format_seconds(value)} in all" + (f" on {device}" if len(taken) > 1 else "")
        for device, value in taken.items()
    ]
    changes = f"{count} change{'s' if count > 1 else ''} of activation width"
    report.line(f"Borders: {', '.join([changes, *costs])}.")


def _with_error(metric: str, cost: Predicted) -> str:
    value = format_cost(metric, cost.value)
    return f"{value} ± {format_cost(metric, cost.error)}" if cost.error or metric.startswith("latency@") else value


def show_limits(limits: Sequence[Sensitivity], loss: str) -> None:
    """Print what each limit costs in loss, and what a little more of it would buy; `loss` names what is summed."""
    if not limits:
        return
    report.line()
    report.table(
        ("limit on", ">used", ">margin", ">more buys", ">next better at", f">its {loss}", f">{loss} without"),
        [
            (
                title(one.metric),
                f"{100 * one.cost / one.limit:.1f} %" if one.limit else None,
                format_cost(one.metric, one.margin) if one.margin > _LEAST * one.limit else None,
                _price(one),
                format_cost(one.metric, one.next_cost) if one.next_cost is not None else "not binding",
                f"{one.next_loss:.4f}" if one.next_loss is not None else None,
                f"{one.loss_without:.4f}",
            )
            for one in limits
        ],
    )


def limits_json(limits: Sequence[Sensitivity]) -> dict[str, dict[str, object]]:
    """Return what each limit costs as `--json` prints it, by metric."""
    return {
        one.metric: {
            "limit": one.limit,
            "cost": one.cost,
            "margin": one.margin,
            "binding": one.is_binding,
            "multiplier": one.multiplier,
            "loss_without": one.loss_without,
            "next_cost": one.next_cost,
            "next_loss": one.next_loss,
        }
        for one in limits
    }


def _price(one: Sensitivity) -> str | None:
    """Return the multiplier for the unit that people think in: a millisecond, a KiB."""
    if one.multiplier is None:
        return None
    unit, name = (1e-3, "ms") if one.metric.startswith("latency@") else (1024.0, "KiB")
    return f"{one.multiplier * unit:.2g} per {name}" if one.multiplier else "0"


def show_top(networks: Sequence[Contestant], loss: str) -> None:
    """Print several networks below each other: what they lose and cost, and what they are; `loss` is what is summed."""
    kinds = len({kind_of_file(c.problem) for c in networks}) > 1
    metrics = list(networks[0].choice.costs)
    report.line()
    report.table(
        (">", f">{loss}", *(f">{title(metric)}" for metric in metrics), *(("file",) if kinds else ()), "candidates"),
        [
            (
                number,
                f"{c.score:.4f}",
                *(format_cost(metric, c.choice.costs[metric]) for metric in metrics),
                *((kind_of_file(c.problem),) if kinds else ()),
                _names(c),
            )
            for number, c in enumerate(networks, 1)
        ],
    )


def _names(c: Contestant) -> str:
    """Return a network's candidates in few words, with their schemes where these are not all what is usual there."""
    chosen = c.problem.candidates(c.choice)
    names = ["own" if one.spec.is_own else str(one.spec) for one in chosen]
    schemes = [str(one.scheme) for one in chosen]
    if len(set(schemes)) > 1:
        names = [f"{name}@{scheme}" for name, scheme in zip(names, schemes, strict=True)]
    elif schemes[0] != str(c.problem.space.blocks[0].candidates[0].scheme):
        names.append(f"(all {schemes[0]})")
    return "  ".join(names)


def show_front(front: list[Contestant], metrics: Sequence[str], loss: str, quiet: bool) -> None:
    """Print a front over some metrics, thinned where it is long; `loss` names what is summed."""
    step = max(1, -(-len(front) // ROWS_SHOWN))
    shown = [*front[:-1:step], front[-1]]
    kinds = len({kind_of_file(c.problem) for c in front}) > 1
    costs = [metric for metric in metrics if metric != SIZE]
    report.table(
        (*(f">{title(m)}" for m in costs), f">{loss}", ">size", *(("file",) if kinds else ()), "candidates"),
        [
            (
                *(format_cost(m, c.choice.costs[m]) for m in costs),
                f"{c.score:.4f}",
                format_bytes(round(c.choice.costs[SIZE])),
                *((kind_of_file(c.problem),) if kinds else ()),
                _names(c),
            )
            for c in shown
        ],
    )
    if len(shown) < len(front):
        report.note(f"{len(shown)} of {len(front)} networks on the front; --json lists all.", quiet)


def front_json(front: list[Contestant], metrics: Sequence[str]) -> dict[str, object]:
    """Return a front as `--json` prints it, the first metric being what decides; nothing where none was asked for."""
    if not front:
        return {}
    return {
        "front": [
            {
                **({"latency_s": c.choice.costs[metrics[0]]} if metrics[0] != SIZE else {}),
                "size_bytes": round(c.choice.costs[SIZE]),
                **({"costs": {m: c.choice.costs[m] for m in metrics}} if len(metrics) > 1 else {}),
                "loss": c.choice.loss,
                "summed": c.score,
                "format": c.problem.format,
                "candidates": [f"{one.spec}@{one.scheme}" for one in c.problem.candidates(c.choice)],
                **({"borders": between} if (between := c.problem.borders(c.choice)) else {}),
            }
            for c in front
        ]
    }


def draw(path: Path, won: Contestant, front: list[Contestant], metric: str, summed: str) -> None:
    """Draw a front over a metric, with the chosen network and the teacher in it."""
    from qaedge.search.rivals import Contestant

    found = won.problem
    where = metric.partition("@")[2]
    own = found.own()
    limit = {c.metric: c.limit for c in found.problem.constraints}.get(metric)
    plots.front_plot(
        path,
        [(c.choice.costs[metric], c.score) for c in front],
        chosen=(won.choice.costs[metric], won.score),
        teacher=(found.teacher[metric], Contestant(found, own).score) if own else None,
        title=f"Space {found.space.name}: {found.space.networks:,} networks, the best of them"
        + (f" on {where}" if where else " by size"),
        limit=limit,
        metric=metric,
        summed="block loss" if summed == "loss" else summed,
    )
