"""What goes wrong, and what is promised then: docs/agent-protocol.md and docs/measuring.md."""

import os
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import msgspec
import pytest

from qaedge.errors import (
    AgentFailed,
    AgentKilled,
    CandidateCrashed,
    CandidateFailed,
    CandidateTimeout,
    DeviceBusy,
    DeviceLost,
    DiskFull,
    ProtocolError,
)
from qaedge.hil.agent import AgentSession
from qaedge.hil.profile import Failed, Measured, measure
from qaedge.hil.target import LocalTarget

FOREVER = {"rounds_min": 10_000, "rounds_max": 10_000}


def results(steps):
    return {step.result.artifact.name: step.result for step in steps if step.result is not None}


@pytest.mark.parametrize(
    ("what", "kind", "text"),
    [
        ("abort", CandidateCrashed, "SIGABRT"),
        ("segv", CandidateCrashed, "SIGSEGV"),
        ("exit", CandidateCrashed, "exit status 3"),
        ("late", CandidateCrashed, "SIGABRT"),
        ("sleep", CandidateTimeout, "did not finish within 0.5 s"),
        ("spin", CandidateTimeout, "did not finish within 0.5 s"),
        ("refuse", CandidateFailed, "no such operator"),
        ("memory", CandidateFailed, "ran out of memory"),
        ("files", CandidateFailed, "Too many open files"),
    ],
)
def test_a_bad_candidate_harms_itself_alone(device, target, stub, word, quick, nothing_left, what, kind, text):
    settings = msgspec.structs.replace(quick, deadline_s=0.5, rounds_max=100, rounds_min=100)
    with AgentSession(device, target, folder=stub) as session:
        found = results(measure(session, [word("run 1"), word(what), word("run 2")], settings, threads=1))
    assert isinstance(found["run_1"], Measured) and isinstance(found["run_2"], Measured)
    assert isinstance(found[what], Failed)
    assert type(found[what].error) is kind
    assert text in found[what].error.message
    assert "2 times" in found[what].error.message
    assert "\x1b" not in found[what].error.message
    nothing_left()


def test_a_crash_that_does_not_come_back_is_retried(device, target, stub, word, quick, nothing_left):
    with AgentSession(device, target, folder=stub) as session:
        found = results(measure(session, [word("once"), word("run")], quick, threads=1))
    assert found["once"].measurement.retries == 1
    assert "retried" in found["once"].measurement.doubts
    assert found["run"].measurement.retries == 0
    nothing_left(but=("once",))


@pytest.mark.parametrize("what", ["flood", "print"])
def test_a_runtime_that_talks_does_not_come_between_frames(device, target, stub, word, quick, what):
    with AgentSession(device, target, folder=stub) as session:
        found = results(measure(session, [word(what), word("run")], quick, threads=1))
    assert all(isinstance(result, Measured) for result in found.values())


def test_the_agent_is_killed(device, target, stub, word, quick, nothing_left):
    settings = msgspec.structs.replace(quick, **FOREVER)
    with AgentSession(device, target, folder=stub) as session:
        steps = measure(session, [word("run 1"), word("run 2")], settings, threads=1)
        next(steps)
        os.kill(session.hello.pid, signal.SIGKILL)
        with pytest.raises(AgentKilled, match="signal 9"):
            list(steps)
        with pytest.raises(AgentKilled):  # and it stays so
            list(measure(session, [word("run 1")], settings, threads=1))
    nothing_left(but=("qaedge.lock",))


def test_the_agent_hangs(device, target, stub, word, quick, nothing_left):
    settings = msgspec.structs.replace(quick, **FOREVER)
    with AgentSession(device, target, folder=stub, heartbeat_s=0.2) as session:
        steps = measure(session, [word("run")], settings, threads=1)
        next(steps)
        os.kill(session.hello.pid, signal.SIGSTOP)
        with pytest.raises(DeviceLost, match=r"nothing came for 0\.6 s") as info:
            list(steps)
        assert f"write a larger patience_s into devices/{device.name}.toml" in info.value.hint
    nothing_left(but=("qaedge.lock",))


def test_the_agent_hangs_while_a_file_is_sent(device, target, stub, nothing_left):
    with AgentSession(device, target, folder=stub, heartbeat_s=0.2) as session:
        os.kill(session.hello.pid, signal.SIGSTOP)
        with pytest.raises(DeviceLost):
            session.put({"a" * 64: bytes(1 << 22)})
    nothing_left(but=("qaedge.lock",))


