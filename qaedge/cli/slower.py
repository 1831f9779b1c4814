"""Slower: candidates that gain nothing on a device from having fewer bits, by the rows of its table."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from qaedge import report
from qaedge.candidate import Candidate, QuantScheme
from qaedge.measurement import Measurement
from qaedge.space import SearchSpace
from qaedge.tables import LatencyTable
from qaedge.units import format_seconds

#: What integers are compared with.
FLOAT = (QuantScheme(32, 32),)
#: The bits of weights that fewer are compared with, the first that was measured: on x86 without VNNI, 7 bits take the
#: place of 8. Activations have as many bits in both: more of those are no gain in speed to be missed.
WIDEST = 8, 7
#: So many of a kind are named one by one.
NAMED = 8
#: A difference counts from so many of its standard errors on, and from this share: there are hundreds of rows, and
#: rows that were measured minutes apart differ by more than the rounds within each tell (`compare` has the same share).
ERRORS, LEAST = 3.0, 0.03


class Slower(msgspec.Struct, frozen=True):
    """A candidate that takes longer quantized than in float [s], without the call of either (R12)."""

    spec: str
    scheme: str
    integer_s: float
    float_s: float


class SlowerBits(msgspec.Struct, frozen=True):
    """A candidate that takes longer with fewer bits of weights than in another scheme, such as w8a8 or w7a8 [s].

    Both are without the call (R12); `error_s` is the standard error of the difference.
    """

    spec: str
    scheme: str
    scheme_s: float
    other: str
    other_s: float
    error_s: float


def slower_in_integers(space: SearchSpace, table: LatencyTable) -> tuple[Slower, ...]:
    """Return which candidates are slower quantized than in float on this device, where both were measured."""
    return tuple(
        Slower(str(one.spec), str(one.scheme), mine.inside_s, real.inside_s)
        for one, mine, _, real in _pairs(space, table, lambda scheme: FLOAT)
        if mine.inside_s > real.inside_s
    )


def slower_in_fewer_bits(space: SearchSpace, table: LatencyTable) -> tuple[SlowerBits, ...]:
    """Return which candidates are slower with fewer bits of weights than 8 or 7, beyond what the two rows may err.

    A row that was taken while the device throttled says nothing of a candidate, and is left out.
    """
    found = []
    for one, mine, other, wide in _pairs(space, table, _widest):
        difference = mine.inside_s - wide.inside_s
        error = (mine.error_s**2 + wide.error_s**2) ** 0.5
        spoiled = mine.is_spoiled or wide.is_spoiled
        if not spoiled and difference > max(ERRORS * error, LEAST * wide.inside_s):
            found.append(SlowerBits(str(one.spec), str(one.scheme), mine.inside_s, str(other), wide.inside_s, error))
    return tuple(found)


def _widest(scheme: QuantScheme) -> tuple[QuantScheme, ...]:
    return tuple(QuantScheme(bits, scheme.activation_bits) for bits in WIDEST)


def _pairs(
    space: SearchSpace, table: LatencyTable, schemes: Callable[[QuantScheme], tuple[QuantScheme, ...]]
) -> list[tuple[Candidate, Measurement, QuantScheme, Measurement]]:
    """Return the integer candidates with their rows, and that of the first other scheme of `schemes` it has one in."""
    found = []
    for candidate in space.unique():
        if candidate.scheme.is_float or candidate.key not in table.rows:
            continue
        others = [msgspec.structs.replace(candidate, scheme=scheme) for scheme in schemes(candidate.scheme)]
        other = next((one for one in others if one.key in table.rows), candidate)
        if other.scheme != candidate.scheme:
            rows = [table.rows[one.key].measurement for one in (candidate, other)]
            found.append((candidate, rows[0], other.scheme, rows[1]))
    return found


def show(slower: tuple[Slower, ...], bits: tuple[SlowerBits, ...]) -> None:
    """Print a line for each of the first of either kind."""
    _lines([(s.spec, s.scheme, "in float", s.integer_s, s.float_s) for s in slower])
    _lines([(s.spec, s.scheme, f"as {s.other}", s.scheme_s, s.other_s) for s in bits])


def _lines(found: list[tuple[str, str, str, float, float]]) -> None:
    for spec, scheme, than, mine_s, other_s in found[:NAMED]:
        report.line(
            f"{spec} is slower as {scheme} than {than}: {format_seconds(mine_s)}, "
            f"{format_seconds(other_s)} ({100 * (mine_s / other_s - 1):+.0f} %)"
        )
    if len(found) > NAMED:
        report.line(f"and {len(found) - NAMED} more that are slower than {found[0][2]}, all in --json")
