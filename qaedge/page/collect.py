"""Collecting: from a space and its tables to what the page shows, with a word for all that is missing."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import chain

import msgspec

import qaedge
from qaedge.architecture import Architecture
from qaedge.candidate import Candidate
from qaedge.errors import Infeasible, NotMeasured
from qaedge.fingerprint import Difference
from qaedge.influence import Influence
from qaedge.metric import SIZE, format_cost, latency_on, parse_limit, title
from qaedge.page.conditions import conditions_of, doubts_of
from qaedge.page.content import (
    BlockView,
    Built,
    CandidateView,
    Chosen,
    Content,
    Cost,
    Kind,
    Measured,
    Network,
)
from qaedge.page.layers import draw_layers
from qaedge.page.measured import agree, measured_networks
from qaedge.progress import Step
from qaedge.search import rivals
from qaedge.search.space_problem import Constraint, SpaceProblem, build_problem
from qaedge.space import Block, SearchSpace
from qaedge.tables import LatencyRow, LatencyTable, LossTable, table_keys
from qaedge.units import format_seconds

#: Networks of a front that are shown, at most.
MOST = 4000
#: A prediction that moved by more than this share since a network was chosen is told.
_CHANGED = 0.03


class Source(msgspec.Struct, frozen=True, eq=False):
    """What a page is made from.

    Attributes:
        space: what may be chosen.
        losses: its block losses; may be empty.
        tables: its latencies, a table for each format that was measured; may be none.
        device, description: where they were measured.
        command: what measures there.
        architectures: name -> a network that was chosen, checked against the space.
        origins: name -> the file that it was read from.
        limits: on the latency, as they were typed: the best network within each is shown.
        built: name of an architecture -> its best file.
        teacher_built: format -> the teacher's file of that format.
        influence: weighs the block losses as `search` does; None: they are summed as they are.
        margin: how many standard errors a network stays below a limit on latency, as in `search`.
    """

    space: SearchSpace
    losses: LossTable
    tables: tuple[LatencyTable, ...]
    device: str
    description: str
    architectures: dict[str, Architecture] = {}
    origins: dict[str, str] = {}
    limits: tuple[str, ...] = ()
    built: dict[str, Built] = {}
    teacher_built: dict[str, Built] = {}
    influence: Influence | None = None
    margin: float = 0.0


def collect(source: Source) -> Generator[Step, None, Content]:
    """Return what the page shows; what is missing is said there, and never an error.

    Raises UsageError for a limit that is no quantity.
    """
    space, tables = source.space, source.tables
    missing: list[str] = []
    warnings = [*_mixed(source)]
    yield Step(0, 4, "the tables")
    problems = _problems(source, missing)
    warnings += _doubtful(problems)
    yield Step(1, 4, "the front over latency")
    networks: list[Network] = []
    fronts: dict[str, tuple[int, ...]] = {}
    if problems:
        fronts["latency"] = _add(networks, _front(problems, latency_on(source.device), missing))
        yield Step(2, 4, "the front over size")
        fronts["size"] = _add(networks, _front(problems, SIZE, missing))
    yield Step(3, 4, "chosen and measured networks")
    kinds = tuple(_kind(source, problem) for problem in problems)
    chosen = tuple(chain(_architectures(source, problems, missing, warnings), _best(source, problems, warnings)))
    if not chosen:
        missing.append("No network was chosen: name a file of `qaedge search --output`, or a limit with --latency.")
    measured = tuple(_measured(source, problems))
    if not measured and tables:
        missing.append("No whole network but the teacher was measured, so nothing holds predictions against times.")
    agreement = tuple(a for a in (agree(i, measured) for i in range(len(kinds))) if a)
    rows = [[t.rows[key] for key in sorted(table_keys(space) & t.rows.keys())] for t in tables]
    yield Step(4, 4, "chosen and measured networks")
    return Content(
        title=f"{space.name} on {source.device}",
        space=space.name,
        space_hash=space.hash,
        teacher=space.teacher[:12],
        device=source.device,
        device_description=source.description,
        networks_in_all=space.networks,
        formats=tuple(t.format for t in tables),
        summed="harm" if source.influence else "block loss",
        kinds=kinds,
        blocks=tuple(_block(source, block) for block in space.blocks),
        fronts=fronts,
        networks=tuple(networks),
        chosen=chosen,
        measured=measured,
        agreement=agreement,
        conditions=conditions_of(rows),
        doubts=doubts_of([t.format for t in tables], rows),
        missing=tuple(missing),
        warnings=tuple(warnings),
        version=qaedge.__version__,
        teacher_built=source.teacher_built,
    )


def _problems(source: Source, missing: list[str]) -> list[SpaceProblem]:
    """Return the problem of each kind of file that was measured; say why where there is none."""
    if not source.losses.rows:
        missing.append("No front: the loss table of this space is empty. Run: qaedge distill")
    if not source.tables:
        missing.append(
            f"No latencies: nothing was measured on {source.device}. Run: qaedge profile --device {source.device}"
        )
    made: list[SpaceProblem] = []
    if not source.losses.rows:
        return made
    for table in source.tables:
        for is_float in source.space.precisions or (source.space.blocks[0].candidates[0].scheme.is_float,):
            try:
                made.append(
                    build_problem(
                        source.space,
                        source.losses,
                        {source.device: table},
                        is_float=is_float,
                        influence=source.influence,
                        z=source.margin,
                    )
                )
            except NotMeasured as error:
                kind = "float" if is_float else "integers"
                missing.append(f"No front as {table.format} in {kind}: {error.message} {error.hint}")
    return made


def _kind(source: Source, problem: SpaceProblem) -> Kind:
    table = problem.latencies[source.device]
    anchor, _ = table.origin(source.space, problem.is_float)
    own = problem.own()
    return Kind(
        name=f"{problem.format}, {'float' if problem.is_float else 'integers'}",
        format=source.tables.index(table),
        is_float=problem.is_float,
        own=tuple(block.own(problem.is_float) or 0 for block in source.space.blocks),
        teacher_latency_s=anchor.measurement.median_s,
        teacher_error_s=anchor.measurement.error_s,
        teacher_size_bytes=anchor.size_bytes,
        teacher_loss=rivals.Contestant(problem, own).score if own else None,
        fit=table.fit(source.space, problem.is_float),
    )


def _front(problems: Sequence[SpaceProblem], metric: str, missing: list[str]) -> list[Network]:
    """Return the front over a metric, thinned where a page would be too slow with all of it."""
    found = rivals.front(problems, metric)
    if len(found) > MOST:
        step = -(-len(found) // MOST)
        missing.append(
            f"The front over {title(metric)} has {len(found)} networks; one in {step} is shown. "
            "`qaedge search --pareto --json` lists all."
        )
        found = [*found[:-1:step], found[-1]]
    return [_network(problems, c.problem, c.choice.indices) for c in found]


def _network(problems: Sequence[SpaceProblem], problem: SpaceProblem, places: Sequence[int]) -> Network:
    """Return a choice of a problem as a network."""
    # `kept` is the same object where limits were added to a problem.
    kind = next(i for i, each in enumerate(problems) if each.kept is problem.kept)
    choice = problem.find(
        [block.candidates[kept[at]] for block, kept, at in zip(problem.space.blocks, problem.kept, places, strict=True)]
    )
    assert choice is not None
    latency = next(value for metric, value in choice.costs.items() if metric.startswith("latency@"))
    indices = tuple(kept[at] for kept, at in zip(problem.kept, places, strict=True))
    return Network(kind, indices, float(latency), float(choice.costs[SIZE]), rivals.Contestant(problem, choice).score)


def _add(networks: list[Network], found: Sequence[Network]) -> tuple[int, ...]:
    """Add networks that are not there yet; return the place of each."""
    known = {network: place for place, network in enumerate(networks)}
    places = []
    for network in found:
        if network not in known:
            known[network] = len(networks)
            networks.append(network)
        places.append(known[network])
    return tuple(places)


def _architectures(
    source: Source, problems: Sequence[SpaceProblem], missing: list[str], warnings: list[str]
) -> list[Chosen]:
    """Return the networks of files, as the tables predict them now."""
    found = []
    for name, architecture in source.architectures.items():
        network = architecture.candidates(source.space)
        indices = tuple(choice.index for choice in architecture.choices)
        is_float = network[0].scheme.is_float
        view = _predicted(source, problems, network, indices, is_float, architecture.file_format)
        if view.latency_s is None:
            missing.append(f"{name}: the tables do not hold all that a prediction of its latency takes.")
        if name not in source.built:
            missing.append(f"{name}: no file of it was built, so there is no mIoU. Run: qaedge build {name}.json")
        told = architecture.costs.get(latency_on(source.device))
        if told and view.latency_s and abs(view.latency_s / told.value - 1) > _CHANGED:
            warnings.append(
                f"{name}: {format_seconds(told.value)} were predicted when it was chosen, the tables now say "
                f"{format_seconds(view.latency_s)}."
            )
        here = {latency_on(source.device): "latency", SIZE: SIZE}
        limits = {here[metric]: limit for metric, limit in architecture.limits.items() if metric in here}
        found.append(Chosen(name, source.origins.get(name, ""), view, limits, source.built.get(name)))
    return found


def _best(source: Source, problems: Sequence[SpaceProblem], warnings: list[str]) -> list[Chosen]:
    """Return the network of least loss within each limit that was asked for."""
    metric = latency_on(source.device)
    own = min((problem.teacher[metric] for problem in problems), default=None)
    found = []
    for text in source.limits:
        if own is None:
            warnings.append(f"Nothing can be chosen within --latency {text}: a table is missing.")
            continue
        limit = parse_limit(text, own, metric)
        try:
            won = rivals.best([p.limited([Constraint(metric, limit)]) for p in problems], metric)
        except Infeasible as error:
            warnings.append(f"No network keeps --latency {text}: {error.message}")
            continue
        chosen = won.problem.candidates(won.choice)
        indices = _network(problems, won.problem, won.choice.indices).indices
        view = _predicted(source, problems, chosen, indices, won.problem.is_float, won.problem.format)
        origin = f"at most {format_cost(metric, limit)}"
        found.append(Chosen(f"within {text}", origin, view, {"latency": limit}))
    return found


def _predicted(
    source: Source,
    problems: Sequence[SpaceProblem],
    network: Sequence[Candidate],
    indices: tuple[int, ...],
    is_float: bool,
    file_format: str,
) -> Network:
    """Return a network with all that the tables predict of it as one kind of file; None for the rest."""
    kind = next((i for i, p in enumerate(problems) if (p.format, p.is_float) == (file_format, is_float)), None)
    table = next((t for t in source.tables if t.format == file_format), None)
    choice = problems[kind].find(network) if kind is not None else None
    loss = rivals.Contestant(problems[kind], choice).score if kind is not None and choice is not None else None
    try:
        latency = table.predict_latency(source.space, network) if table else None
        size = table.predict_size(source.space, network) if table else None
    except NotMeasured:
        latency, size = None, None
    return Network(
        kind,
        indices,
        latency[0] if latency else None,
        float(size) if size is not None else None,
        loss,
        latency[1] if latency else None,
    )


def _measured(source: Source, problems: Sequence[SpaceProblem]) -> list[Measured]:
    """Return every whole network that was measured, the fastest first, with what is predicted of it."""
    found = []
    for table in source.tables:
        for network, row, is_fitted in measured_networks(table, source.space):
            indices = tuple(block.candidates.index(c) for block, c in zip(source.space.blocks, network, strict=True))
            view = _predicted(source, problems, network, indices, network[0].scheme.is_float, table.format)
            found.append(
                Measured(
                    "-".join(map(str, indices)),
                    view,
                    row.measurement.median_s,
                    row.measurement.error_s,
                    row.size_bytes,
                    row.measurement.doubts,
                    is_fitted,
                )
            )
    return sorted(found, key=lambda each: each.measured_s)


def _block(source: Source, block: Block) -> BlockView:
    return BlockView(
        block.name,
        block.input_shape,
        block.output_shape,
        tuple(_candidate(source, block, candidate) for candidate in block.candidates),
    )


def _candidate(source: Source, block: Block, candidate: Candidate) -> CandidateView:
    row = source.losses.rows.get((block.name, str(candidate.spec), str(candidate.scheme)))
    bits = row.layer_bits if row else ()
    layers = draw_layers(candidate, bits)
    return CandidateView(
        spec=str(candidate.spec),
        scheme=str(candidate.scheme),
        is_own=candidate.spec.is_own,
        is_float=candidate.scheme.is_float,
        weight_bits=candidate.scheme.fewest_bits,
        layers=layers,
        bits=() if layers else bits,
        loss=row.loss if row else None,
        float_loss=row.float_loss if row else None,
        recipe=row.recipe if row else "",
        costs=tuple(_cost(table.rows.get(candidate.key)) for table in source.tables),
    )


def _cost(row: LatencyRow | None) -> Cost | None:
    if row is None:
        return None
    measurement = row.measurement
    return Cost(measurement.inside_s, measurement.error_s, row.size_bytes, measurement.doubts)


def _mixed(source: Source) -> list[str]:
    """Say where rows of several states of the device are compared (R15)."""
    keys, found = table_keys(source.space), []
    for table in source.tables:
        mixed = table.mixed(keys)
        if mixed:
            fields = {each.field: each for several in mixed.values() for each in several}
            word = Difference.word
            names = "; ".join(
                f"{f.field} was {word(f.found)}, and is {word(f.wanted)} in the newest" for f in fields.values()
            )
            found.append(
                f"{len(mixed)} of the {len(keys & table.rows.keys())} {table.format} latencies were measured in "
                f"another state of {source.device}: {names}. Measure those again: {table.command}"
            )
    return found


def _doubtful(problems: Sequence[SpaceProblem]) -> list[str]:
    """Say which candidates are left out, and how many were measured with doubts."""
    found = []
    for each in problems:
        kind = f"{each.format}, {'float' if each.is_float else 'integers'}"
        if each.left_out:
            counts = ", ".join(f"{count} in {block}" for block, count in each.left_out.items())
            found.append(f"Candidates without a row in every table are left out ({kind}): {counts}. See: qaedge space")
        for count in each.doubtful.values():
            word = "latency was" if count == 1 else "latencies were"
            found.append(f"{count} {word} measured with doubts ({kind}): see the conditions below.")
    return found
