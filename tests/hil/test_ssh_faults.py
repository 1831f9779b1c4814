"""What goes wrong between a host and its board, over a real sshd: docs/faults.md says what is promised."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import paramiko
import pytest
from proxy import Proxy
from sshd import wait_for

from qaedge.errors import (
    AgentFailed,
    AgentKilled,
    CandidateCrashed,
    CandidateTimeout,
    DeviceBusy,
    DeviceLost,
    MeasurementError,
    ProtocolError,
    Unreachable,
)
from qaedge.hil import agent
from qaedge.hil.agent import AgentSession
from qaedge.hil.connect import target_for
from qaedge.hil.profile import Measured, measure

FOREVER = {"rounds_min": 10_000, "rounds_max": 10_000}
#: Within this a device that is gone is found [s]: the promise.
FOUND_S = 15.0


def results(steps):
    return {step.result.artifact.name: step.result for step in steps if step.result is not None}


@pytest.fixture
def endless(quick):
    """Settings that never end by themselves."""
    return msgspec.structs.replace(quick, **FOREVER)


@pytest.fixture
def board(sshd, device):
    """The device, behind sshd."""
    return sshd.device(device.name)


def open_stub(board, stub, **options) -> AgentSession:
    return AgentSession(board, target_for(board), folder=stub, **options)


def lost(steps) -> DeviceLost:
    """Go on until the device is lost, and return how; fail where it takes longer than promised."""
    start = time.monotonic()
    with pytest.raises(DeviceLost) as info:
        list(steps)
    assert time.monotonic() - start < FOUND_S
    return info.value


# The normal case.


def test_real_files_are_measured(sshd, board, relu, quick, nothing_left):
    files = [relu(10), relu(1000), relu(100_000)]
    with AgentSession(board, target_for(board)) as session:
        found = results(measure(session, files, quick, threads=1))
        assert session.hello.executable == sys.executable
    assert all(isinstance(result, Measured) for result in found.values()) and len(found) == 3
    nothing_left()
    assert sshd.said().count("Starting session") == 1  # one channel for all of it


# Cables, power, and boards that hang.


def test_the_cable_is_cut_while_measuring(netns_sshd, device, stub, word, endless, private, nothing_left):
    sshd = netns_sshd()
    board = sshd.device(device.name)
    with open_stub(board, stub, host_patience_s=4.0) as session:
        steps = measure(session, [word("run 1"), word("run 2")], endless, threads=1)
        next(steps)
        sshd.link("down")
        assert "nothing came for 6 s" in lost(steps).message
    # The agent heard nothing of that, and has ended by itself: the board is free while the cable is still out.
    nothing_left()
    sshd.link("up")
    with open_stub(board, stub) as session:
        assert session.missing(["a" * 64]) == {"a" * 64}
    nothing_left()


def test_the_board_hangs_and_its_network_does_not(board, stub, word, endless, nothing_left):
    with open_stub(board, stub, heartbeat_s=0.5) as session:
        steps = measure(session, [word("run")], endless, threads=1)
        next(steps)
        os.kill(session.hello.pid, signal.SIGSTOP)
        assert "nothing came for 1.5 s" in lost(steps).message  # three heartbeats
    nothing_left(but=("qaedge.lock",))


def test_sshd_hangs(sshd, board, stub, word, endless, private, nothing_left):
    with open_stub(board, stub, heartbeat_s=0.3, host_patience_s=2.0) as session:
        steps = measure(session, [word("run")], endless, threads=1)
        next(steps)
        for pid in sshd.connections():
            os.kill(pid, signal.SIGSTOP)
        lost(steps)
    nothing_left()  # neither side could tell the agent: it has ended by itself


@pytest.mark.parametrize("when", ["banner", "login", "command"])
def test_sshd_hangs_while_we_connect(sshd, board, monkeypatch, when):
    for name in ("CONNECT_S", "BANNER_S", "LOGIN_S"):
        monkeypatch.setattr(f"qaedge.hil.ssh.{name}", 0.5)

    def stop() -> None:
        for pid in [sshd.pid, *sshd.connections()]:
            os.kill(pid, signal.SIGSTOP)

    def hooked(owner, name):
        real = getattr(owner, name)

        def hook(*arguments, **options):
            stop()
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, hook)

    try:
        if when == "banner":
            stop()
        if when == "login":
            hooked(paramiko.Transport, "auth_publickey")
        if when == "command":
            hooked(paramiko.Channel, "exec_command")
        with pytest.raises((Unreachable, DeviceLost)) as info:
            target_for(board).run(["true"])
        assert "let us in" not in info.value.message
    finally:
        for pid in [sshd.pid, *sshd.connections()]:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_a_host_that_is_silent_frees_the_board(sshd, board, stub, word, endless, private, nothing_left):
    """With the numbers that are in use: free again at most 35 s after the host was heard for the last time."""
    with open_stub(board, stub) as session:
        steps = measure(session, [word("run")], endless, threads=1)
        next(steps)
        for pid in sshd.connections():
            os.kill(pid, signal.SIGSTOP)
        start = time.monotonic()
        lost(steps)
    lock = private / "qaedge.lock"
    wait_for(lambda: not lock.exists(), 35.0 - (time.monotonic() - start), "the lock is free")
    nothing_left()


def test_the_connection_is_dropped_while_measuring(sshd, board, stub, word, endless, nothing_left):
    with open_stub(board, stub) as session:
        steps = measure(session, [word("run 1"), word("run 2")], endless, threads=1)
        next(steps)
        sshd.drop()
        error = lost(steps)
        assert "its connection ended" in error.message and "kept" in error.hint
        with pytest.raises(DeviceLost):  # and it stays so
            session.missing(["a" * 64])
    nothing_left()
    with open_stub(board, stub):  # sshd listens still
        pass


def test_the_connection_is_dropped_in_the_middle_of_a_command(sshd, board):
    target = target_for(board)
    process = target.run(["sh", "-c", "echo begun; exec sleep 60"])
    assert process.read(10.0) == b"begun\n"
    sshd.drop()
    with pytest.raises(OSError, match="connection ended"):
        process.read(10.0)
    assert process.wait(1.0) is None  # no exit status: not -1, and not 0
    with pytest.raises(OSError):
        while True:
            process.write(b"x" * 65536)
    with pytest.raises(DeviceLost):
        target.run(["true"])
    target.close()


def test_sshd_is_gone(sshd, board, stub, word, endless, nothing_left):
    with open_stub(board, stub) as session:
        steps = measure(session, [word("run")], endless, threads=1)
        next(steps)
        sshd.stop()
        lost(steps)
    with pytest.raises(Unreachable, match="refused"):
        target_for(board)
    nothing_left()


# Uploads and links.


def test_the_connection_is_cut_while_a_file_is_sent(sshd, device, stub, nothing_left):
    with Proxy(sshd.host, sshd.port) as proxy:
        board = sshd.device(device.name, host=proxy.host, port=proxy.port)
        contents = {"a" * 64: os.urandom(1 << 22)}
        with open_stub(board, stub) as session:
            proxy.cut_after = proxy.bytes_up + (1 << 20)
            with pytest.raises(DeviceLost):
                session.put(contents)
        assert proxy.cuts == 1
        nothing_left()
        with open_stub(board, stub) as session:
            assert session.missing(contents) == set(contents)
    nothing_left()


#: A runtime on a clock of its own: every run takes as long as its file says, whatever the machine is doing.
CLOCK = '''
"""A stub."""
import time
VERSION = "stub 1"
now = [10**9]
time.perf_counter_ns = lambda: now[0]
class Session:
    inputs = outputs = []
    def __init__(self, path): self.ns = int(open(path).read().split()[1]) * 1000
    def __call__(self): now[0] += self.ns
    def settle(self): pass
def load(path, threads, options):
    now[0] += 10**6
    return Session(path)
def load_identity(tensors, threads, options): raise AssertionError
'''


def test_results_do_not_depend_on_the_link(sshd, device, stub, word, quick):
    (stub / "runtime_onnx.py").write_text(CLOCK)
    settings = msgspec.structs.replace(quick, chunk=2)
    files = [word(f"takes {100 + number}") for number in range(6)]
    found, waits = {}, {}
    for round_trip_ms in (2, 20, 200):
        with Proxy(sshd.host, sshd.port, delay_s=round_trip_ms / 2000) as proxy:
            board = sshd.device(device.name, host=proxy.host, port=proxy.port)
            with open_stub(board, stub) as session:
                waits[round_trip_ms] = count_waits(session)
                steps = list(measure(session, files, settings, threads=1))
        assert proxy.connections == 1
        rows = {name: result.measurement for name, result in results(steps).items()}
        found[round_trip_ms] = {name: (row.rounds, row.warmup_s, row.repeats) for name, row in rows.items()}
    assert found[2] == found[20] == found[200]
    assert len(found[2]) == 6
    # One to ask what is missing, and for each of three chunks at most two: the upload, the results.
    assert all(len(count) <= 1 + 3 * 2 for count in waits.values())
    assert all(len(count) >= 3 for count in waits.values())


def count_waits(session) -> list[None]:
    """Return a list that grows whenever the host waits for an answer to what it has sent since it last did."""
    counted: list[None] = []
    sent = [False]
    write, receive = session._write, session._receive

    def counting_write(data: bytes) -> None:
        sent[0] = True
        write(data)

    def counting_receive():
        if sent[0]:
            counted.append(None)
            sent[0] = False
        return receive()

    session._write, session._receive = counting_write, counting_receive
    return counted


def test_a_board_that_reads_slowly_is_waited_for(sshd, board, stub, private):
    # More than the channel's window, to an agent that beats and takes its time.
    path = stub / "agent.py"
    text = path.read_text()
    slow = text.replace(
        "        while self._uploads.arriving:\n", "        self._slowly()\n        while self._uploads.arriving:\n", 1
    )
    slow = slow.replace(
        "    def _drop(self",
        "    def _slowly(self):\n        for _ in range(10):\n            import time\n"
        "            time.sleep(0.1)\n            self._link.send('heartbeat')\n\n    def _drop(self",
        1,
    )
    assert slow.count("_slowly") == 2
    path.write_text(slow)
    data = os.urandom(6 << 20)
    name = hashlib.sha256(data).hexdigest()
    with open_stub(board, stub, heartbeat_s=0.2) as session:  # lost after 0.6 s of silence
        session.put({name: data})
        assert session.missing([name]) == set()


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
