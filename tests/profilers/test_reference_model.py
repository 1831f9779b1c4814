"""When the reference model is read, and what its readings say of the time between them (R14)."""

from __future__ import annotations

import chunks
import conditions
import pytest
from chunks import Chunk, Taken
from reference import Drift, Mark
from reference import Reference as RealReference

SETTINGS = {
    "canary_within": 0.2,
    "chunk": 16,
    "cool_limit_s": 0.0,
    "drift_accept": 0.02,
    "drift_limit": 0.05,
    "drift_pause_s": 0.0,
    "interleaved_rounds": 2,
    "reference_every_s": 60.0,
    "retakes": 3,
    "rounds_max": 2,
    "rounds_min": 2,
    "rounds_within": 0.02,
    "confidence_within": 1.0,
    "temperature_pause_c": 75.0,
    "temperature_start_c": 65.0,
}


class Clock:
    """Seconds that pass only when somebody lets them."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


class Link:
    """What is sent, kept; nobody waits."""

    def __init__(self):
        self.sent = []

    def send(self, kind, /, **values):
        self.sent.append((kind, values))

    def pause(self, seconds):
        pass


class Reference:
    """A board that is slower from one time to another; each reading is noted."""

    def __init__(self, clock, slow=(0.0, 0.0)):
        self._clock, self._slow = clock, slow
        self.baseline_ns, self.spent_ns, self.read_s = 100.0, 0, []

    def read(self, _link):
        self.read_s.append(self._clock() - 1000.0)
        slow = self._slow[0] <= self.read_s[-1] < self._slow[1]
        return Mark(self._clock(), 120.0 if slow else 100.0)


def take_chunk(tmp_path, monkeypatch, count, each_s, slow=(0.0, 0.0)):
    """Take a chunk of `count` candidates of which each takes `each_s` in a round; return its reference and link."""
    clock, link = Clock(), Link()
    (tmp_path / "x").write_bytes(b"x")

    def take(_chunk, entry, reading, _overheads):
        entry.before = entry.before or reading
        start_s = clock()
        clock.now_s += each_s
        answer = {
            "type": "round",
            "load_ns": 1,
            "first_ns": 1,
            "overhead_ns": 1,
            "warm": True,
            "repeats": 1,
            "warmup_ns": [],
            "samples_ns": [100] * 10,
            "aside_ns": [],
            "disturbed": False,
            "canary": {},
            "switches": 0,
            "waited_ns": 0,
            "peak_bytes": 1,
        }
        return Taken(entry, answer, (start_s + clock()) / 2)

    monkeypatch.setattr(chunks.Chunk, "_take", take)
    order = {
        "seed": 0,
        "settings": SETTINGS,
        "energy": False,
        "pin": False,
        "threads": 1,
        "interleave": False,
        "entries": [{"id": number, "sha256": "x"} for number in range(count)],
    }
    files = type("Uploads", (), {"path": lambda _self, sha256: str(tmp_path / sha256)})()
    reference = Reference(clock, slow)
    board = conditions.Board(str(tmp_path))
    Chunk(link, None, files, order, board, lambda: None, clock=clock).measure({}, reference)
    return reference, link


def test_short_rounds_are_read_at_their_ends_alone(tmp_path, monkeypatch):
    reference, _ = take_chunk(tmp_path, monkeypatch, count=16, each_s=1.0)
    assert reference.read_s == [0.0, 16.0, 32.0]


def test_a_long_round_is_read_within_after_a_minute(tmp_path, monkeypatch):
    reference, _ = take_chunk(tmp_path, monkeypatch, count=5, each_s=25.0)
    assert reference.read_s == [0.0, 75.0, 125.0, 200.0, 250.0]


def test_a_round_of_many_candidates_is_read_after_each_sixteen(tmp_path, monkeypatch):
    reference, _ = take_chunk(tmp_path, monkeypatch, count=40, each_s=1.0)
    assert reference.read_s == [0.0, 16.0, 32.0, 40.0, 56.0, 72.0, 80.0]


def test_what_came_and_went_within_a_long_round_is_seen(tmp_path, monkeypatch):
    """The readings at both ends of the round know nothing of it."""
    _, link = take_chunk(tmp_path, monkeypatch, count=10, each_s=20.0, slow=(50.0, 130.0))
    rounds = [values["tainted"] for kind, values in link.sent if kind == "round"]
    assert rounds == [["drifted"], [], []]


def test_samples_are_scaled_by_the_readings_next_to_them():
    drift = Drift([Mark(0.0, 100.0), Mark(10.0, 104.0), Mark(20.0, 100.0)], 100.0, SETTINGS)
    assert drift.at(5.0) == pytest.approx(0.02) and drift.at(10.0) == pytest.approx(0.04)
    assert drift.at(17.5) == pytest.approx(0.01) and drift.at(99.0) == 0.0 and drift.at(-9.0) == 0.0
    assert drift.scale(10.0) == pytest.approx(1 / 1.04) and drift.scale(17.5) == 1.0
    assert not drift.too_far([5.0, 10.0])


def test_drift_is_unknown_without_a_reading_at_both_ends():
    far = Mark(10.0, 200.0)
    assert Drift([None, None], 100.0, SETTINGS).at(5.0) == 0.0
    assert Drift([Mark(0.0, 100.0), far, None], 100.0, SETTINGS).at(10.0) == 0.0
    assert Drift([far], 100.0, SETTINGS).at(10.0) == 0.0


def test_a_disturbed_reading_is_none_of_the_board():
    quiet, busy = Mark(0.0, 101.0), Mark(10.0, 150.0, disturbed=True)
    assert Drift([quiet, busy], 100.0, SETTINGS).at(9.0) == pytest.approx(0.01)
    assert Drift([quiet, busy, Mark(20.0, 103.0)], 100.0, SETTINGS).at(10.0) == pytest.approx(0.02)
    # Where all are, the board itself may be slower: nobody can tell, and R14 asks for another look.
    assert Drift([busy, busy], 100.0, SETTINGS).too_far([9.0])


def test_a_baseline_of_disturbed_readings_lasts_until_there_is_another(monkeypatch):
    marks = iter(
        [Mark(0.0, 150.0, True)] * 4  # a baseline, and a reading
        + [Mark(1.0, 101.0)]  # the baseline from here on
        + [Mark(2.0, 150.0, True), Mark(3.0, 100.0)]
    )
    monkeypatch.setattr(RealReference, "_once", lambda self, link: next(marks))
    settings = {"settings": {"deadline_s": 1.0, "canary_within": 0.2}}
    real = RealReference(None, settings, [], lambda: None, {})
    found = []
    for _ in range(4):
        real.read(None)
        found.append(real.baseline_ns)
    assert found == [150.0, 101.0, 101.0, 101.0]
    # Some of the first readings are enough.
    marks = iter([Mark(0.0, 150.0, True), Mark(0.0, 100.0), Mark(0.0, 150.0, True), Mark(0.0, 102.0)])
    other = RealReference(None, settings, [], lambda: None, {})
    assert other.read(None).run_ns == 102.0 and other.baseline_ns == 100.0
