"""The fake board's agent against the real one, its scripts, and its way into the rest of qaedge."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import msgspec
import pytest
from fakes import FAKE, STILL

from qaedge.device import load_device
from qaedge.errors import (
    AgentFailed,
    AgentKilled,
    InvalidFile,
    MeasurementError,
    ProtocolError,
)
from qaedge.hil import frames
from qaedge.hil.agent import AgentSession
from qaedge.hil.agreement import Agreement
from qaedge.hil.bootstrap import profilers_folder
from qaedge.hil.connect import target_for
from qaedge.hil.doctor import BAD, examine
from qaedge.hil.fake import Board, FakeTarget, Script, fake_target, read_script
from qaedge.hil.fake.samples import is_stable
from qaedge.hil.fake.script import File
from qaedge.hil.fleet import Fleet
from qaedge.hil.profile import Measured, Settings, measure
from qaedge.hil.state import states

# Its agent is like the real one.


def test_a_chunk_that_is_not_wanted_is_cancelled_and_the_session_goes_on(some):
    forever = Settings(rounds_min=500, rounds_max=500)
    with AgentSession(FAKE, FakeTarget(Board("fake", Script(speed=20.0)))) as session:
        steps = measure(session, some(2), forever, threads=1)
        next(steps)
        steps.close()
        found = [step for step in measure(session, some(3), Settings(), threads=1) if step.result is not None]
    assert len(found) == 3


def test_it_beats_while_it_waits():
    with AgentSession(FAKE, FakeTarget(Board("fake", Script())), heartbeat_s=0.1) as session:
        time.sleep(0.5)  # more than three beats
        assert session.conditions()["facts"]["board"] == "fake board"


def test_files_are_forgotten_when_told_so_and_with_the_agent(some):
    (file,) = some(1)
    board = Board("fake", Script())
    with AgentSession(FAKE, FakeTarget(board)) as session:
        session.put({file.sha256: Path(file.path).read_bytes()})
        assert session.missing([file.sha256]) == set()
        session.drop([file.sha256])
        assert session.missing([file.sha256]) == {file.sha256}
        session.put({file.sha256: Path(file.path).read_bytes()})
    with AgentSession(FAKE, FakeTarget(board)) as session:
        assert session.missing([file.sha256]) == {file.sha256}


@pytest.mark.parametrize("data", [b"\xff" * 64, b"\x00\x00\x00\x02J{}", b"\x00\x00\x00\x02Jno", b"\x00\x00\x00\x01BX"])
def test_a_corrupted_frame_to_the_agent(data):
    with AgentSession(FAKE, FakeTarget(Board("fake", Script()))) as session:
        session._write(data)
        with pytest.raises(AgentFailed, match="FrameError"):
            session._receive()


class Noting:
    """A decoder that keeps the type of each message, in order, and which fields each type had."""

    def __init__(self, decoder):
        self._decoder = decoder
        self.types = []
        self.fields = {}

    def decode(self, payload):
        message = json.loads(payload)
        if message["type"] not in ("heartbeat", "cooling"):  # when those come, depends on the machine
            self.types.append(message["type"])
            self.fields.setdefault(message["type"], set()).update(message)
        return self._decoder.decode(payload)


def test_the_real_agent_and_the_fake_one_say_the_same_in_the_same_order(
    some, word, stub, target, device, quick, monkeypatch
):
    # Rounds without an early end and nothing that drifts: how many there are depends on no time.
    settings = msgspec.structs.replace(quick, rounds_min=3, rounds_max=3, drift_limit=0.4, cool_limit_s=0.0)
    decoder = frames._DECODER

    def talk(device, target, files, **options):
        noting = Noting(decoder)
        monkeypatch.setattr(frames, "_DECODER", noting)
        with AgentSession(device, target, **options) as session:
            session.ask({"type": "board", "device": session.device.name}, frames.Board)
            session.ask({"type": "tune", "governor": "", "power_mode": None, "reset": False, "do": False}, frames.Tuned)
            lease = {"type": "lease", "device": session.device.name, "owner": "me", "seconds": 0, "force": False}
            session.ask(lease, frames.Leased)
            session.conditions()
            with pytest.raises(ProtocolError, match="damaged"):
                session.put({"0" * 64: b"never right"})
            list(measure(session, files, settings, threads=1, seed=3, interleave=True))
            list(measure(session, files[:2], settings, threads=1))
        return noting

    real = talk(device, target, [word("run 1"), word("run 2"), word("refuse")], folder=stub)
    files = some(3)
    script = Script(file=(File(sha256=files[2].sha256, does="refuse"),))
    fake = talk(FAKE, FakeTarget(Board("fake", script)), files)
    assert fake.types == real.types
    results = {"samples", "failed", "measured", "round", "done"}
    assert set(fake.types) == results | {
        *("hello", "ready", "board", "tuned", "leased", "conditions", "missing", "stored", "refused", "bye")
    }
    counted = {"instructions", "cycles"}  # where the kernel allows it
    for kind in results | {"ready", "board", "tuned", "leased", "missing", "stored", "refused"}:
        assert fake.fields[kind] - counted == real.fields[kind] - counted, kind


def test_rounds_end_when_the_real_agent_ends_them(monkeypatch):
    monkeypatch.syspath_prepend(str(profilers_folder()))
    import sampling

    try:
        settings = msgspec.to_builtins(Settings())
        random_ = random.Random(0)
        answers = set()
        for _ in range(300):
            spread = random_.choice([0.001, 0.01, 0.05])
            rounds = [
                [random_.gauss(1e6, spread * 1e6) for _ in range(random_.choice([2, 10, 60]))]
                for _ in range(random_.randint(1, 6))
            ]
            assert is_stable(rounds, settings) == sampling.is_stable(rounds, settings)
            answers.add(is_stable(rounds, settings))
        assert answers == {True, False}
    finally:
        sys.modules.pop("sampling", None)


# From a description to a board.


def test_the_packages_own_fake_board_is_one(some, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    described = load_device("fake")
    assert described.connection == "fake"
    with AgentSession(described, target_for(described)) as session:
        found = [s.result for s in measure(session, some(2), Settings(), threads=1) if s.result is not None]
    assert all(isinstance(result, Measured) for result in found) and len(found) == 2


def test_a_board_is_the_same_one_when_it_is_connected_to_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("script.toml").write_text('[[event]]\nwhat = "reboot"\nat = "begin"\n')
    described = msgspec.structs.replace(FAKE, script="script.toml")
    with pytest.raises(AgentKilled):
        AgentSession(described, fake_target(described))
    AgentSession(described, fake_target(described)).close()
    Path("script.toml").write_text('[[event]]\nwhat = "killed"\nat = "begin"\n')
    with pytest.raises(AgentKilled, match="signal 9"):  # another script makes another board
        AgentSession(described, fake_target(described))


def test_two_boards_share_a_table_and_their_scales_are_found(some, monkeypatch):
    scripts = {
        "fake-a": Script(noise=STILL),
        "fake-b": Script(noise=STILL, base_s=4e-4, per_byte_s=4e-8, reference_s=2e-3),
    }
    boards = {name: Board(name, script) for name, script in scripts.items()}
    two = [msgspec.structs.replace(FAKE, name=name, base="fake") for name in scripts]
    with Fleet(two, open_board=lambda d, _: AgentSession(d, FakeTarget(boards[d.name]))) as fleet:
        steps = list(fleet.measure(some(24), Settings(chunk=4)))
    (agreed,) = [step.result for step in steps if isinstance(step.result, Agreement)]
    assert agreed.good
    truth = {f.name: 2e-4 + 2e-8 * f.size_bytes for f in some(24)}
    rows = {step.result.artifact.name: step.result.measurement for step in steps if isinstance(step.result, Measured)}
    assert all(rows[name].median_s == pytest.approx(truth[name], rel=0.01) for name in truth)


def test_the_doctor_and_the_list_of_devices_know_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    findings = examine(FAKE)
    assert [finding for finding in findings if finding.verdict == BAD] == []
    assert "fake board" in {finding.what: finding.found for finding in findings}["board"]
    assert states([FAKE])["fake"].state == "free"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sed = 1", "sed: expected a known key .*seed"),
        ("base_s = 0", "base_s: expected a number above 0, found 0"),
        ("base_s = nan", "base_s: expected a number above 0, found nan"),
        ("[noise]\nsigma = -1.0", r"noise\.sigma: expected a number from 0, found -1"),
        ('[[event]]\nwhat = "explode"', r"event\[0\]\.what: expected one of hang, reboot"),
        ('[[event]]\nwhat = "busy"', r"event\[0\]\.at: expected one of begin for 'busy', found 'turn'"),
        ('[[event]]\nwhat = "hang"\nat = "night"', r"event\[.*\]\.at"),
        ("[[file]]\nlatency_s = 1.0", r"file\[0\]: expected a sha256 or an order, found neither"),
        ('[[file]]\norder = 0\ndoes = "dance"', r"file\[.*\]\.does"),
        ("[[throttle]]\nfrom_s = 3.0\nto_s = 2.0", r"throttle\[0\]\.to_s: expected more than from_s"),
        ("[heat]\nlimit_c = 30.0", r"heat\.limit_c: expected more than ambient_c"),
        ("seed = ", "expected a valid file"),
    ],
)
def test_a_script_that_makes_no_board_is_refused(tmp_path, text, said):
    path = tmp_path / "script.toml"
    path.write_text(text)
    with pytest.raises(InvalidFile, match=said):
        read_script(path)


def test_no_command_runs_and_no_file_lies_on_it(tmp_path):
    target = FakeTarget(Board("fake", Script()))
    with pytest.raises(AgentFailed, match="runs no commands"):
        target.run(["true"])
    with pytest.raises(MeasurementError, match="has no files"):
        target.get("x", tmp_path / "x")
