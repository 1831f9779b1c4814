"""A limit: `latency_p90 < 30ms`, `slower_than_baseline < 3%`, `miou > 0.60`; read, and held against a result."""

from __future__ import annotations

import enum
import operator
import re
from collections.abc import Callable

import msgspec

from qaedge.errors import UsageError
from qaedge.regression.compare import Comparison, Verdict, parse_threshold
from qaedge.regression.result import Result
from qaedge.units import format_bytes, format_seconds, parse_bytes, parse_percent, parse_seconds

#: A text is METRIC COMPARISON VALUE.
_FORM = re.compile(r"^\s*(\w+)\s*(<=|>=|<|>)\s*(\S.*?)\s*$")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
SLOWER = "slower_than_baseline"


class Kind(enum.Enum):
    """What a metric is measured in."""

    SECONDS = "30ms"
    BYTES = "2MiB"
    SHARE = "3%"
    SCORE = "0.60"


#: metric -> what it is measured in, whether more is better, and what of a result or a comparison it is.
METRICS: dict[str, Kind] = {
    "latency_median": Kind.SECONDS,
    "latency_p90": Kind.SECONDS,
    "latency_p99": Kind.SECONDS,
    "first_run": Kind.SECONDS,
    "load": Kind.SECONDS,
    "size": Kind.BYTES,
    "peak_memory": Kind.BYTES,
    SLOWER: Kind.SHARE,
    "larger_than_baseline": Kind.SHARE,
    "memory_over_baseline": Kind.SHARE,
    "miou": Kind.SCORE,
    "agreement": Kind.SHARE,
}
#: Those that ask for a baseline, and those that ask for validation images.
OF_A_BASELINE = frozenset({SLOWER, "larger_than_baseline", "memory_over_baseline"})
OF_DATA = frozenset({"miou", "agreement"})
MORE_IS_BETTER = frozenset({"miou", "agreement"})


class Limit(msgspec.Struct, frozen=True):
    """A bound on a metric, in seconds, bytes, or as a share."""

    metric: str
    comparison: str
    value: float
    text: str

    def kept_by(self, value: float) -> bool:
        """Say whether a value keeps it."""
        return _COMPARE[self.comparison](value, self.value)


class Held(msgspec.Struct, frozen=True):
    """A limit held against a result: kept, broken, or None where that cannot be told; and why."""

    limit: str
    kept: bool | None
    found: str


def parse_limit(text: str) -> Limit:
    """Read a limit; raise UsageError where the metric, the comparison or the unit is missing or unknown."""
    match = _FORM.match(text)
    example = "Write it like latency_p90 < 30ms, slower_than_baseline < 3% or miou > 0.60."
    if match is None:
        raise UsageError(f"The limit {text!r} is not METRIC, comparison and value.", example)
    metric, comparison, written = match.groups()
    kind = METRICS.get(metric)
    if kind is None:
        raise UsageError(f"The limit {text!r} is on {metric!r}, which is no metric.", f"Known: {', '.join(METRICS)}.")
    if (comparison[0] == ">") != (metric in MORE_IS_BETTER):
        better = "more" if metric in MORE_IS_BETTER else "less"
        raise UsageError(f"The limit {text!r} forbids what is better.", f"Of {metric}, {better} is better.")
    value = _parse(text, metric, kind, written)
    if not value >= 0 or (not value and kind is not Kind.SHARE):
        raise UsageError(f"The limit {text!r} leaves nothing.", example)
    return Limit(metric, comparison, value, " ".join(text.split()))


def _parse(text: str, metric: str, kind: Kind, written: str) -> float:
    hint = f"Write the value with a unit, like {kind.value}."
    try:
        if kind is Kind.SECONDS:
            return parse_seconds(written)
        if kind is Kind.BYTES:
            return float(parse_bytes(written))
    except UsageError as error:
        raise UsageError(f"The limit {text!r}: {error.message}", hint) from error
    share = parse_percent(written)
    if share is not None and metric == SLOWER:
        try:
            return parse_threshold(written)
        except UsageError as error:
            raise UsageError(f"The limit {text!r}: {error.message}", error.hint) from error
    if share is not None:
        return share
    if kind is Kind.SCORE and re.fullmatch(r"[01]?\.\d+|[01]", written):
        return float(written)
    if kind is Kind.SCORE:
        raise UsageError(f"The limit {text!r}: {written!r} is no score.", "Write it like 0.60 or 60%.")
    raise UsageError(f"The limit {text!r}: {written!r} is not a quantity with a unit.", hint)


def hold(limit: Limit, result: Result, comparison: Comparison | None = None, agreement: float | None = None) -> Held:
    """Hold a limit against what was measured."""
    if limit.metric == SLOWER:
        return _hold_slower(limit, comparison)
    value = _value(limit.metric, result, comparison, agreement)
    if value is None:
        return Held(limit.text, None, "not known")
    if limit.metric.startswith("latency") and not result.is_judged:
        return Held(limit.text, None, f"measured while the device was {' and '.join(result.doubts)}")
    return Held(limit.text, limit.kept_by(value), _word(METRICS[limit.metric], value))


def _hold_slower(limit: Limit, comparison: Comparison | None) -> Held:
    """A time is not held against a limit alone: whether it is slower is a verdict (`compare`), not a ratio."""
    if comparison is None:
        return Held(limit.text, None, "no baseline")
    found = f"{100 * (comparison.ratio - 1):+.1f} %"
    if comparison.verdict is Verdict.UNKNOWN:
        return Held(limit.text, None, f"{found}, not decided")
    if comparison.verdict is Verdict.SLOWER:
        return Held(limit.text, False, found)
    if comparison.threshold > limit.value:  # the device's noise does not let so little be seen
        found += f", told apart from {100 * comparison.threshold:.2g} % on"
    return Held(limit.text, True, found)


def _value(metric: str, result: Result, comparison: Comparison | None, agreement: float | None) -> float | None:
    grown = {
        "larger_than_baseline": comparison.size_ratio if comparison else None,
        "memory_over_baseline": comparison.memory_ratio if comparison else None,
    }
    if metric in grown:
        ratio = grown[metric]
        return ratio - 1 if ratio is not None else None
    known: dict[str, float | None] = {
        "latency_median": result.median_s,
        "latency_p90": _seconds(result.p90_ns),
        "latency_p99": _seconds(result.p99_ns),
        "first_run": _seconds(result.first_run_ns),
        "load": _seconds(result.load_ns),
        "size": float(result.size_bytes),
        "peak_memory": float(result.peak_memory_bytes) if result.peak_memory_bytes else None,
        "miou": result.miou,
        "agreement": agreement,
    }
    return known[metric]


def _seconds(value_ns: int | None) -> float | None:
    return value_ns * 1e-9 if value_ns is not None else None


def _word(kind: Kind, value: float) -> str:
    if kind is Kind.SECONDS:
        return format_seconds(value)
    if kind is Kind.BYTES:
        return format_bytes(round(value))
    return f"{100 * value:.2f} %" if kind is Kind.SHARE else f"{value:.4f}"
