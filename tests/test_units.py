import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaedge.errors import UsageError
from qaedge.units import format_bytes, format_count, format_seconds, parse_bytes, parse_percent, parse_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("25ms", 0.025),
        (" 1.5 s ", 1.5),
        ("300ns", 3e-7),
        ("40us", 4e-5),
        ("40\u00b5s", 4e-5),
        ("40\u03bcs", 4e-5),
        ("2min", 120.0),
    ],
)
def test_seconds(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "size"), [("1.5MiB", 1572864), ("4MiB", 4194304), ("2kB", 2000), ("7B", 7), ("1GB", 10**9)]
)
def test_bytes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["25", "ms", "", "-5ms", "1e3ms", "25 MiB", "1.ms", "25msx", "nan s", "25%"])
def test_what_is_not_a_duration_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match="Write it like 25ms; units: ns, us"):
        parse_seconds(text)


@pytest.mark.parametrize("text", ["25", "25ms", "1.5 mib", "-1B", "75%"])
def test_what_is_not_a_size_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match=r"Write it like 1\.5MiB; units: B, kB"):
        parse_bytes(text)


def test_percent():
    assert parse_percent("75%") == 0.75
    assert parse_percent(" 12.5 % ") == 0.125
    assert parse_percent("75ms") is None
    assert parse_percent("75") is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0432, "43.2 ms"),
        (1.0, "1 s"),
        (0.9996, "1 s"),
        (9.996e-4, "1 ms"),
        (9.996e-7, "1 us"),
        (12e-9, "12 ns"),
        (0.0, "0 ns"),
        (-0.005, "-5 ms"),
        (1234.5, "1234 s"),
    ],
)
def test_durations_print_with_three_digits(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (2**20 - 1, "1.00 MiB"),
        (2**20 - 6, "1023.99 KiB"),
        (2485125, "2.37 MiB"),
        (-2048, "-2.00 KiB"),
        (3 * 2**30, "3.00 GiB"),
    ],
)
def test_sizes_print_in_binary_units(size, text):
    assert format_bytes(size) == text


@given(st.floats(1e-9, 1e5))
def test_a_printed_duration_parses_back_to_three_digits(seconds):
    assert parse_seconds(format_seconds(seconds)) == pytest.approx(seconds, rel=6e-3)


@given(st.integers(0, 2**45))
def test_a_printed_size_parses_back(size):
    text = format_bytes(size)
    assert not text.startswith("1024.00 ") or text.endswith("GiB")
    assert parse_bytes(text) == pytest.approx(size, rel=6e-3)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0.4, "0.4"), (999.0, "999"), (999.9, "1 k"), (12_340_000.0, "12.3 M"), (5e9, "5 G"), (7e12, "7e+03 G")],
)
def test_counts_have_three_digits(count, text):
    assert format_count(count) == text
