from __future__ import annotations

import msgspec
import pytest
from synthetic import make_result

from qaedge.errors import UsageError
from qaedge.regression.compare import Verdict, compare
from qaedge.regression.limit import hold, parse_limit

FAST = make_result([1e-3] * 10)


def comparison(factor):
    values = [1.0, 1.002, 0.998, 1.001, 0.999, 1.003, 0.997, 1.0, 1.002, 0.998]
    one, two = make_result([v * 1e-3 for v in values]), make_result([v * 1e-3 * factor for v in values[::-1]])
    return compare(one.side("a"), two.side("b"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("latency_p90 < 30ms", 0.03),
        ("slower_than_baseline<3%", 0.03),
        ("miou > 0.60", 0.6),
        ("miou >= 60%", 0.6),
        ("size <= 2MiB", 2 * 2**20),
        ("slower_than_baseline < 1000%", 10.0),
        ("larger_than_baseline <= 0%", 0.0),
    ],
)
def test_limits_are_read(text, value):
    assert parse_limit(text).value == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("latency_p90 < 30", "not a quantity with a unit"),
        ("latency_p90 < 30 parsecs", "not a quantity with a unit"),
        ("size < 2ms", "not a quantity with a unit"),
        ("slower_than_baseline < 3", "not a quantity with a unit"),
        ("miou > 60", "is no score"),
        ("speed < 3ms", "is no metric"),
        ("latency_p90", "not METRIC, comparison and value"),
        ("latency_p90 > 30ms", "forbids what is better"),
        ("miou < 0.6", "forbids what is better"),
        ("latency_p90 < 0ms", "leaves nothing"),
        ("slower_than_baseline < 0%", "'0%' tells nothing apart"),
        ("slower_than_baseline < 1001%", "'1001%' tells nothing apart"),
    ],
)
def test_what_is_no_limit_is_told(text, said):
    with pytest.raises(UsageError, match=said):
        parse_limit(text)


def test_limits_are_held_against_results():
    assert hold(parse_limit("latency_median < 2ms"), FAST).kept is True
    assert hold(parse_limit("latency_median < 0.5ms"), FAST).kept is False
    assert hold(parse_limit("latency_p99 < 2ms"), FAST).kept is None, "too few samples tell nothing"
    assert hold(parse_limit("miou > 0.5"), FAST).kept is None
    assert hold(parse_limit("miou > 0.5"), msgspec.structs.replace(FAST, miou=0.6)).kept is True
    assert hold(parse_limit("agreement > 99%"), FAST, None, 0.98).kept is False
    throttled = msgspec.structs.replace(FAST, doubts=("throttled",))
    assert hold(parse_limit("latency_median < 2ms"), throttled).kept is None


@pytest.mark.parametrize(
    ("factor", "verdict", "kept"), [(1.0, "same", True), (1.2, "slower", False), (1.03, "unknown", None)]
)
def test_slowness_is_a_verdict_and_not_a_ratio(factor, verdict, kept):
    found = comparison(factor)
    assert found.verdict is Verdict(verdict)
    assert hold(parse_limit("slower_than_baseline < 1%"), FAST, found).kept is kept
    assert hold(parse_limit("slower_than_baseline < 1%"), FAST).kept is None
