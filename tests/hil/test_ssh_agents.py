"""Agents, candidates, hosts and logins that end, hang or lie, on a real sshd."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import msgspec
import pytest
from sshd import wait_for
from stub_sessions import open_stub, results

from qaedge.errors import (
    AgentFailed,
    AgentKilled,
    CandidateCrashed,
    CandidateTimeout,
    DeviceBusy,
    MeasurementError,
    ProtocolError,
    Unreachable,
)
from qaedge.hil import agent
from qaedge.hil.agent import AgentSession
from qaedge.hil.connect import target_for
from qaedge.hil.profile import Measured, measure

# Agents, candidates and hosts.


def test_the_agent_is_killed(board, stub, word, endless, nothing_left):
    with open_stub(board, stub) as session:
        steps = measure(session, [word("run 1"), word("run 2")], endless, threads=1)
        next(steps)
        os.kill(session.hello.pid, signal.SIGKILL)
        with pytest.raises(AgentKilled, match="signal 9"):
            list(steps)
    nothing_left(but=("qaedge.lock",))


@pytest.mark.parametrize(
    ("what", "kind"), [("abort", CandidateCrashed), ("segv", CandidateCrashed), ("sleep", CandidateTimeout)]
)
def test_a_bad_candidate_harms_itself_alone(board, stub, word, quick, nothing_left, what, kind):
    settings = msgspec.structs.replace(quick, deadline_s=0.5)
    with open_stub(board, stub) as session:
        found = results(measure(session, [word("run 1"), word(what), word("run 2")], settings, threads=1))
    assert isinstance(found["run_1"], Measured) and isinstance(found["run_2"], Measured)
    assert type(found[what].error) is kind and what in found[what].error.message
    nothing_left()


def test_a_flood_is_drained(board, stub, word, quick, nothing_left):
    with open_stub(board, stub) as session:  # 6 MB on each of two streams
        found = results(measure(session, [word("flood"), word("run")], quick, threads=1))
        assert len(session._inbox._errors) <= 1 << 14
    assert all(isinstance(result, Measured) for result in found.values())
    nothing_left()


def test_a_flood_of_complaints_before_a_word(board, stub):
    (stub / "agent.py").write_text(
        "import os\nfor _ in range(96): os.write(2, b'0' * 65536)\nraise SystemError('at last')"
    )
    with pytest.raises(AgentFailed) as info:
        open_stub(board, stub)
    assert "at last" in info.value.hint and len(info.value.hint) < 3000


def test_control_characters_of_a_board_do_not_reach_the_terminal(board, stub, word, quick):
    (stub / "agent.py").write_text("import os, sys\nos.write(2, b'\\x1b]0;owned\\x07\\x1b[2J\\n')\nsys.exit(9)")
    with pytest.raises(AgentFailed) as info:
        open_stub(board, stub)
    assert "owned" in info.value.hint
    assert not set(info.value.hint + info.value.message) & {chr(n) for n in range(32) if n != 10}


@pytest.mark.parametrize("says", [b"Welcome!\n", b"\0\x20\0\0J" + b"x" * 64, b'\0\0\0\x10J{"type":"lies!"}'])
def test_a_board_that_does_not_keep_to_the_protocol(board, stub, says):
    path = stub / "agent.py"
    path.write_text(
        path.read_text().replace("        self._hello()\n", f"        os.write(self._link.sink, {says!r})\n")
    )
    with pytest.raises(ProtocolError):
        open_stub(board, stub)


def test_a_board_without_that_python(board):
    with pytest.raises(AgentFailed, match="/no/python"):
        AgentSession(board, target_for(msgspec.structs.replace(board, python="/no/python")))


HOST = """
import sys
from pathlib import Path
import msgspec
from qaedge.artifact import Artifact
from qaedge.device import Device
from qaedge.hil.agent import AgentSession
from qaedge.hil.connect import target_for
from qaedge.hil.profile import Settings, measure
described, stub, path = sys.argv[1:]
device = msgspec.json.decode(described, type=Device)
settings = Settings(rounds_min=10_000, rounds_max=10_000)
with AgentSession(device, target_for(device), folder=Path(stub), host_patience_s=3.0) as session:
    for step in measure(session, [Artifact.of(Path(path))], settings, threads=1):
        print(session.hello.pid, flush=True)
