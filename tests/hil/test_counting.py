"""Comparing by instructions, with counts that a stand-in gives: few machines that run tests have counters."""

from __future__ import annotations

import msgspec
import pytest
from synthetic import make_result

from qaedge.artifact import Artifact
from qaedge.device import Device
from qaedge.errors import MeasurementError
from qaedge.hil import counting
from qaedge.regression.compare import Verdict

FAKE = Device("board", "", connection="fake", runtimes=("onnxruntime",))


@pytest.fixture
def count(tmp_path, monkeypatch):
    """Judge two files whose counts are told."""
    (tmp_path / "net.onnx").write_bytes(b"x")
    artifact = Artifact.of(tmp_path / "net.onnx")

    def judge(baseline, contender):
        def gather(session, artifacts, settings, threads, seed=0, commit=""):
            yield from ()
            counts = (baseline(seed), contender(seed))
            return {
                a.name: msgspec.structs.replace(make_result(model=a.name), instructions=c)
                for a, c in zip(artifacts, counts, strict=True)
            }

        monkeypatch.setattr(counting, "gather", gather)
        steps = counting.count_contest(FAKE, (artifact, artifact))
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    return judge


@pytest.mark.parametrize(
    ("factor", "verdict", "sessions"),
    [(1.0, "same", 1), (1.004, "same", 1), (1.01, "slower", 2), (0.99, "faster", 1)],
)
def test_one_percent_of_instructions_is_told(factor, verdict, sessions, count):
    found = count(lambda seed: 1e6 + 10 * seed, lambda seed: factor * (1e6 + 13 * ((seed * 3) % 7)))
    assert (found.comparison.verdict, found.sessions) == (Verdict(verdict), sessions)
    assert found.comparison.threshold == counting.LEAST and found.comparison.rounds == 7


def test_counts_that_vary_decide_nothing(count):
    found = count(lambda seed: 1e6, lambda seed: 1e6 * (1 + 0.02 * (seed % 3)))
    assert found.comparison.verdict is Verdict.UNKNOWN and "counts that vary" in found.comparison.reason


def test_a_device_that_does_not_count_is_told(count):
    with pytest.raises(MeasurementError, match="does not count instructions") as found:
        count(lambda seed: None, lambda seed: None)
    assert "perf_event_paranoid" in found.value.hint