def test_a_quiet_agent_is_alive(device, target, stub, word, quick):
    settings = msgspec.structs.replace(quick, deadline_s=1.0, retries=0)
    with AgentSession(device, target, folder=stub, heartbeat_s=0.1) as session:
        found = results(measure(session, [word("sleep"), word("run")], settings, threads=1))
    assert isinstance(found["sleep"].error, CandidateTimeout)
    assert isinstance(found["run"], Measured)


HOST = """
import sys
from pathlib import Path
import msgspec
from qaedge.artifact import Artifact
from qaedge.device import Device
from qaedge.hil.agent import AgentSession
from qaedge.hil.profile import Settings, measure
from qaedge.hil.target import LocalTarget
stub, path, private, name = sys.argv[1:]
settings = Settings(rounds_min=10_000, rounds_max=10_000)
target = LocalTarget(environment={"TMPDIR": private, "QAEDGE_LOCKS": private})
with AgentSession(Device(name=name, description="", pin=False), target, folder=Path(stub)) as session:
    for step in measure(session, [Artifact.of(Path(path))], settings, threads=1):
        print(session.hello.pid, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("what", ["run", "sleep"])
def test_the_host_ends_in_any_way(device, stub, word, private, nothing_left, number, what):
    artifact = word(what)
    command = [sys.executable, "-c", HOST, str(stub), artifact.path, str(private), device.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as host:
        if what == "run":
            assert int(host.stdout.readline()) > 0
        else:
            until = time.monotonic() + 30
            while not list(private.glob("qaedge-*/files/*")) and time.monotonic() < until:
                time.sleep(0.02)
            time.sleep(0.1)
        host.send_signal(number)
        host.communicate()
        assert host.returncode != 0
    nothing_left()


def test_the_host_is_killed_while_the_agent_hangs(device, stub, word, private, nothing_left):
    command = [sys.executable, "-c", HOST, str(stub), word("run").path, str(private), device.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as host:
        os.kill(int(host.stdout.readline()), signal.SIGSTOP)
        host.kill()
        host.communicate()
    nothing_left(but=("qaedge.lock",))


def test_a_device_measures_for_one_at_a_time(device, target, stub, nothing_left):
    with AgentSession(device, target, folder=stub):
        with pytest.raises(DeviceBusy) as info:
            AgentSession(device, target, folder=stub)
        assert "is measuring on" in info.value.message and "process" in info.value.message
        same = msgspec.structs.replace(device, name=f"another-name-of-{device.name}")
        with pytest.raises(DeviceBusy):
            AgentSession(same, target, folder=stub)
    with AgentSession(device, target, folder=stub, wait_s=1.0):
        pass
    nothing_left()


def test_no_runtime_on_the_target(device, tmp_path, private, nothing_left):
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    with pytest.raises(AgentFailed) as info:
        AgentSession(device, LocalTarget(python, {"TMPDIR": str(private), "QAEDGE_LOCKS": str(private)}))
    assert "onnxruntime" in info.value.message
    assert f"{python} -m pip install onnxruntime" in info.value.hint
    nothing_left()


@pytest.mark.parametrize(
    ("change", "said", "hint"),
    [
        ({"arch": "sparc"}, "described as sparc, and the machine there is", '"any"'),
        ({"threads": 5000}, "described with 5000 threads, and the machine there has", "Set threads to at most"),
        ({"runtimes": ()}, "Its description names none", "measures with onnxruntime"),
        ({"runtimes": ("abacus",)}, "abacus: unknown here", "measures with onnxruntime"),
    ],
)
def test_a_description_of_another_board_is_refused(device, target, stub, nothing_left, change, said, hint):
    with pytest.raises(AgentFailed) as info:
        AgentSession(msgspec.structs.replace(device, **change), target, folder=stub)
    assert said in info.value.message and hint in info.value.hint and "pip" not in info.value.hint
    nothing_left()


def test_the_greeting_can_be_read_while_somebody_measures(device, target, stub, nothing_left):
    with (
        AgentSession(device, target, folder=stub),
        AgentSession(device, target, folder=stub, lock=False) as second,
    ):
        assert second.hello.arch
    nothing_left()


def test_no_python_on_the_target(device):
    with pytest.raises(AgentFailed, match="Cannot run /no/python"):
        AgentSession(device, LocalTarget("/no/python"))


def test_an_agent_that_cannot_start_says_why(device, target, stub, nothing_left):
    (stub / "agent.py").write_text("raise SystemError('broken on purpose')")
    with pytest.raises(AgentFailed, match="could not start") as info:
        AgentSession(device, target, folder=stub)
    assert "broken on purpose" in info.value.hint
    nothing_left()


def test_an_agent_that_fails_says_why(device, target, stub, nothing_left):
    with AgentSession(device, target, folder=stub) as session:
        session._send({"type": "have"})
        with pytest.raises(AgentFailed, match="KeyError: 'sha256'"):
            session._receive()
    nothing_left()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        b"\x00\x00\x00\x02J{}",
        b"\x00\x00\x00\x02Jno",
        b"\x7f\x00\x00\x00J",
        b"\x00\x00\x00\x01BX",
    ],
)
def test_a_corrupted_frame_to_the_agent(device, target, stub, nothing_left, data):
    with AgentSession(device, target, folder=stub) as session:
        session._write(data)
        with pytest.raises(AgentFailed, match="FrameError"):
            session._receive()
    nothing_left()


@pytest.mark.parametrize("data", ["X" * 64, "\\0\\0\\0\\2J{}", "\\0\\0\\0\\x10J{'type':'hello'}"])
def test_a_corrupted_frame_from_the_agent(device, target, stub, nothing_left, data):
    text = (stub / "agent.py").read_text()
    broken = text.replace("        self._lock = lock\n", f'        os.write(self._link.sink, b"{data}")\n', 1)
    assert broken != text
    (stub / "agent.py").write_text(broken)
    with pytest.raises(ProtocolError):
        AgentSession(device, target, folder=stub, start_timeout_s=2.0).measure({})
    nothing_left(but=("qaedge.lock",))


@pytest.mark.parametrize("value", ["float('nan')", "-5", "0", "10**20", "'fast'", "1.5"])
def test_times_that_cannot_be_are_not_believed(device, target, stub, word, quick, nothing_left, value):
    path = stub / "chunks.py"
    text = path.read_text()
    broken = text.replace('samples_ns=answer["samples_ns"]', f"samples_ns=[{value}]", 1)
    assert broken != text
    path.write_text(broken)
    with (
        AgentSession(device, target, folder=stub) as session,
        pytest.raises((ProtocolError, AgentFailed)),  # NaN does not even leave the agent
    ):
        list(measure(session, [word("run")], quick, threads=1))
    nothing_left()


def test_a_file_that_arrives_damaged_is_sent_again_alone(device, target, stub, nothing_left):
    good, bad = b"good", b"bad"
    names = {__import__("hashlib").sha256(data).hexdigest(): data for data in (good, bad)}
    damaged = next(name for name, data in names.items() if data == bad)

    class Flips(dict):
        """Gives a damaged file the first time it is asked."""

        asked = 0

        def items(self):
            self.asked += 1
            return [(k, b"BAD" if k == damaged and self.asked == 1 else v) for k, v in super().items()]

    with AgentSession(device, target, folder=stub) as session:
        session.put(Flips(names))
        assert session.missing(names) == set()
        with pytest.raises(ProtocolError, match="damaged"):
            session.put({"a" * 64: b"never right"})
        assert session.missing([*names, "a" * 64]) == {"a" * 64}
    nothing_left()


def test_a_full_disk_names_path_and_bytes(device, target, stub, private):
    text = (stub / "uploads.py").read_text()
    (stub / "uploads.py").write_text(text.replace("SPARE = 1 << 24", "SPARE = 1 << 60"))
    with AgentSession(device, target, folder=stub) as session:
        with pytest.raises(DiskFull) as info:
            session.put({"a" * 64: b"x"})
        assert str(private) in info.value.message and "bytes free" in info.value.message
        assert session.missing(["a" * 64]) == {"a" * 64}  # the session goes on


def test_closing_twice_is_closing_once(device, target, stub, nothing_left):
    session = AgentSession(device, target, folder=stub)
    session.close()
    session.close()
    nothing_left()


def test_an_error_in_the_block_leaves_nothing(device, target, stub, word, quick, nothing_left):
    settings = msgspec.structs.replace(quick, **FOREVER)
    with pytest.raises(ZeroDivisionError), AgentSession(device, target, folder=stub) as session:
        for _ in measure(session, [word("run")], settings, threads=1):
            1 / 0  # noqa: B018
    nothing_left()


def test_steps_may_outlive_their_session(device, target, stub, word, quick, nothing_left):
    settings = msgspec.structs.replace(quick, **FOREVER)
    with AgentSession(device, target, folder=stub) as session:
        steps = measure(session, [word("run")], settings, threads=1)
        next(steps)
    steps.close()
    nothing_left()


def test_the_folder_is_private(device, target, stub, private):
    with AgentSession(device, target, folder=stub) as session:
        folder = Path(session.hello.folder)
        assert folder.parent == private
        assert folder.stat().st_mode & 0o777 == 0o700
        assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
