"""Words: an outcome in a line of text, the same in every report."""

from __future__ import annotations

from qaedge.regression.compare import Comparison, Verdict
from qaedge.regression.outcome import Outcome, Outcomes
from qaedge.units import format_seconds

TITLES = {Verdict.SAME: "SAME", Verdict.SLOWER: "SLOWER", Verdict.FASTER: "FASTER", Verdict.UNKNOWN: "UNKNOWN"}


def verdict(outcome: Outcome) -> str:
    """Return what an outcome comes to, in a word or two."""
    if outcome.result is None:
        return "NOT MEASURED"
    if outcome.error:
        return "NOT COMPARED"
    found = TITLES[outcome.verdict] if outcome.verdict else "measured"
    return f"{found}, LIMIT" if outcome.broken else found


def change(comparison: Comparison) -> str:
    """Return "+5.1 % (+4.2 to +6.0)"."""
    return f"{_percent(comparison.ratio)} % ({_percent(comparison.low)} to {_percent(comparison.high)})"


def behind(comparison: Comparison) -> str:
    """Return what a verdict rests on: rounds, samples, p, threshold, noise floor, false alarms."""
    parts = [
        f"{comparison.rounds} rounds a side, {comparison.samples} samples",
        f"p = {comparison.p_value:.2g}",
        f"told from {100 * comparison.threshold:.3g} % on",
        f"noise floor {100 * comparison.noise_floor:.2g} %" if comparison.noise_floor else "noise floor not measured",
    ]
    if comparison.aa_comparisons:
        parts.append(f"false alarms: {comparison.false_slower} of {comparison.aa_comparisons}")
    if comparison.noise_doubt:
        parts.append(f"noise measured in another state ({comparison.noise_doubt}): measure it again")
    return ", ".join(parts)


def problems(outcome: Outcome) -> tuple[str, ...]:
    """Return all that is wrong with an outcome, a line each; nothing where it is well."""
    found = []
    comparison = outcome.comparison
    if comparison is not None and comparison.verdict is Verdict.SLOWER:
        by = f"; the runtime changed, {comparison.runtime_change}" if comparison.runtime_change else ""
        text = f"slower: {change(comparison)}, {format_seconds(comparison.baseline_s)} to "
        found.append(f"{text}{format_seconds(comparison.contender_s)} ({behind(comparison)}){by}")
    found += [f"limit {held.limit} is not kept: {held.found}" for held in outcome.broken]
    if outcome.error:
        found.append(" ".join(outcome.error.split("\n")))
    return tuple(found)


def doubts(outcome: Outcome) -> tuple[str, ...]:
    """Return what is not decided, and what has grown beside latency, a line each."""
    found = []
    comparison = outcome.comparison
    if comparison is not None and comparison.verdict is Verdict.UNKNOWN:
        why = comparison.reason or f"{change(comparison)}, {behind(comparison)}"
        found.append(f"not decided: {why}")
    found += [f"limit {held.limit} cannot be told: {held.found}" for held in outcome.open]
    if comparison is not None and comparison.grown:
        found.append(f"larger than the baseline in: {', '.join(comparison.grown)}")
    return tuple(found)


def summary(found: Outcomes) -> str:
    """Return the count of each verdict: "2 SAME, 1 SLOWER"."""
    counts: dict[str, int] = {}
    for outcome in found.outcomes:
        counts[verdict(outcome)] = counts.get(verdict(outcome), 0) + 1
    return ", ".join(f"{number} {word}" for word, number in counts.items()) or "nothing was measured"


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f}"
