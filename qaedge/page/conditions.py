"""The conditions that rows were measured under, and what their doubts mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from qaedge.fingerprint import fingerprint_of
from qaedge.page.content import Condition, Doubt
from qaedge.tables import LatencyRow
from qaedge.units import format_seconds

#: Each doubt in a sentence; docs/measuring.md says more.
MEANINGS = {
    "boards differ": "several boards share the table, and this one disagreed with the first by more than 5 %",
    "changed": "governor, clock limits or boot id were not the same before and after",
    "disturbed": "too few moments were quiet on its core, so that all count",
    "drifted": "the reference model took over 5 % more or less than when the session began",
    "hot": "the device did not cool down in time",
    "no energy": "the power while it ran could not be told from the power at rest",
    "outliers": "more than 5 % of the samples are far out; the median bears it",
    "retried": "a first process failed, and a second one went through",
    "throttled": "the device cut its clocks: the time is not the network's",
    "under-voltage": "the supply is too weak, and clocks were cut for that: the time is not the network's",
    "unreferenced": "the reference model could not be measured: drift was not seen",
    "unstable": "the rounds did not agree when their limit was reached",
    "waited": "another process had the core for more than 5 % of the time",
}
#: What is told of the device, in this order, and how it is called.
_FACTS = {
    "runtime": "runtime",
    "runtime_version": "version of the runtime",
    "board": "board",
    "cpu_model": "processor",
    "arch": "architecture",
    "kernel": "kernel",
    "governor": "governor",
    "clock_limits_khz": "clock limits [kHz]",
    "power_mode": "power mode",
    "threads": "threads",
    "pin": "pinned to cores",
    "cores": "cores",
}
#: Readings of which the range is told: name in `conditions`, how it is called, and its unit.
_READINGS = (("load_1min", "load over a minute", ""), ("chip_c", "temperature", " °C"))
#: More different values than this are only counted.
_VALUES = 3


def conditions_of(tables: Sequence[Sequence[LatencyRow]]) -> tuple[Condition, ...]:
    """Return what rows tell of the device and of the measuring, for the rows of each format."""
    told = [_told(rows) for rows in tables]
    names = dict.fromkeys(name for each in told for name in each)
    return tuple(Condition(name, tuple(each.get(name, "not told") for each in told)) for name in names)


def doubts_of(formats: Sequence[str], tables: Sequence[Sequence[LatencyRow]]) -> tuple[Doubt, ...]:
    """Return how many rows of each format have which doubt, the most frequent first."""
    found = []
    for name, rows in zip(formats, tables, strict=True):
        counts = Counter(doubt for row in rows for doubt in row.measurement.doubts)
        found += [Doubt(doubt, name, count, MEANINGS.get(doubt, "")) for doubt, count in counts.most_common()]
    return tuple(found)


def _told(rows: Sequence[LatencyRow]) -> dict[str, str]:
    if not rows:
        return {}
    measurements = [row.measurement for row in rows]
    states = [fingerprint_of(m) for m in measurements]
    found: dict[str, str] = {}
    for field, name in _FACTS.items():
        values = Counter(_word(state[field]) for state in states if state.get(field) not in (None, "", [], {}))
        if values:
            found[name] = _listed(values, len(rows))
    found["form of integers"] = _listed(Counter(row.form for row in rows), len(rows))
    began = sorted(m.started_at for m in measurements)
    found["measured"] = _between(_moment(began[0]), _moment(began[-1]))
    boots = {state.get("boot_id") for state in states} - {None, ""}
    if boots:
        found["boots"] = str(len(boots))
    for field, name, unit in _READINGS:
        readings = list(_readings(field, (m.conditions for m in measurements)))
        if readings:
            found[name] = _between(f"{min(readings):g}", f"{max(readings):g}") + unit
    found["rows"] = str(len(rows))
    found["samples of a row"] = _range([len(m.samples_s) for m in measurements])
    found["rounds of a row"] = _range([len(m.rounds) for m in measurements])
    errors = [m.error_s / m.median_s for m in measurements]
    found["standard error"] = (
        f"{100 * sorted(errors)[len(errors) // 2]:.2g} % in the middle, {100 * max(errors):.2g} % at most"
    )
    references = [m.reference_s for m in measurements if m.reference_s]
    if references:
        found["reference model"] = _between(format_seconds(min(references)), format_seconds(max(references)))
    scaled = sum(bool(m.scales) for m in measurements)
    found["rows scaled by the reference model"] = str(scaled)
    return found


def _readings(field: str, conditions: Iterable[dict[str, Any]]) -> Iterable[float]:
    for each in conditions:
        for when in ("before", "after"):
            value = (each.get(when) or {}).get(field)
            if isinstance(value, int | float):
                yield float(value)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        each = {_word(v) for v in value.values()}
        return each.pop() if len(each) == 1 else ", ".join(f"{k}: {_word(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_word, value))
    return str(value)


def _listed(values: Counter[str], rows: int) -> str:
    if len(values) == 1 and values.total() == rows:
        return next(iter(values))
    if len(values) > _VALUES:
        return f"{len(values)} different ones"
    return "; ".join(f"{value} ({count} rows)" for value, count in values.most_common())


def _range(counts: Sequence[int]) -> str:
    return _between(str(min(counts)), str(max(counts)))


def _between(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"


def _moment(text: str) -> str:
    """Return a time as people read it; the tables' own form ends in an offset of zero."""
    return text.replace("T", " ").replace("+00:00", " UTC").replace("Z", " UTC")
