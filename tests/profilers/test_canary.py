"""The canary, on a core that others share at known times (R17): each look at the clock takes a turn of the loop."""

from __future__ import annotations

import canary
import conditions
import pytest
import sampling
from entry import Entry
from hypothesis import given, settings
from hypothesis import strategies as st

SETTINGS = {
    "canary_s": 2e-5,
    "canary_within": 0.2,
    "quiet_share": 4.0,
    "quiet_s": 5.0,
    "deadline_s": 60.0,
    "round_samples": 10,
    "round_s": 0.05,
    "rounds_min": 3,
}
#: What the loop and a run take on a quiet core [ns], and how many times as long on a shared one.
LOOP, RUN, SLOWER = 20_000, 1_000_000, 1.5


class Core:
    """A clock that each look at it moves on by one turn of the loop, and a run; slower where the core is shared."""

    def __init__(self, is_shared):
        self.now = 0.0
        self._is_shared = is_shared

    def _spend(self, ns):
        self.now += ns * (SLOWER if self._is_shared(self.now) else 1.0)

    def clock(self):
        self._spend(LOOP)
        return round(self.now)

    def run(self):
        self._spend(RUN)


def shared_in_turns(quiet_s, shared_s):
    """A core that is quiet for some time, and shared for some time, again and again."""
    return Core(lambda now: now % ((quiet_s + shared_s) * 1e9) >= quiet_s * 1e9)


def take(core, watch):
    return sampling.take_round(core.run, SETTINGS, 1, core.clock, watch)


def test_on_a_quiet_core_nothing_is_waited_for_and_all_counts():
    core = Core(lambda now: False)
    taken = take(core, canary.Canary(SETTINGS, core.clock))
    assert len(taken.samples) == 50 and not taken.aside and not taken.disturbed
    assert taken.spent_ns < 1.15 * sum(taken.samples)  # here each look at the clock costs a turn of the loop


@settings(deadline=None, max_examples=30)
@given(st.floats(min_value=0.02, max_value=3.0), st.floats(min_value=0.0, max_value=3.0))
def test_what_counts_on_a_shared_core_is_what_a_quiet_one_takes(quiet_s, shared_s):
    core = shared_in_turns(quiet_s, shared_s)
    watch = canary.Canary(SETTINGS, core.clock)
    rounds = [take(core, watch) for _ in range(4)]
    for taken in rounds:
        if not taken.disturbed:
            assert {round(sample) for sample in taken.samples} <= {RUN + LOOP, round(RUN + SLOWER * LOOP)}
    spent = sum(taken.spent_ns for taken in rounds)
    # At most 5 s and four times what counted, and the samples and loops themselves.
    assert spent < 5e9 + 6.5 * sum(sum(taken.samples) for taken in rounds)
    if shared_s < 1.0:
        assert not any(taken.disturbed for taken in rounds)


def test_a_core_that_is_shared_for_good_is_given_up_and_then_taken_as_it_is():
    core = shared_in_turns(1.0, 10_000.0)
    watch = canary.Canary(SETTINGS, core.clock)
    while core.now < 0.8e9:
        assert not take(core, watch).disturbed
    start, rounds = core.now, [take(core, watch) for _ in range(40)]
    disturbed = [taken.disturbed for taken in rounds]
    assert 5 < sum(disturbed) < 20 and not any(disturbed[-20:])  # it is what is usual there
    assert all(taken.samples and not taken.aside for taken in rounds if taken.disturbed)
    assert core.now - start < 5e9 + 1e9 + 12e9


def test_no_round_waits_for_longer_than_it_may_however_long_all_was_quiet():
    core = shared_in_turns(200.0, 10_000.0)
    for deadline_s, most_s in ((60.0, 5.0), (8.0, 2.0)):
        core.now = 0.0
        hasty = dict(SETTINGS, deadline_s=deadline_s)
        watch = canary.Canary(hasty, core.clock)
        while core.now < 199e9:
            assert not sampling.take_round(core.run, hasty, 1, core.clock, watch).disturbed
            core.now += 1e9
        core.now = 200e9
        taken = sampling.take_round(core.run, hasty, 1, core.clock, watch)
        assert taken.disturbed and most_s * 1e9 < taken.spent_ns < (most_s + 1) * 1e9


