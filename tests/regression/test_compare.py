import math

import numpy as np
import pytest

from qaedge.errors import NotComparable, UsageError
from qaedge.regression.compare import Side, Verdict, compare, needs_more

QUIET = (1.0, 1.002, 0.998, 1.001, 0.999, 1.003, 0.997, 1.0, 1.002, 0.998)


def side(values, name="a", **fields):
    return Side(name, tuple(values), **fields)


def scaled(factor, values=QUIET):
    # Shifted by one round, so that pairs are not copies of each other.
    return [value * factor for value in (*values[1:], values[0])]


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [
        (1.0, Verdict.SAME),
        (1.02, Verdict.SAME),
        (1.1, Verdict.SLOWER),
        (1.04, Verdict.SLOWER),
        (1 / 1.1, Verdict.FASTER),
        (1 / 1.04, Verdict.FASTER),
        (1.03, Verdict.UNKNOWN),
    ],
)
def test_known_samples(factor, verdict):
    found = compare(side(QUIET), side(scaled(factor), "b"))
    assert found.verdict is verdict
    assert found.ratio == pytest.approx(factor, rel=1e-9)
    assert found.low <= found.ratio <= found.high
    assert (found.rounds, found.threshold, found.noise_floor) == (10, 0.03, 0.0)


def test_exchanging_the_sides_exchanges_the_verdict():
    draw = np.random.default_rng(0)
    mirror = {Verdict.SLOWER: Verdict.FASTER, Verdict.FASTER: Verdict.SLOWER}
    seen = set()
    for factor in (0.8, 0.93, 0.97, 1.0, 1.02, 1.06, 1.2):
        one, two = (tuple(np.exp(draw.normal(0, 0.01, 12)) * f) for f in (1.0, factor))
        there, back = compare(side(one), side(two)).verdict, compare(side(two), side(one)).verdict
        assert back == mirror.get(there, there)
        seen.add(there)
    assert {Verdict.SLOWER, Verdict.FASTER, Verdict.SAME} <= seen


def test_the_greatest_of_the_thresholds_counts():
    one, two = side(QUIET), side(scaled(1.08))
    assert compare(one, two).verdict is Verdict.SLOWER
    assert compare(one, two, threshold=0.1).verdict is Verdict.SAME
    assert compare(one, two, noise_floor=0.04).verdict is Verdict.SAME
    assert compare(one, two, noise_floor=0.04).threshold == pytest.approx(0.12)
    assert compare(one, two, threshold=0.01).threshold == 0.03
    assert compare(side(QUIET), side(scaled(1.02)), least_threshold=0.005).verdict is Verdict.SLOWER


@pytest.mark.parametrize("rounds", range(1, 7))
def test_fewer_than_seven_rounds_decide_nothing(rounds):
    for factor in (1.0, 3.0, 1 / 3):
        assert compare(side(QUIET[:rounds]), side(scaled(factor)[:rounds])).verdict is Verdict.UNKNOWN


def test_seven_rounds_may_decide():
    found = compare(side(QUIET[:7]), side(scaled(1.5)[:7]))
    assert found.verdict is Verdict.SLOWER
    assert found.p_value == pytest.approx(2 / math.comb(14, 7))


def test_exact_counts_that_never_vary_can_be_judged():
    assert compare(side([1.0] * 10), side([1.0] * 10)).verdict is Verdict.SAME
    assert compare(side([1.0] * 10), side([1.05] * 10)).verdict is Verdict.SLOWER
    assert compare(side([1.0] * 10), side([1.01] * 10), least_threshold=0.005).verdict is Verdict.SLOWER


def test_wide_noise_is_not_known_and_asks_for_more_up_to_160():
    draw = np.random.default_rng(3)
    one, two = (tuple(np.exp(draw.normal(0, 0.3, 160))) for _ in range(2))
    asked, rounds = [], 0
    while True:
        found = compare(side(one[: max(rounds, 1)]), side(two[: max(rounds, 1)]))
        more = needs_more(found)
        if not more:
            break
        rounds = found.rounds + more
        asked.append(rounds)
    assert asked == [10, 20, 40, 80, 160]
    assert found.verdict is Verdict.UNKNOWN
    assert needs_more(found) == 0
    assert needs_more(compare(side(QUIET), side(scaled(2.0)))) == 0
    assert needs_more(compare(side(one[:100]), side(two[:100]))) == 60
    assert needs_more(compare(side(one[:8]), side(two[:8]))) == 8
    assert needs_more(compare(side(one[:20]), side(two[:20])), most=30) == 10


def noise(kind, draw, rounds):
    """One value per round for each side; the machine's own mood is common to both."""
    if kind == "quiet":
        common, own = np.zeros(rounds), 0.005
    elif kind == "drifting":
        common, own = np.cumsum(draw.normal(0, 0.01, rounds)), 0.01
    else:
        common, own = np.where(draw.random(rounds) < 0.2, draw.exponential(0.3, rounds), 0.0), 0.02
    return tuple(tuple(np.exp(common + draw.normal(0, own, rounds))) for _ in range(2))


