"""Cables, power, hung boards and slow links: faults of what lies between host and board, on a real sshd."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time

import msgspec
import paramiko
import pytest
from proxy import Proxy
from sshd import wait_for
from stub_sessions import lost, open_stub, results

from qaedge.errors import (
    DeviceLost,
    Unreachable,
)
from qaedge.hil.agent import AgentSession
from qaedge.hil.connect import target_for
from qaedge.hil.profile import Measured, measure

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
