"""Seconds and bytes: parse what people type, print what people read."""

from __future__ import annotations

import re
from typing import TypeAlias

from qaedge.errors import UsageError

Seconds: TypeAlias = float
Bytes: TypeAlias = int

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_QUANTITY = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-zµ%]+)\s*$")


def _parse(text: str, units: dict[str, float] | dict[str, int], example: str) -> float:
    match = _QUANTITY.match(text.replace("\u03bc", "\u00b5"))  # Greek mu, as some keyboards type it
    if match is None or match.group(2) not in units:
        raise UsageError(
            f"{text!r} is not a quantity with a unit.",
            f"Write it like {example}; units: {', '.join(units)}.",
        )
    return float(match.group(1)) * units[match.group(2)]


def parse_seconds(text: str) -> Seconds:
    """Return the seconds in "25ms"; raise UsageError where the unit is missing or unknown."""
    return _parse(text, _SECONDS, "25ms")


def parse_bytes(text: str) -> Bytes:
    """Return the bytes in "1.5MiB"; raise UsageError where the unit is missing or unknown."""
    return round(_parse(text, _BYTES, "1.5MiB"))


def parse_percent(text: str) -> float | None:
    """Return 0.75 for "75%", and None for anything that is not a percentage."""
    match = _QUANTITY.match(text)
    return float(match.group(1)) / 100 if match and match.group(2) == "%" else None


def format_seconds(value: Seconds) -> str:
    """Return a duration with three significant digits: "43.2 ms"."""
    if abs(value) >= 1000:
        return f"{value:.0f} s"
    value = float(f"{value:.3g}")  # rounded first, so that 999.9 us is "1 ms" and not "1e+03 us"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def format_joules(value: float) -> str:
    """Return an energy with three significant digits: "4.31 mJ"."""
    return f"{format_seconds(value)[:-1]}J"


def format_count(value: float) -> str:
    """Return a count with three significant digits: "12.3 M"."""
    value = float(f"{value:.3g}")  # rounded first, as seconds are
    for unit, scale in ((" G", 1e9), (" M", 1e6), (" k", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{unit}"
    return f"{value:.3g}"


def format_bytes(value: Bytes) -> str:
    """Return a size in binary units: "2.37 MiB"."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(value) >= scale - scale // 204800:  # what would print as 1024.00 of the unit below
            return f"{value / scale:.2f} {unit}"
    return f"{value} B"