"""


def start_host(board, stub, artifact) -> subprocess.Popen:
    """Start a host process of its own, that measures for ever; return when it does."""
    command = [sys.executable, "-c", HOST, msgspec.json.encode(board).decode(), str(stub), artifact.path]
    host = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert int(host.stdout.readline()) > 0
    return host


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_host_ends_in_any_way(board, stub, word, nothing_left, number):
    with start_host(board, stub, word("run")) as host:
        host.send_signal(number)
        host.communicate()
        assert host.returncode != 0
    nothing_left()


def test_the_host_is_killed_while_the_agent_hangs(board, stub, word, nothing_left):
    with start_host(board, stub, word("run")) as host:
        os.kill(int(host.stdout.readline()), signal.SIGSTOP)
        host.kill()
        host.communicate()
    nothing_left(but=("qaedge.lock",))


def test_the_host_hangs(board, stub, word, nothing_left):
    with start_host(board, stub, word("run")) as host:
        host.send_signal(signal.SIGSTOP)  # its connection stays, and it says nothing: as behind a cable that is out
        try:
            wait_for(lambda: not _is_alive(board, stub), 35.0, "the agent ends by itself")
        finally:
            host.kill()
            host.communicate()
    nothing_left()


def test_a_host_that_only_listens_is_not_silent(board, stub, word, quick, nothing_left):
    settings = msgspec.structs.replace(quick, deadline_s=4.0, retries=0)
    with open_stub(board, stub, host_patience_s=1.5) as session:
        found = results(measure(session, [word("sleep"), word("run")], settings, threads=1))
    assert isinstance(found["sleep"].error, CandidateTimeout)  # and not a lost device, after 1.5 s
    assert isinstance(found["run"], Measured)
    nothing_left()


def _is_alive(board, stub) -> bool:
    lock = Path(stub).parent / "tmp" / "qaedge.lock"
    return lock.exists()


# Two on one board; sshd's limits.


def test_the_second_leaves_at_once_with_the_holders_name(board, stub, monkeypatch, nothing_left):
    with open_stub(board, stub):
        monkeypatch.setattr(agent.time, "sleep", lambda _: pytest.fail("it waits, and was not asked to"))
        with pytest.raises(DeviceBusy) as info:
            open_stub(board, stub)
        monkeypatch.undo()
        assert agent.owner() in info.value.message and "is measuring on" in info.value.message
    nothing_left()


def test_the_second_may_wait_until_the_first_has_died(board, stub, word, nothing_left):
    got: list[AgentSession | MeasurementError] = []

    def second() -> None:
        try:
            got.append(open_stub(board, stub, wait_s=30.0))
        except MeasurementError as error:
            got.append(error)

    with start_host(board, stub, word("run")) as host:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(1.5)
        assert thread.is_alive() and not got  # it waits
        host.kill()
        host.communicate()
        thread.join(35.0)
    (session,) = got
    assert isinstance(session, AgentSession), session
    session.close()
    nothing_left()


@pytest.fixture
def nobody():
    """A Python that runs as the user `nobody`, in a folder that everybody can read."""
    if os.geteuid() != 0 or not shutil.which("setpriv") or not Path("/usr/bin/python3").exists():
        pytest.skip("only root can become somebody else, by setpriv, and with a Python that everybody may run")
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    file = folder / "python"
    file.write_text(
        "#!/bin/sh\nexport USER=nobody LOGNAME=nobody\n"
        'exec setpriv --reuid=65534 --regid=65534 --clear-groups /usr/bin/python3 "$@"\n'
    )
    file.chmod(0o755)
    yield str(file)
    shutil.rmtree(folder)


def test_two_users_of_one_board_and_neither_needs_to_be_root(start_sshd, device, nobody, stub, word, quick):
    sshd = start_sshd(environment={"TMPDIR": "/tmp"})
    mine = sshd.device(device.name, python="/usr/bin/python3")
    theirs = sshd.device(device.name, python=nobody)
    with open_stub(theirs, stub) as session:
        assert Path(f"/proc/{session.hello.pid}").stat().st_uid == 65534
        assert isinstance(results(measure(session, [word("run")], quick, threads=1))["run"], Measured)
        with pytest.raises(DeviceBusy, match="nobody is measuring"):
            open_stub(mine, stub)
    with open_stub(mine, stub), pytest.raises(DeviceBusy, match="root is measuring"):
        open_stub(theirs, stub)
    assert not Path("/tmp/qaedge.lock").exists()


def test_few_sessions_are_enough(start_sshd, device, stub, word, quick, nothing_left):
    sshd = start_sshd("MaxSessions 1")
    board = sshd.device(device.name)
    target = target_for(board)
    with AgentSession(board, target, folder=stub) as session:
        found = results(measure(session, [word("run")], quick, threads=1))
        with pytest.raises(Unreachable, match="opens no further session") as info:
            target.run(["true"])
        assert "MaxSessions" in info.value.hint
        assert session.missing(["a" * 64])  # what is open goes on
    assert isinstance(found["run"], Measured)
    assert sshd.said().count("Starting session") == 1
    nothing_left()


def test_few_logins_at_once_are_enough(start_sshd, device, stub):
    sshd = start_sshd("MaxStartups 1")
    board = sshd.device(device.name)
    with socket.create_connection((sshd.host, sshd.port)) as somebody:
        assert somebody.recv(3) == b"SSH"
        with pytest.raises(Unreachable) as info:
            target_for(board)
        assert "too many connect at once" in info.value.hint
    wait_for(lambda: not sshd.connections(), 10.0, "sshd has noticed that somebody is gone")
    with open_stub(board, stub), open_stub(board, stub, lock=False):
        pass


def test_a_login_that_may_run_one_command_only(start_sshd, device, stub):
    sshd = start_sshd("ForceCommand echo no shell for you")
    board = sshd.device(device.name)
    with pytest.raises(ProtocolError) as info:
        open_stub(board, stub)
    assert "'no shell for you'" in info.value.message and "ForceCommand" in info.value.hint


# A reboot.


def test_a_reboot_is_another_state_of_the_board(board, stub, word, quick, tmp_path):
    # What is shipped here reads the boot id from a file of ours.
    boot, where = tmp_path / "boot_id", '"proc/sys/kernel/random/boot_id"'
    readers = [path for path in stub.glob("*.py") if where in path.read_text()]
    assert readers
    for path in readers:
        path.write_text(path.read_text().replace(where, f'"{boot}"'))
    rows = []
    for number in ("first", "second"):
        boot.write_text(number)
        with open_stub(board, stub) as session:
            assert session.hello.boot_id == number
            rows.append(results(measure(session, [word("run")], quick, threads=1))["run"].measurement)
    assert [row.fingerprint["boot_id"] for row in rows] == ["first", "second"]
    with open_stub(board, stub) as session:
        steps = measure(session, [word("run")], msgspec.structs.replace(quick, rounds_min=3, rounds_max=3), threads=1)
        next(steps)
        boot.write_text("third")
        assert "changed" in results(steps)["run"].measurement.doubts
