"""The problems that a search solves: one for each kind of file that is asked for and was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from qaedge import report
from qaedge.borders import borders
from qaedge.cli import found
from qaedge.cli.asked import Asked
from qaedge.cli.resolve import own_activations, saved_space
from qaedge.cli.sizes import size_table
from qaedge.errors import NotMeasured, UsageError
from qaedge.fingerprint import Difference
from qaedge.influence import Influence
from qaedge.metric import title
from qaedge.project import Workspace
from qaedge.runtime import BOTH, FORMATS
from qaedge.search.selection import Selection
from qaedge.sizes import SizeTable
from qaedge.space import SearchSpace
from qaedge.tables import LatencyTable, LossTable, table_keys

if TYPE_CHECKING:
    from qaedge.search.space_problem import SpaceProblem

#: The word for each network as the kind of file that is fastest.
BEST = "best"
#: The words for networks in float, and for those in integers of whatever bits.
FLOAT, INTEGERS = "float", "integers"
#: What searches where nothing was measured.
_BY_SIZE = "qaedge search --by size"


class Terms(msgspec.Struct, frozen=True):
    """How a search weighs what its tables say, and what it may choose from.

    Attributes:
        power: block losses are raised to it before they are summed; None: they are weighed by their influence.
        margin: how many standard errors a network stays below a limit on latency.
        runtime: a format, BEST, or empty: what was measured.
        precision: FLOAT, INTEGERS, schemes with commas between, or empty: whichever is best.
        fix, forbid: see `Selection`.
        by_size: what was not measured on the device is searched without its latency.
        quiet: show no progress.
    """

    power: float | None = None
    margin: float = 0.0
    runtime: str = ""
    precision: str = ""
    fix: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    by_size: bool = False
    quiet: bool = False


def problems_of(workspace: Workspace, device: str, asked: Asked, terms: Terms, warn: bool = True) -> list[SpaceProblem]:
    """Return the problem of each kind of file that is asked for and was measured, all with the same limits.

    Where `terms` go by size and nothing was measured, their only metric is the size, and a limit on latency is not
    applied. With `warn`, say where a table holds rows of several states of the device.

    Raises:
        NotMeasured: a table that lacks what the search needs.
        UsageError: a limit, precision or candidate that is none.
    """
    from qaedge.search.space_problem import build_problem

    space = saved_space(workspace)
    kinds, schemes = _precisions(space, terms.precision)
    for block in space.blocks if schemes else ():
        if all(str(candidate.scheme) in schemes for candidate in block.candidates):
            raise UsageError(
                f"The block {block.name} has no candidate in {terms.precision}.",
                f"It has {', '.join(dict.fromkeys(str(candidate.scheme) for candidate in block.candidates))}.",
            )
    selection = Selection.read(space, terms.fix, (*terms.forbid, *(f"scheme={scheme}" for scheme in schemes)))
    losses = LossTable(LossTable.store(workspace.loss_file(space.origin)).rows())
    if not losses.rows:
        raise NotMeasured("The loss table of this space is empty.", "Run: qaedge distill")
    influence = _influence(workspace, space, terms)
    if warn and influence is None and terms.power is None:
        report.warn(
            "what candidates do to the teacher's classes was not measured, so plain block losses are summed, which "
            "rank networks worse. Run: qaedge distill (or, to have it so: --power 1)"
        )
    tables = _tables(workspace, device, terms.runtime, terms.by_size)
    made, refused, unmeasured = [], [], []
    for table in tables:
        sizes: LatencyTable | SizeTable | None = None
        if terms.by_size and not table.rows:
            sizes = size_table(workspace, space, device, table.format, terms.quiet)
        elif terms.by_size and not asked.needs_latency and not borders(space).keys() <= table.rows.keys():
            sizes = table  # what lies between blocks was not measured, and takes nothing that was asked for
        others = {
            name: LatencyTable.read(workspace.latency_file(name), name, table.format) for name in asked.devices[1:]
        }
        latencies = {} if sizes else {device: table, **others}
        for each in latencies.values():
            if warn:
                _warn_of_mixed(each, space)
        for is_float in kinds:
            try:
                made.append(
                    build_problem(
                        space,
                        losses,
                        latencies,
                        power=terms.power or 1.0,
                        influence=influence,
                        is_float=is_float,
                        selection=selection,
                        with_peaks=asked.has_peak,
                        z=terms.margin,
                        sizes=sizes,
                        own_peaks=own_activations(workspace) if asked.has_peak else None,
                    )
                )
            except NotMeasured as error:
                if not table.rows and not sizes:
                    error = NotMeasured(error.message, f"{error.hint}\nOr search without its latency: {_BY_SIZE}")
                if table.rows:
                    refused.append(error)
                else:
                    unmeasured.append(error)
    # What is named has to be there; of what is not, one kind of file is enough, and what is there but lacks is said.
    lacking = refused + unmeasured
    if lacking and (not made or (terms.runtime and terms.runtime not in (BEST, BOTH)) or terms.precision):
        raise lacking[0]
    if warn:
        for left in refused:
            report.warn(f"{left.message} Such networks are left out.")
    if warn and not made[0].latencies and asked.project_latency:
        report.warn(
            f"the project's limit on latency, {asked.project_latency}, is not applied: what it takes was not measured "
            f"on {device}. Measure it: {tables[0].command}"
        )
    constraints = asked.constraints(made)
    return [problem.limited(constraints) for problem in made]


def summed_as(workspace: Workspace, space: SearchSpace, terms: Terms) -> str:
    """Return what is summed over the blocks, as people read it: "loss", "loss^1.5", or "harm"."""
    if _influence(workspace, space, terms) is not None:
        return "harm"
    return "loss" if terms.power in (None, 1) else f"loss^{terms.power:g}"


def _influence(workspace: Workspace, space: SearchSpace, terms: Terms) -> Influence | None:
    """Return how block losses are weighed; None where a power was asked for, or `distill` has not found out."""
    if terms.power is not None:
        return None
    return Influence.read(workspace.loss_file(space.origin), space)


def _tables(workspace: Workspace, device: str, runtime: str, by_size: bool) -> list[LatencyTable]:
    """Return the tables that a word stands for: of one format, or of each that was measured.

    By size, files may be chosen between that were not measured.
    """
    path = workspace.latency_file(device)
    if runtime == BOTH:
        runtime = BEST
    if runtime and runtime != BEST:
        if runtime not in FORMATS:
            raise UsageError(f"--runtime {runtime!r} is none.", f"Known: {', '.join(FORMATS)}, {BOTH}, {BEST}.")
        return [LatencyTable.read(path, device, runtime)]
    rows = list(LatencyTable.store(path).rows())  # once for both
    tables = [LatencyTable(device, rows, name) for name in FORMATS]
    there = [table for table in tables if table.rows]
    if by_size and not there and runtime == BEST:
        return tables
    if runtime == BEST and len(there) == 1:
        absent = next(table for table in tables if not table.rows)
        raise NotMeasured(
            f"On {device} only {there[0].format} files were measured: there is nothing to choose between.",
            f"Run: {absent.command}",
        )
    return there or tables[:1]


def _precisions(space: SearchSpace, precision: str) -> tuple[tuple[bool, ...], tuple[str, ...]]:
    """Return which networks to search, in float (True), in integers (False), and the schemes to leave out."""
    if not precision:
        return space.precisions or (space.blocks[0].candidates[0].scheme.is_float,), ()
    there = {str(candidate.scheme): candidate.scheme for candidate in space.unique()}
    wanted = tuple(word.strip() for word in precision.split(","))
    if wanted == (FLOAT,) or wanted == (INTEGERS,):
        if (wanted == (FLOAT,)) not in space.precisions:
            raise UsageError(
                f"The space {space.name!r} has no networks in {precision}.",
                "Add the scheme to each of its blocks: " + ('"fp32"' if wanted == (FLOAT,) else '"w8a8"'),
            )
        return (wanted == (FLOAT,),), ()
    for word in wanted:
        if word not in there:
            raise UsageError(
                f"--precision {word!r} is none.", f"Known: {FLOAT}, {INTEGERS}, and of this space {', '.join(there)}."
            )
    kinds = tuple(dict.fromkeys(there[word].is_float for word in wanted))
    return kinds, tuple(text for text in there if text not in wanted)


def tell_of_rows(problems: list[SpaceProblem], quiet: bool) -> None:
    """Say which candidates are left out, and how many were measured with doubts."""
    for each in problems:
        kind = f" ({found.kind_of_file(each)})" if len(problems) > 1 else ""
        if each.left_out:
            counts = ", ".join(f"{count} in {block}" for block, count in each.left_out.items())
            report.warn(f"candidates without a row in every table are left out{kind}: {counts}. See: qaedge space")
        if each.unknown:
            counts = ", ".join(f"{count} in {block}" for block, count in each.unknown.items())
            report.warn(
                f"candidates of which nobody knows the peak memory are left out{kind}: {counts}. "
                "Nobody looked into the teacher's own blocks yet, or they cannot be exported. See: qaedge space"
            )
        for metric, count in each.doubtful.items():
            candidates = "candidate was" if count == 1 else "candidates were"
            report.note(
                f"{title(metric)}{kind}: {count} {candidates} measured with doubts, such as unstable rounds.", quiet
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
        f"Measure those again: {table.command}"
    )
