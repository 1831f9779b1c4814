"""Contests and A/A on boards that follow a script: what happens in the middle of one is never judged by half."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from qaedge.artifact import Artifact
from qaedge.device import Device
from qaedge.errors import AgentFailed, CandidateCrashed, DeviceLost, Unreachable
from qaedge.hil import contest as contests
from qaedge.hil import fleet
from qaedge.hil.aa import aa
from qaedge.hil.contest import Contest, contest
from qaedge.regression.compare import Comparison, Verdict
from qaedge.regression.noise import noise_of
from qaedge.regression.result import confirmed


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Two files, the second of which takes 10 % longer on a fake board."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fleet, "WAITS_S", (0.01, 0.01, 0.01))
    (tmp_path / "old.onnx").write_bytes(b"o" * 100_000)
    (tmp_path / "new.onnx").write_bytes(b"n" * 111_000)
    return Artifact.of(tmp_path / "old.onnx"), Artifact.of(tmp_path / "new.onnx")


def board(script: str) -> Device:
    Path("script.toml").write_text(script)
    return Device("flaky", "", connection="fake", script="script.toml", runtimes=("onnxruntime",))


def run(steps) -> tuple[Contest, list[str]]:
    said: list[str] = []
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value, said
        said += [step.warning] if step.warning else []


def test_slower_takes_two_sessions_and_faster_one(pair):
    old, new = pair
    found, _ = run(contest(board(""), (old, new)))
    assert (found.comparison.verdict, found.sessions) == (Verdict.SLOWER, 2)
    assert found.comparison.ratio == pytest.approx(1.1, abs=0.01) and found.first.verdict is Verdict.SLOWER
    found, _ = run(contest(board(""), (new, old)))
    assert (found.comparison.verdict, found.sessions) == (Verdict.FASTER, 1)
    found, _ = run(contest(board(""), (old, old)))
    assert (found.comparison.verdict, found.sessions) == (Verdict.SAME, 1)
    assert len(found.baseline.rounds_ns) == len(found.contender.rounds_ns) == 10


@pytest.mark.parametrize("what", ["reboot", "cut", "killed", "hang"])
def test_a_board_that_is_lost_in_the_middle_begins_the_pair_anew(what, pair):
    script = f'[[event]]\nwhat = "{what}"\nround = 7\naway = 2\n'
    found, said = run(contest(board(script), pair))
    assert found.comparison.verdict is Verdict.SLOWER and len(said) == 3, said
    assert "What was not finished is measured anew." in said[0]
    assert len(found.contender.rounds_ns) == 10, "nothing of the first seven is in it"


def test_a_board_that_is_lost_for_good_ends_it_and_one_that_was_never_there_at_once(pair):
    with pytest.raises((DeviceLost, Unreachable)):
        run(contest(board('[[event]]\nwhat = "reboot"\nround = 2\naway = 9\n'), pair))
    device = board('seed = 2\n[[event]]\nwhat = "reboot"\nat = "greeting"\naway = 1\n')
    with pytest.raises(AgentFailed):
        run(contest(device, pair))
    with pytest.raises(Unreachable):
        run(contest(device, pair))


def test_a_board_that_throttles_all_the_time_decides_nothing(pair):
    found, _ = run(contest(board("[[throttle]]\nfrom_s = 0.0\nto_s = 1e9\nfactor = 2.0\nbits = 4\n"), pair))
    assert found.comparison.verdict is Verdict.UNKNOWN
    assert "throttled" in found.comparison.reason


def test_throttling_for_a_while_is_measured_again(pair):
    # The contender alone would be hit: twice as slow for a third of its rounds.
    script = "[[throttle]]\nfrom_s = 1.0\nto_s = 2.0\nfactor = 2.0\nbits = 4\n"
    found, _ = run(contest(board(script), (pair[0], pair[0])))
    assert found.comparison.verdict is Verdict.SAME
    assert max(found.contender.rounds_ns) < 1.05 * min(found.contender.rounds_ns)


def test_what_only_one_session_says_is_not_decided(pair):
    found, _ = run(contest(board(""), pair))
    same = msgspec.structs.replace(found.comparison, verdict=Verdict.SAME)
    held: Comparison = confirmed(found.comparison, same)
    assert held.verdict is Verdict.UNKNOWN and "not when measured again" in held.reason
    assert confirmed(same, found.comparison) is same


#: Another process has the core for a sixth of the time, in pieces: every sample waits, and none is twice as long.
EVENLY_BUSY = "[noise]\nsigma = 0.002\nburst_every_s = 0.02\nburst_s = 0.004\nburst_factor = 2.0\n"
#: The same, and rounds that do not agree.
BUSY = EVENLY_BUSY.replace("sigma = 0.002", "sigma = 0.15")


def test_files_that_waited_alike_are_believed(pair):
    for files, verdict, ratio in ((pair, Verdict.SLOWER, 1.1), (pair[::-1], Verdict.FASTER, 1 / 1.1)):
        found, _ = run(contest(board(EVENLY_BUSY), files))
        assert "waited" in found.contender.doubts and found.contender.cv < 0.02
        assert found.comparison.verdict is verdict and found.comparison.ratio == pytest.approx(ratio, abs=0.01)


def test_what_is_in_doubt_is_measured_again_and_then_not_decided(pair):
    for files, change in ((pair, "+"), (pair[::-1], "-")):
        found, _ = run(contest(board(BUSY), files))
        assert (found.comparison.verdict, found.sessions) == (Verdict.UNKNOWN, 3)
        assert "waited" in found.comparison.held_for and found.contender.cv > 0.02
        assert found.comparison.reason.startswith(change) and "another process had the core" in found.comparison.reason
    found, _ = run(contest(board(BUSY), (pair[0], pair[0])))
    assert (found.comparison.verdict, found.sessions) == (Verdict.SAME, 1)


def test_what_doubt_does_not_explain_is_slower_all_the_same(pair, tmp_path):
    (tmp_path / "twice.onnx").write_bytes(b"t" * 220_000)
    found, _ = run(contest(board(BUSY), (pair[0], Artifact.of(tmp_path / "twice.onnx"))))
    assert (found.comparison.verdict, found.sessions) == (Verdict.SLOWER, 2)
    assert "waited" in found.contender.doubts and found.comparison.low > 1.5 and not found.comparison.held_for


def test_doubt_that_passes_leaves_the_verdict(pair):
    # Nothing says that the board throttles, and its reference model changes in the first session.
    found, _ = run(contest(board("[[throttle]]\nfrom_s = 0.6\nto_s = 4.0\nfactor = 1.3\nbits = 0\n"), pair))
    assert found.comparison.verdict is Verdict.SLOWER and found.sessions > 2
    assert found.comparison.ratio == pytest.approx(1.1, abs=0.01) and not found.comparison.held_for


def test_cold_figures_are_of_seven_loads_a_side_in_both_orders(pair, monkeypatch):
    turns = []
    gather = contests.gather

    def noted(session, artifacts, *given, **named):
        taken = yield from gather(session, artifacts, *given, **named)
        turns.append([artifact.name for artifact in artifacts])
        return {name: msgspec.structs.replace(one, first_run_ns=len(turns)) for name, one in taken.items()}

    monkeypatch.setattr(contests, "gather", noted)
    found, _ = run(contest(board(""), (pair[0], pair[0])))
    assert len(turns) == 7 and sorted(turn[0] for turn in turns).count("old (baseline)") in (3, 4)
    assert found.contender.first_run_ns == found.baseline.first_run_ns == 4, "the median"
    assert found.comparison.memory_ratio == 1.0 and found.comparison.grown == ()
    assert len(found.contender.rounds_ns) == 10, "loads add no rounds"


def test_a_file_that_crashes_is_told_as_that(pair):
    with pytest.raises(CandidateCrashed):
        run(contest(board('[[file]]\norder = 1\ndoes = "crash"\n'), pair))


def test_aa_tells_noise_and_false_alarms(pair):
    device = board("[noise]\nsigma = 0.01\n")
    trials = [step.result for step in aa(device, pair[0], 12) if step.result]
    noise = noise_of(device.name, pair[0].name, trials, "")
    assert noise.comparisons == len(noise.ratios) == len(noise.across) + 1 == 12
    assert 0 < noise.floor < 0.02 and noise.floor_across >= noise.floor and 0.0005 < noise.spread < 0.01
    assert noise.false_slower == 0 and noise.false_alarm_bound == pytest.approx(1 - 0.05 ** (1 / 12))


def test_aa_goes_on_and_forgets_another_state(pair):
    known = [step.result for step in aa(board(""), pair[0], 3) if step.result]
    steps = [step for step in aa(board(""), pair[0], 5, known=known) if step.result]
    assert [step.done for step in steps] == [4, 5] and not any(step.warning for step in steps)
    for field, fresh in (("kernel", 5), ("boot_id", 2)):
        other = [msgspec.structs.replace(trial, fingerprint={**trial.fingerprint, field: "old"}) for trial in known]
        steps = [step for step in aa(board(""), pair[0], 5, known=other) if step.result]
        assert len(steps) == fresh and ("3 comparisons from then do not count" in steps[0].warning) == (fresh == 5)