@pytest.mark.parametrize("kind", ["quiet", "drifting", "bursty"])
def test_the_same_file_twice_is_never_slower(kind):
    draw = np.random.default_rng(11)
    slower = 0
    for seed in range(300):
        one, two = noise(kind, draw, 160)
        rounds = 10
        while True:
            found = compare(side(one[:rounds]), side(two[:rounds]), seed=seed)
            more = needs_more(found, most=40)
            if not more:
                break
            rounds += more
        slower += found.verdict is Verdict.SLOWER
    assert slower == 0


def test_five_percent_are_found_at_two_percent_of_noise():
    draw = np.random.default_rng(12)
    found = 0
    for seed in range(40):
        one, two = (np.exp(draw.normal(0, 0.02, 160)) for _ in range(2))
        rounds = 10
        while True:
            judged = compare(side(one[:rounds]), side(two[:rounds] * 1.05), seed=seed)
            more = needs_more(judged)
            if not more:
                break
            rounds += more
        found += judged.verdict is Verdict.SLOWER
    assert found >= 38


def test_the_same_seed_gives_the_same_interval():
    one, two = side(QUIET), side(scaled(1.05))
    assert compare(one, two, seed=4) == compare(one, two, seed=4)
    assert compare(one, two, seed=4).low <= compare(one, two, seed=5).high


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"runtime_version": "1.23.0"}, r"runtime_version is '1\.22\.0' for the baseline and '1\.23\.0' for"),
        ({"threads": 4}, "threads is 1 for the baseline and 4 for the contender"),
        ({"device": "pi4"}, "device is 'local' for the baseline and 'pi4' for the contender"),
        ({"kernel": "6.2"}, r"kernel is '6\.1' for .* and '6\.2' for"),
        (
            {"governor": None},
            "governor is 'performance' for the baseline and nothing for the contender",
        ),
    ],
)
def test_different_conditions_are_not_compared(changed, match):
    lasting = {"device": "local", "runtime_version": "1.22.0", "threads": 1, "kernel": "6.1", "governor": "performance"}
    other = {key: value for key, value in (lasting | changed).items() if value is not None}
    with pytest.raises(NotComparable, match=match):
        compare(side(QUIET, fingerprint=lasting), side(QUIET, "b", fingerprint=other))


def test_a_reboot_spoils_pairs_and_not_a_saved_baseline():
    one, two = (side(QUIET, fingerprint={"boot_id": boot}) for boot in ("a", "b"))
    with pytest.raises(NotComparable, match="boot_id is 'a' for the baseline and 'b' for the contender"):
        compare(one, two)
    assert compare(one, two, paired=False).verdict is Verdict.SAME


def test_sides_that_do_not_pair_are_not_compared():
    with pytest.raises(NotComparable, match="a has 10 rounds and b has 9"):
        compare(side(QUIET), side(QUIET[:9], "b"))
    assert compare(side(QUIET), side(QUIET[:9], "b"), paired=False).verdict is Verdict.SAME
    with pytest.raises(NotComparable, match="a has 0 rounds"):
        compare(side([]), side([], "b"), paired=False)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_time_is_not_compared(value):
    with pytest.raises(NotComparable, match="which is not a time"):
        side([1.0, value])


@pytest.mark.parametrize("wrong", [{"threshold": -0.1}, {"noise_floor": math.nan}, {"least_threshold": -1.0}])
def test_a_threshold_below_nothing_is_a_wrong_use(wrong):
    with pytest.raises(UsageError, match="Give a share from 0"):
        compare(side(QUIET), side(QUIET), **wrong)


def test_size_memory_and_first_run_are_told_where_both_know_them():
    one = side(QUIET, size_bytes=1000, peak_memory_bytes=(100,), first_run_s=(1.0,))
    two = side(QUIET, "b", size_bytes=1100, first_run_s=(1.01,))
    found = compare(one, two)
    assert (found.size_ratio, found.memory_ratio, found.first_run_ratio) == (1.1, None, 1.01)
    assert found.grown == ("size",)
    assert found.verdict is Verdict.SAME


#: First runs as they come: some find the core taken for a tick, and take three times as long.
FIRST = (2.0, 6.1, 2.1, 6.0, 2.0, 6.2, 6.1)


@pytest.mark.parametrize(
    ("memory", "first", "grown"),
    [
        ((130,), FIRST[:1], ("peak memory",)),
        ((120,), (9.0,), ()),  # a single first run tells nothing
        ((104,) * 7, FIRST[::-1], ()),
        ((107,) * 7, FIRST, ("peak memory",)),
        ((107, 107, 107, 107, 99, 99, 99), FIRST, ()),  # the median, and not each time
        ((100,) * 7, tuple(value + 6 for value in FIRST), ("first run",)),
        ((100,) * 7, (6.1, 6.0, 6.2, 6.1, 6.2, 2.0, 2.1), ()),  # chance, as 2 ms and 6 ms fall
        ((130,) * 6, (9.0,) * 6, ("peak memory",)),  # too few loads for the test
    ],
)
def test_memory_and_first_run_are_judged_by_all_loads(memory, first, grown):
    loads = len(memory)
    found = compare(
        side(QUIET, peak_memory_bytes=(100,) * loads, first_run_s=(FIRST * 2)[: len(first)]),
        side(QUIET, "b", peak_memory_bytes=memory, first_run_s=first),
    )
    assert found.grown == grown and found.verdict is Verdict.SAME
