"""A metric: what a network costs and a limit bounds: `latency@DEVICE` [s], `size` and `peak_memory` [bytes]."""

from __future__ import annotations

from qaedge.errors import UsageError
from qaedge.units import format_bytes, format_seconds, parse_bytes, parse_percent, parse_seconds

SIZE = "size"
#: The most bytes of activations that any layer needs at once.
PEAK_MEMORY = "peak_memory"
_LATENCY = "latency"

#: kind -> (what the least network is called, what it does, what too much of it is).
_WORDS = {
    _LATENCY: ("the fastest network takes", "too slow"),
    SIZE: ("the smallest network takes", "too large"),
    PEAK_MEMORY: ("the leanest network takes", "too much"),
}


def latency_on(device: str) -> str:
    """Return the name of the latency metric of a device."""
    return f"{_LATENCY}@{device}"


def kind_of(metric: str) -> str:
    """Return what comes before the device: "latency" for "latency@pi4"."""
    return metric.partition("@")[0]


def title(metric: str) -> str:
    """Return a metric as people read it: "latency on pi4"."""
    kind, _, device = metric.partition("@")
    kind = kind.replace("_", " ")
    return f"{kind} on {device}" if device else kind


def format_cost(metric: str, value: float) -> str:
    """Return a cost with its unit: "21.3 ms", "1.20 MiB"; a plain number for an unknown kind."""
    if kind_of(metric) == _LATENCY:
        return format_seconds(value)
    if kind_of(metric) in (SIZE, PEAK_MEMORY):
        return format_bytes(round(value))
    return f"{value:.6g}"


def describe_miss(metric: str, least: float, limit: float) -> str:
    """Return by how much the least network misses a limit.

    "latency on local: the fastest network takes 21.3 ms, the limit is 15 ms: 6.3 ms too slow".
    """
    least_is, too_much = _WORDS.get(kind_of(metric), ("the least network takes", "too much"))
    excess = format_cost(metric, least - limit)
    text = f"{title(metric)}: {least_is} {format_cost(metric, least)}, the limit is {format_cost(metric, limit)}"
    return f"{text}: {excess} {too_much}"


def parse_limit(text: str, teacher_value: float | None, kind: str) -> float:
    """Return a limit in base units [s, bytes]: a quantity with a unit, or a share of the teacher's own.

    Args:
        text: "25ms", "1.2MiB", or "75%".
        teacher_value: what the teacher costs in this metric [s or bytes]; None where nobody knows.
        kind: "latency", "size" or "peak_memory"; a metric such as "latency@pi4" is taken for its kind.

    Raises:
        UsageError: no unit, another kind's unit, or a limit of nothing.
    """
    parsers = {_LATENCY: (parse_seconds, "25ms"), SIZE: (parse_bytes, "1.2MiB"), PEAK_MEMORY: (parse_bytes, "300KiB")}
    if kind_of(kind) not in parsers:
        raise UsageError(f"{kind!r} cannot be limited.", f"Known: {', '.join(parsers)}.")
    parse, example = parsers[kind_of(kind)]
    share = parse_percent(text)
    if share is not None and teacher_value is None:
        raise UsageError(
            f"The limit on {title(kind_of(kind))} is {text!r}, and nobody knows the teacher's own.",
            f"Write it like {example}.",
        )
    try:
        value = float(parse(text)) if share is None or teacher_value is None else share * teacher_value
    except UsageError as error:
        raise UsageError(
            f"The limit on {title(kind_of(kind))} is {text!r}, which is not a quantity of it.",
            f"{error.hint}\nOr write a share of the teacher's own: 75%.",
        ) from error
    if value <= 0:
        raise UsageError(
            f"The limit on {title(kind_of(kind))} is {text!r}; nothing takes that little.", f"Write it like {example}."
        )
    return value
