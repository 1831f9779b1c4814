"""The turns of `search --verify`: search, measure the best whole, learn from them, search what was not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from qaedge import report
from qaedge.candidate import Candidate
from qaedge.cli.asked import Asked
from qaedge.cli.problems import Terms, problems_of
from qaedge.cli.whole import WholeNetworks
from qaedge.errors import Infeasible, MeasurementError
from qaedge.metric import latency_on
from qaedge.network_key import network_key, places_of
from qaedge.units import format_seconds

if TYPE_CHECKING:
    from qaedge.measurement import Measurement
    from qaedge.search.rivals import Contestant
    from qaedge.search.space_problem import SpaceProblem

#: More turns than this mean that the table and the device do not agree, and more of the same will not mend it.
MOST = 12


class Turn(msgspec.Struct, frozen=True):
    """A network that was the best or among them, as it was predicted before it was measured, and as it was measured.

    Times in seconds. `keeps` says whether it keeps the limit on this device as measured, by the margin; `model`,
    `networks` and `relative_error` are of the fit that predicted it (`qaedge.fit`).
    """

    turn: int
    place: int
    network: str
    format: str
    loss: float
    predicted_s: float
    error_s: float
    measured_s: float
    limit_s: float | None
    keeps: bool
    model: str
    networks: int
    relative_error: float


class Ended(msgspec.Struct, frozen=True, eq=False):
    """How the turns ended.

    Attributes:
        problems: as the tables have them now.
        verified: the measured networks that keep their limits, the best first; at least one.
        turns: what was measured, and how the answer was.
    """

    problems: list[SpaceProblem]
    verified: list[Contestant]
    turns: tuple[Turn, ...]


def take_turns(held: WholeNetworks, asked: Asked, terms: Terms, count: int, differ: int, show: bool) -> Ended:
    """Search and measure until no network that was not measured could be better than the best that was.

    A measured network keeps a limit where its measurement does, by its own standard errors.

    Args:
        held: the device.
        asked: the limits.
        terms: of the search.
        count: how many of the best are measured in a turn.
        differ: in how many blocks they differ from each other, at least.
        show: print the turns.

    Raises:
        Infeasible: no network keeps the limits, or none that was not measured to miss them.
        MeasurementError: a network could not be measured, or the turns did not end.
    """
    from qaedge.search import rivals

    metric = latency_on(held.name)
    turns: list[Turn] = []
    again: set[str] = set()
    for number in range(1, MOST + 1):
        problems = problems_of(held.workspace, held.name, asked, terms, warn=number == 1)
        limit = problems[0].problem.limits.get(metric)
        known = {problem.format: _known(problem, held.name) for problem in problems}
        verified = _verified(problems, known, metric, terms.margin)
        try:
            networks = rivals.top(problems, metric, count, differ, {kind: list(there) for kind, there in known.items()})
        except Infeasible:
            if not verified:
                raise
            networks = []
        if verified and (not networks or verified[0].score <= networks[0].score):
            best = verified[0]
            told = _turn(number, 1, best, held.name, known[best.problem.format][_network(best)], limit, terms.margin)
            if _is_off(told, terms.margin) and told.network not in again:
                # One of the two is wrong: a second measurement, loaded anew, tells which.
                again.add(told.network)
                if show:
                    _show(told, f"turn {number}: off by more than its error, so it is measured once more:")
                _measure(held, [best])
                continue
            turns.append(told)
            if show:
                _show(turns[-1], f"turn {number}: the best network was measured:")
            _doubt(turns[-1], terms.margin)
            return Ended(problems, verified, tuple(turns))
        _measure(held, networks)
        if show:
            report.line(f"turn {number}: {_fit_of(networks[0], held.name)}")
        for place, one in enumerate(networks, 1):
            table = held.table(one.problem.format)
            row = table.row(network_key(held.space, places_of(held.space, _network(one))))
            turns.append(_turn(number, place, one, held.name, row.measurement, limit, terms.margin))
            if show:
                _show(turns[-1], f"  {place}.")
    raise MeasurementError(
        f"After {MOST} turns there still is a network that could be better, and was not measured.",
        "The rows of the networks that were measured are kept, and the same command goes on from there.\n"
        f"See how well the table predicts: qaedge table check --device {held.name}",
    )


def _verified(
    problems: Sequence[SpaceProblem],
    known: Mapping[str, Mapping[tuple[Candidate, ...], Measurement]],
    metric: str,
    z: float,
) -> list[Contestant]:
    """Return the measured networks that keep all limits, that on `metric` as measured; the best first."""
    from qaedge.search.rivals import Contestant

    found = []
    for problem in problems:
        limit = problem.problem.limits.get(metric)
        others = problem.limited(c for c in problem.problem.constraints if c.metric != metric)
        for network, measured in known[problem.format].items():
            choice = problem.find(network)
            if choice is None or not others.keeps_limits(choice):
                continue
            if limit is None or measured.median_s + z * measured.error_s <= limit:
                found.append(Contestant(problem, choice))
    return sorted(found, key=lambda one: (one.score, one.choice.costs[metric]))


def _network(one: Contestant) -> tuple[Candidate, ...]:
    return one.problem.candidates(one.choice)


def _known(problem: SpaceProblem, device: str) -> dict[tuple[Candidate, ...], Measurement]:
    """Return the networks that were measured whole as the files of a problem."""
    found = problem.latencies[device].networks(problem.space)
    return {n: row.measurement for n, row in found if n[0].scheme.is_float == problem.is_float}


def _measure(held: WholeNetworks, networks: Sequence[Contestant]) -> None:
    """Measure networks, those of one format together; raise MeasurementError where one could not be."""
    for kind in dict.fromkeys(one.problem.format for one in networks):
        wanted = {
            network_key(held.space, places_of(held.space, _network(one))): _network(one)
            for one in networks
            if one.problem.format == kind
        }
        if failed := held.measure(kind, wanted):
            raise MeasurementError(
                f"{len(failed)} of {len(wanted)} networks were not measured.",
                "\n".join(f"{one.artifact.name}: {one.error.message}" for one in failed)
                + "\nThe others are in the table, and the same command goes on from there.",
            )


def _turn(
    number: int, place: int, one: Contestant, device: str, measured: Measurement, limit: float | None, z: float
) -> Turn:
    table = one.problem.latencies[device]
    predicted, error = table.predict_latency(one.problem.space, _network(one))
    fitted = table.fit(one.problem.space, one.problem.is_float)
    return Turn(
        turn=number,
        place=place,
        network="-".join(map(str, places_of(one.problem.space, _network(one)))),
        format=one.problem.format,
        loss=one.choice.loss,
        predicted_s=predicted,
        error_s=error,
        measured_s=measured.median_s,
        limit_s=limit,
        keeps=limit is None or measured.median_s + z * measured.error_s <= limit,
        model=fitted.model,
        networks=fitted.networks,
        relative_error=fitted.relative_error,
    )


def _fit_of(one: Contestant, device: str) -> str:
    fitted = one.problem.latencies[device].fit(one.problem.space, one.problem.is_float)
    if not fitted.networks:
        return "no whole network was measured yet; block differences are added up as they are"
    return (
        f"predictions learn from {fitted.networks} whole networks ({fitted.model}, {fitted.statistic}), "
        f"error {100 * fitted.relative_error:.1f} %"
    )


def _show(turn: Turn, head: str) -> None:
    limit = ""
    if turn.limit_s is not None:
        kept = "kept" if turn.keeps else "not surely kept" if turn.measured_s <= turn.limit_s else "missed"
        limit = f", limit {format_seconds(turn.limit_s)}: {kept}"
    report.line(
        f"{head} loss {turn.loss:.4f}, predicted {format_seconds(turn.predicted_s)} ± {format_seconds(turn.error_s)}, "
        f"measured {format_seconds(turn.measured_s)} ({100 * (turn.predicted_s / turn.measured_s - 1):+.1f} %){limit}"
    )


def _is_off(turn: Turn, margin: float) -> bool:
    """Whether a prediction is off by more than its error allows."""
    return abs(turn.predicted_s - turn.measured_s) > max(margin, 1.0) * turn.error_s


def _doubt(turn: Turn, margin: float) -> None:
    """Warn where the prediction of the answer is off by more than its error allows."""
    if _is_off(turn, margin):
        off = abs(turn.predicted_s - turn.measured_s)
        report.warn(
            f"the network that was found is predicted {format_seconds(off)} off what it takes, more than its error "
            f"of {format_seconds(turn.error_s)} allows: the table misses something about it."
        )
