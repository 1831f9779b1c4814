import pytest

from qaedge.errors import UsageError
from qaedge.metric import describe_miss, format_cost, kind_of, latency_on, parse_limit, title


def test_names_and_titles():
    assert latency_on("pi4") == "latency@pi4"
    assert kind_of("latency@pi4") == "latency"
    assert (title("latency@pi4"), title("size")) == ("latency on pi4", "size")
    assert format_cost("latency@pi4", 0.0213) == "21.3 ms"
    assert format_cost("size", 1572864.0) == "1.50 MiB"
    assert format_cost("energy@pi4", 0.25) == "0.25"


def test_a_miss_is_told_with_units():
    assert describe_miss("latency@local", 0.0213, 0.015) == (
        "latency on local: the fastest network takes 21.3 ms, the limit is 15 ms: 6.3 ms too slow"
    )
    assert describe_miss("size", 2 * 2**20, 2**20) == (
        "size: the smallest network takes 2.00 MiB, the limit is 1.00 MiB: 1.00 MiB too large"
    )
    assert describe_miss("energy", 3.0, 2.0) == "energy: the least network takes 3, the limit is 2: 1 too much"


def test_limits_are_quantities_or_shares_of_the_teacher():
    assert parse_limit("25ms", 0.1, "latency") == pytest.approx(0.025)
    assert parse_limit("75%", 0.1, "latency@pi4") == pytest.approx(0.075)
    assert parse_limit("1.5MiB", 1.0, "size") == 1572864
    assert parse_limit("50%", 3e6, "size") == 1.5e6


@pytest.mark.parametrize(
    ("text", "kind", "match"),
    [
        ("25", "latency", "limit on latency is '25'.*\n.*like 25ms; units: .*\n.*share.*75%"),
        ("25MiB", "latency", "limit on latency"),
        ("25ms", "size", "limit on size is '25ms'.*\n.*like 1.5MiB"),
        ("0ms", "latency", "nothing takes that little"),
        ("0%", "size", "nothing takes that little"),
        ("5", "energy", "'energy' cannot be limited.*\nKnown: latency, size"),
    ],
)
def test_a_limit_that_is_none_says_how_to_write_one(text, kind, match):
    with pytest.raises(UsageError, match=match):
        parse_limit(text, 1.0, kind)
