"""Warm-up, rounds and stopping on known times: the clock is a list."""

import itertools
import math
import random
import statistics

import sampling
from hypothesis import given
from hypothesis import strategies as st

SETTINGS = {
    "sample_s": 1e-3,
    "warmup_runs": 3,
    "warmup_s": 0.1,
    "warmup_limit_s": 2.0,
    "warmup_window": 5,
    "warmup_within": 0.02,
    "rewarm_runs": 2,
    "rewarm_s": 0.005,
    "round_samples": 10,
    "round_s": 0.05,
    "rounds_min": 3,
    "rounds_max": 9,
    "rounds_within": 0.02,
    "confidence_within": 0.01,
}


class Machine:
    """A clock, and a run that takes the next of some durations [ns]."""

    def __init__(self, durations):
        self.now = 0
        self.runs = 0
        self._durations = iter(durations)

    def run(self):
        self.runs += 1
        self.now += next(self._durations)

    def clock(self):
        return self.now


def steady(ns):
    return Machine(itertools.repeat(ns))


def test_a_sample_is_the_time_of_its_runs():
    assert sampling.sample((m := steady(7)).run, 5, m.clock) == 35


def test_a_sample_is_never_nothing():
    assert sampling.sample((m := steady(0)).run, 5, m.clock) == 1


@given(st.floats(min_value=1, max_value=1e9), st.integers(min_value=1, max_value=10**8))
def test_samples_last_long_enough_and_not_a_run_longer(run_ns, sample_ns):
    repeats = sampling.repeats_for(run_ns, sample_ns)
    assert repeats == 1 or (repeats - 1) * run_ns < sample_ns
    assert repeats * run_ns >= sample_ns * (1 - 1e-9)


def test_warm_up_of_a_steady_machine_ends_at_its_least():
    machine = steady(100_000)
    times, repeats, is_steady, spent = sampling.warm_up(machine.run, SETTINGS, machine.clock)
    assert is_steady and repeats == 10
    assert 100e6 <= spent < 102e6
    assert spent == machine.now
    assert set(times) == {100_000}


def test_warm_up_waits_for_steadiness():
    slowing = [int(2e6 * (1 + 3 * math.exp(-i / 30))) for i in range(200)]
    machine = Machine(itertools.chain(slowing, itertools.repeat(2_000_000)))
    times, _, is_steady, spent = sampling.warm_up(machine.run, SETTINGS, machine.clock)
    assert is_steady and spent > 150e6
    now, before = statistics.median(times[-5:]), statistics.median(times[-10:-5])
    assert abs(now - before) <= 0.02 * before


def test_warm_up_gives_up_at_its_limit():
    rng = random.Random(0)
    machine = Machine(int(2e6 * 1.5**i) if i < 12 else rng.choice([1, 9]) * 10**8 for i in itertools.count())
    _, _, _, spent = sampling.warm_up(machine.run, SETTINGS, machine.clock)
    assert spent >= 2e9


def test_slow_runs_are_warmed_up_three_times_at_least():
    machine = steady(5 * 10**9)
    times, repeats, is_steady, _ = sampling.warm_up(machine.run, SETTINGS, machine.clock)
    assert (len(times), repeats, is_steady) == (3, 1, False)


def test_warming_again_is_short():
    machine = steady(1_000_000)
    times, spent = sampling.warm_again(machine.run, SETTINGS, 1, machine.clock)
    assert len(times) == 5 and spent == 5_000_000
    machine = steady(100_000_000)
    assert len(sampling.warm_again(machine.run, SETTINGS, 1, machine.clock)[0]) == 2


@given(st.integers(min_value=1000, max_value=10**9), st.integers(min_value=1, max_value=100))
def test_a_round_has_enough_samples_and_lasts_long_enough(run_ns, repeats):
    machine = steady(run_ns)
    taken = sampling.take_round(machine.run, dict(SETTINGS, round_s=run_ns * repeats * 20e-9), repeats, machine.clock)
    assert len(taken.samples) in (20, 21)  # the product is rounded
    assert taken.spent_ns == sum(taken.samples) and not taken.aside and not taken.disturbed
    taken = sampling.take_round(machine.run, dict(SETTINGS, round_s=1e-9), repeats, machine.clock)
    assert len(taken.samples) == 10


@given(st.lists(st.integers(min_value=1, max_value=10**9), min_size=1))
def test_median(values):
    assert sampling.median(values) == statistics.median(values)


def test_too_few_values_have_no_confidence_interval():
    assert sampling.confidence([1.0] * 5) == (-math.inf, math.inf)
    low, high = sampling.confidence([float(i) for i in range(100)])
    assert (low, high) == (40, 59)


def test_the_interval_covers_the_median_as_often_as_it_says():
    rng = random.Random(1)
    hits = 0
    for _ in range(1000):
        low, high = sampling.confidence([rng.gauss(0, 1) for _ in range(30)])
        hits += low <= 0 <= high
    assert hits / 1000 > 0.92


def test_stops_when_rounds_agree_and_the_median_is_known():
    quiet = [[1000 + i % 3 for i in range(30)] for _ in range(3)]
    assert sampling.is_stable(quiet, SETTINGS)
    assert not sampling.is_stable(quiet[:2], SETTINGS)


def test_goes_on_when_rounds_disagree():
    apart = [[1000] * 30, [1000] * 30, [1030] * 30]
    assert not sampling.is_stable(apart, SETTINGS)


def test_goes_on_when_samples_are_spread():
    spread = [[1000, 1200] * 6 + [1100] for _ in range(3)]
    assert not sampling.is_stable(spread, SETTINGS)


def test_a_disturbed_first_round_is_forgiven():
    assert sampling.is_stable([[2000] * 10] + [[1000] * 30] * 3, SETTINGS)


def test_a_run_that_keeps_its_own_time_is_believed():
    class OwnTime:
        def timed(self, repeats):
            return 40 * repeats

    machine = steady(7)
    assert sampling.sample(OwnTime(), 5, machine.clock) == 200
    taken = sampling.take_round(OwnTime(), dict(SETTINGS, round_s=400e-9), 1, machine.clock)
    assert taken.samples == [40] * 10 and machine.now == 0