def test_a_processor_that_slows_itself_after_a_network_is_no_disturbance():
    core = Core(lambda now: now < core.until)
    core.until = 0.0
    watch = canary.Canary(SETTINGS, core.clock)

    def run():
        core.now += RUN
        core.until = core.now + 3 * LOOP  # as wide vectors do

    taken = sampling.take_round(run, SETTINGS, 1, core.clock, watch)
    assert len(taken.samples) >= 49 and len(taken.aside) <= 1 and not taken.disturbed


def test_processes_learn_from_each_other():
    core = Core(lambda now: now < 1e9)
    first = canary.Canary(SETTINGS, core.clock)
    then = first.known
    assert not canary.is_refuted({}, then, SETTINGS) and not canary.is_refuted(then, {}, SETTINGS)
    core.now = 2e9
    first.begin()
    assert canary.is_refuted(then, first.known, SETTINGS)
    before = core.now
    second = canary.Canary(SETTINGS, core.clock, first.known)
    assert core.now == before and second.known == first.known  # nothing is looked for again


def test_a_gpu_and_who_does_not_ask_for_it_have_none():
    class OnGpu:
        timed = None

    core = Core(lambda now: False)
    assert canary.beside(OnGpu(), SETTINGS, core.clock) is None
    assert canary.beside(type("Cuda", (), {"on_gpu": True})(), SETTINGS, core.clock) is None
    assert canary.beside(core.run, dict(SETTINGS, quiet_share=0.0), core.clock) is None
    assert canary.beside(core.run, SETTINGS, core.clock) is not None


def told(entry, disturbed, quickest_ns=()):
    for place, is_disturbed in enumerate(disturbed):
        answer = {"samples_ns": [100] * 10, "repeats": 1, "switches": 0, "peak_bytes": 1, "cycles": 5.0 + is_disturbed}
        known = {"quickest_ns": quickest_ns[place]} if quickest_ns else {}
        entry.add({**answer, "disturbed": is_disturbed, "waited_ns": int(is_disturbed), "canary": known}, 1.0)
        entry.refute(known)
    entry.first = {"load_ns": 1, "first_ns": 1, "overhead_ns": 1, "warm": True}
    return entry.result({}, True)


@pytest.mark.parametrize(
    ("disturbed", "interleave", "aside", "doubts"),
    [
        ([False, False, False], False, [], []),
        ([True, False, False, True, False], False, [0, 3], []),
        ([True, False, False], False, [], ["disturbed"]),
        ([True, False, False, True, False], True, [], ["disturbed"]),
    ],
)
def test_disturbed_rounds_are_set_aside_where_enough_others_are_there(
    disturbed, interleave, aside, doubts, monkeypatch
):
    monkeypatch.setattr(conditions, "between", lambda before, after: {})
    found = told(Entry(1, "x", None, {"settings": SETTINGS, "interleave": interleave}), disturbed)
    assert (found["aside"], found["doubts"]) == (aside, doubts)
    assert found["waited_ns"] == sum(disturbed) - len(aside), "what is set aside has waited for itself"
    assert found["cycles"] == 5.0


def test_rounds_taken_for_quiet_are_disturbed_when_it_turns_out_what_quiet_is(monkeypatch):
    monkeypatch.setattr(conditions, "between", lambda before, after: {})
    entry = Entry(1, "x", None, {"settings": SETTINGS, "interleave": False})
    found = told(entry, [False] * 5, [150.0, 150.0, 110.0, 100.0, 100.0])
    assert found["aside"] == [0, 1] and found["doubts"] == [] and len(entry.quiet) == 3
