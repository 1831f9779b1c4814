"""`qaedge search`: the best network that the two tables know within the limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qaedge import report
from qaedge.cli import found, options, turns
from qaedge.cli.asked import Asked
from qaedge.cli.problems import Terms, problems_of, summed_as, tell_of_rows
from qaedge.cli.whole import WholeNetworks
from qaedge.device import load_devices, table_name
from qaedge.errors import UsageError
from qaedge.metric import SIZE, latency_on
from qaedge.project import Workspace
from qaedge.units import parse_seconds

if TYPE_CHECKING:
    from qaedge.search.rivals import Contestant
    from qaedge.search.space_problem import SpaceProblem

EXAMPLES = (
    "qaedge search --latency 25ms --size 1.2MiB --output arch.json",
    "qaedge search --latency 75% --plot front.png",
    "qaedge search --latency pi4=25ms --latency pi5=12ms --top 3",
    "qaedge search --latency 25ms --verify 3",
    "qaedge search --pareto --json",
    "qaedge search --pareto --over size",
    "qaedge search --by size --size 1.0MiB",
)
#: Beyond this, one block is all that counts, and sums of losses lose what the others add.
MOST_POWER = 10.0
#: How many standard errors of its prediction a network stays below a limit on latency. A search finds what the table
#: flatters, so 1.64, with which 95 % of networks would keep it that are drawn, is too few.
MARGIN = 2.0
#: Networks that are listed beside the best, at most: each has to be apart from all before.
MOST_LISTED = 100
#: What decides between networks of equal loss, and what a front is over.
LATENCY = "latency"
#: Beyond this, one standard error or a thousand of them make no difference.
MOST_MARGIN = 10.0


def run(
    latency: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIMIT",
            help='Such as 25ms, 75% of the teacher\'s own, or "none"; pi4=25ms on another device, too; repeatable.  '
            "[default: the project's]",
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="LIMIT", help="Such as 1.2MiB or 50%.  [default: the project's]")
    ] = None,
    peak_memory: Annotated[
        str | None,
        typer.Option(
            "--peak-memory",
            metavar="LIMIT",
            help="Such as 300KiB or 50%: activations of any one layer.",
            show_default=False,
        ),
    ] = None,
    fix: Annotated[
        list[str] | None,
        typer.Option(metavar="BLOCK=WHAT", help="This block is that candidate: SPEC, SPEC@SCHEME or its index."),
    ] = None,
    forbid: Annotated[
        list[str] | None,
        typer.Option(metavar="WHAT", help="Leave out BLOCK=SPEC, kind=KIND of a layer, or scheme=SCHEME."),
    ] = None,
    top: Annotated[
        int,
        typer.Option(min=1, max=MOST_LISTED, metavar="K", help="List so many networks that differ, the best first."),
    ] = 1,
    differ: Annotated[
        int,
        typer.Option(min=1, metavar="D", help="In how many blocks each of them differs from all before, at least."),
    ] = 2,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="List every network that no other beats in both loss and latency.")
    ] = False,
    over: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC", help="The front of --pareto is over size, too, or latency@DEVICE; repeatable."),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            metavar="METRIC",
            help="latency or size: what decides between networks of equal loss, and what a front is over. By size, or "
            "with --size, nothing needs to be measured.",
        ),
    ] = LATENCY,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Save the chosen network.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the front as PNG.")] = None,
    power: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=MOST_POWER,
            help="Raise block losses to this before summing: above 1, one bad block counts for more than several.  "
            "[default: weigh them by what they do to the teacher, as `distill` found; else 1]",
            show_default=False,
        ),
    ] = None,
    margin: Annotated[
        float,
        typer.Option(
            "--margin",
            min=0,
            metavar="Z",
            help="Stay so many standard errors of the prediction below a limit on latency; 0: none.",
        ),
    ] = MARGIN,
    verify: Annotated[
        int,
        typer.Option(
            "--verify",
            min=0,
            metavar="N",
            help="Measure the N best whole on the device, learn from that, and search again, until the best is a "
            "measured one that keeps its limits.",
            show_default=False,
        ),
    ] = 0,
    wait: options.Wait = "0s",
    runtime: Annotated[
        str,
        typer.Option(
            "--runtime",
            metavar="NAME",
            help="onnx, tflite, or best: each network as the file that is faster on the device.  "
            "[default: what was measured there; both: best]",
            show_default=False,
        ),
    ] = "",
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="NAME",
            help="float, integers, or schemes such as w8a8 or w8a8,w4a8.  [default: whichever is best]",
            show_default=False,
        ),
    ] = "",
    device: options.ForDevice = None,
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find the network of least block loss that keeps the limits, exactly.

    Reads what `qaedge distill` and `qaedge profile` have written; torch is not needed. Says when no
    network keeps the limits, and by how much they are missed. With --verify the device is asked, too, and
    torch is needed to export what it measures. By size alone, files that were not measured are exported and counted.
    """
    from qaedge.search import rivals

    for flag, value, most in (("--power", power or 1.0, MOST_POWER), ("--margin", margin, MOST_MARGIN)):
        if not value <= most:  # NaN passes the flags' own bounds
            raise UsageError(f"{flag} {value} is none.", f"Write a number up to {most:g}.")
    wait_s = parse_seconds(wait)
    if wait_s and not verify:
        raise UsageError("--wait is of --verify: nothing else waits.", "Add --verify N, or drop --wait.")
    workspace = Workspace.open(project)
    name = table_name(load_devices(device or workspace.project.device))
    asked = Asked(name, workspace, tuple(latency or ()), size, peak_memory)
    if by not in (LATENCY, SIZE):
        raise UsageError(f"--by {by!r} is none.", f"Known: {LATENCY}, {SIZE}.")
    by_size = not asked.needs_latency and not verify and (by == SIZE or size is not None or SIZE in (over or ()))
    terms = Terms(power, margin, runtime, precision, tuple(fix or ()), tuple(forbid or ()), by_size, quiet)
    problems = problems_of(workspace, name, asked, terms)
    tell_of_rows(problems, quiet)
    summed = summed_as(workspace, problems[0].space, terms)
    metric = latency_on(name) if by == LATENCY and problems[0].latencies else SIZE
    metrics = _over(metric, tuple(over or ()), problems, pareto)
    apart = min(differ, len(problems[0].space.blocks))
    taken: tuple[turns.Turn, ...] = ()
    verified: list[Contestant] = []
    if verify:
        devices = device or workspace.project.device
        with WholeNetworks(workspace, devices, wait_s, quiet) as held:
            ended = turns.take_turns(held, asked, terms, verify, apart, show=not as_json)
        problems, verified, taken = ended.problems, ended.verified, ended.turns
    with report.waiting("the whole front", quiet):
        drawn = rivals.front(problems, metric) if plot else []
        front = rivals.front(problems, *metrics) if pareto else drawn
    if pareto and not (output or plot or verify):
        if as_json:
            report.json_out({"teacher": problems[0].teacher, **found.front_json(front, metrics)})
        else:
            found.show_front(front, metrics, summed, quiet)
        return
    with report.waiting("searching", quiet) as wait_for:

        def tell(count: int) -> None:
            wait_for.what = f"{count} of {top} networks" if count < top else "what each limit costs"

        networks = verified[:top] or rivals.top(problems, metric, top, apart, tell=tell)
        won = networks[0]
        limits = rivals.sensitivities(problems, won)
    chosen = [one.problem.architecture(one.choice) for one in networks]
    files = [numbered(output, number) for number in range(len(networks))] if output else []
    for path, each in zip(files, chosen, strict=False):
        each.save(path)
    if plot:
        found.draw(plot, won, drawn, metric, summed)
    if as_json:
        report.json_out(
            {
                "architecture": chosen[0],
                "teacher": won.problem.teacher,
                "power": power,
                "summed": summed,
                "proven": won.gap == 0,
                "gap": won.gap,
                "margin": margin,
                "limits": found.limits_json(limits),
                **({"turns": taken, "measured_s": taken[-1].measured_s} if taken else {}),
                **({"top": chosen} if top > 1 else {}),
                **found.front_json(front, metrics),
            }
        )
        return
    if pareto:
        found.show_front(front, metrics, summed, quiet)
        report.line()
    found.show_choice(won.problem, won.choice, chosen[0], won.gap, taken[-1].measured_s if taken else None)
    found.show_limits(limits, summed)
    if summed == "loss" and power is None:
        report.note(
            "Plain block losses are summed: what they do to the network is not known yet (qaedge distill).", quiet
        )
    if len(problems) > 1:
        found.show_rivals(won, problems, metric)
    if top > 1:
        found.show_top(networks, summed)
        if len(networks) < top:
            more = "were measured and keep the limits" if verified else f"differ in {differ} blocks within the limits"
            report.note(f"There are no more that {more}.", quiet)
    for path in (*files, *((plot,) if plot else ())):
        report.line(f"wrote {path}")
    if output:
        report.note(f"Next: qaedge build {output}", quiet)


def numbered(path: Path, number: int) -> Path:
    """Return where the network after so many better ones is saved: arch.json, arch-2.json, arch-3.json."""
    return path if number == 0 else path.with_name(f"{path.stem}-{number + 1}{path.suffix}")


def _over(metric: str, over: tuple[str, ...], problems: list[SpaceProblem], pareto: bool) -> tuple[str, ...]:
    """Return what the front is over: what decides, and what `--over` names besides."""
    if over and not pareto:
        raise UsageError("--over says what the front of --pareto is over.", "Add --pareto, or drop --over.")
    known = [m for m in problems[0].problem.metrics if m != metric and not problems[0].problem.is_peak(m)]
    for each in over:
        if each not in (*known, metric):
            raise UsageError(
                f"--over {each!r} is nothing that the front could be over, too.",
                f"There are: {', '.join(known) or metric}. Another device's latency joins by --latency NAME=none.",
            )
    return tuple(dict.fromkeys((metric, *over)))
