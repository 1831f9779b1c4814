"""The benchmark of the regression gate, without running it: recorded noise, and what is told beside the figures."""

from __future__ import annotations

import importlib
import itertools
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parents[1] / "benchmarks"
#: A round of both sides takes so long [s], and one side's so many times what it would undisturbed.
ROUND_S = 0.12


@pytest.fixture
def load(monkeypatch):
    """Import a module of the benchmark; nobody else finds it afterwards."""
    for folder in (HERE, HERE / "regression"):
        monkeypatch.syspath_prepend(str(folder))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    before = set(sys.modules)
    yield load
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(HERE) in str(sys.modules[name].__file__):
            del sys.modules[name]


def session(plan, rounds=160, own=0.01, seed=0):
    """The rounds of two sides while a plan takes its shares of the core."""
    draw = random.Random(seed)
    shares = itertools.chain.from_iterable(itertools.repeat(share, round(for_s / 0.01)) for share, for_s in plan)
    found = [[], []]
    for _ in range(rounds):
        for side in found:
            taken = list(itertools.islice(shares, round(ROUND_S / 2 / 0.01)))
            share = sorted(taken)[len(taken) // 2]
            side.append(round(2e6 / (1 - share) * draw.lognormvariate(0, own)))
    return found


def test_the_plans_make_noise_that_is_what_it_is_called(load):
    makers, recorder = load("noise_makers"), load("recorder")
    for kind, plan in (("drifting", makers.ramp), ("bursty", makers.bursts)):
        found = recorder.described([session(plan(seed), seed=seed) for seed in range(3)])
        assert recorder.wrong_with(kind, found) == "", (kind, found)
        assert found["lag_1_correlation"] > 0.5 and found["rounds"] == 480


def test_noise_that_neither_drifts_nor_bursts_is_not_kept(load):
    makers, recorder = load("noise_makers"), load("recorder")
    still = [session(itertools.repeat((0.0, 1.0)), own=0.07, seed=seed) for seed in range(3)]
    shuffled = []
    for seed in range(3):
        sides = session(makers.ramp(seed), seed=seed)
        shuffled.append([random.Random(seed).sample(side, len(side)) for side in sides])
    for kind in ("drifting", "bursty"):
        for sessions in (still, shuffled):
            assert "lag-1 correlation" in recorder.wrong_with(kind, recorder.described(sessions))
        assert recorder.wrong_with("quiet", recorder.described(still)) == ""


def ends(_seed: int) -> None:
    """A maker that does nothing."""


def test_noise_that_nobody_made_is_not_kept(load):
    recorder, makers = load("recorder"), load("noise_makers")
    with pytest.raises(RuntimeError, match="has ended by itself"), recorder.Disturbed(ends, 0):
        pass
    for maker in (makers.drifting, makers.bursty):
        with recorder.Disturbed(maker, 0):
            pass


def test_the_machine_tells_the_versions_of_its_runtimes(load):
    import onnxruntime

    assert load("machine").machine()["onnxruntime"] == onnxruntime.__version__


def test_rules_that_judged_fewer_rounds_are_told_as_that(load):
    on_ten = load("regression").on_ten
    assert on_ten([{"effect": 0.05}]) == on_ten([{"rounds": 10}, {"rounds": 20}]) == ", on the first 10 rounds"
    assert on_ten([{"rounds": 10}, {"rounds": 20, "others_on": "the same rounds"}]) == ""
