"""What `profile` says of candidates that gain nothing from fewer bits."""

from __future__ import annotations

import msgspec
import pytest
from tiny_tables import measured

from qaedge.candidate import BlockSpec, Candidate, QuantScheme
from qaedge.cli.slower import NAMED, show, slower_in_fewer_bits, slower_in_integers
from qaedge.measurement import Measurement
from qaedge.space import Block, SearchSpace
from qaedge.tables import LatencyRow, LatencyTable

SHAPE = (8, 16, 16)
SPEC = BlockSpec.parse("ir_k3_s1_e2_c8")


def noisy(milliseconds: float, spread: float = 0.0) -> Measurement:
    """Five rounds whose medians lie so far apart, as a share."""
    rounds = tuple((milliseconds / 1e3 * (1 + spread * place),) * 10 for place in (-1, -0.5, 0, 0.5, 1))
    return msgspec.structs.replace(measured(milliseconds), rounds=rounds)


def tables(rows: dict[str, Measurement], spec: BlockSpec = SPEC) -> tuple[SearchSpace, LatencyTable]:
    candidates = [Candidate(spec, QuantScheme.parse(scheme), SHAPE) for scheme in rows]
    space = SearchSpace("s", "t" * 64, (Block("one", SHAPE, SHAPE, tuple(candidates)),))
    found = [LatencyRow(c.key, "u8s8", 1, 1, rows[str(c.scheme)]) for c in candidates]
    return space, LatencyTable("local", found)


def test_fewer_bits_that_are_slower_are_told_with_both_figures():
    rows = {"w8a8": noisy(10), "w4a8": noisy(15), "w4dw8a8": noisy(9), "w2a8": noisy(10), "fp32": noisy(12)}
    (found,) = slower_in_fewer_bits(*tables(rows))
    assert (found.spec, found.scheme, found.other) == (str(SPEC), "w4a8", "w8a8")
    assert (found.scheme_s, found.other_s, found.error_s) == (pytest.approx(0.015), pytest.approx(0.01), 0.0)
    (real,) = slower_in_integers(*tables(rows))
    assert (real.scheme, real.integer_s, real.float_s) == ("w4a8", pytest.approx(0.015), pytest.approx(0.012))


@pytest.mark.parametrize(
    ("few", "eight", "told"),
    [
        (noisy(10.2), noisy(10), False),  # less than the 3 % that rows of one table may be apart
        (noisy(10.5), noisy(10), True),
        (noisy(10.5, 0.05), noisy(10), False),  # within what its rounds leave open
        (noisy(10.5), noisy(10, 0.05), False),
        (noisy(15, 0.05), noisy(10, 0.05), True),
        (noisy(5), noisy(10), False),
        (msgspec.structs.replace(noisy(20), doubts=("throttled",)), noisy(10), False),
        (noisy(20), msgspec.structs.replace(noisy(10), doubts=("under-voltage",)), False),
    ],
)
def test_a_difference_counts_beyond_what_the_rows_may_err(few, eight, told):
    assert bool(slower_in_fewer_bits(*tables({"w8a8": eight, "w4a8": few}))) == told


def test_seven_bits_take_the_place_of_eight_where_those_were_not_measured():
    (found,) = slower_in_fewer_bits(*tables({"w7a8": noisy(10), "w4a8": noisy(12)}))
    assert (found.scheme, found.other) == ("w4a8", "w7a8")
    both = slower_in_fewer_bits(*tables({"w8a8": noisy(8), "w7a8": noisy(10), "w4a8": noisy(9)}))
    assert [(f.scheme, f.other) for f in both] == [("w7a8", "w8a8"), ("w4a8", "w8a8")]
    assert slower_in_fewer_bits(*tables({"w4a8": noisy(10), "w2a8": noisy(20)})) == ()


def test_more_bits_of_activations_are_no_gain_to_be_missed():
    rows = {"w8a8": noisy(10), "w8a16": noisy(20), "w4a16": noisy(25), "w4a8": noisy(9), "fp32": noisy(15)}
    (found,) = slower_in_fewer_bits(*tables(rows))
    assert (found.scheme, found.other, found.other_s) == ("w4a16", "w8a16", pytest.approx(0.02))
    assert [one.scheme for one in slower_in_integers(*tables(rows))] == ["w8a16", "w4a16"]


def test_what_was_not_measured_is_not_compared():
    space, _ = tables({"w8a8": noisy(10), "w4a8": noisy(15), "fp32": noisy(1)})
    assert slower_in_fewer_bits(space, LatencyTable("local", [])) == slower_in_integers(space, LatencyTable("l", []))


def test_the_first_are_named_and_the_rest_counted(capsys):
    (one,) = slower_in_fewer_bits(*tables({"w8a8": noisy(10), "w4a8": noisy(15)}))
    show((), (one,) * (NAMED + 2))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{SPEC} is slower as w4a8 than as w8a8: 15 ms, 10 ms (+50 %)"
    assert len(lines) == NAMED + 1 and lines[-1] == "and 2 more that are slower than as w8a8, all in --json"
