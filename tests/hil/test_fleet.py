"""Several boards, one table: shares, losses, scales."""

from __future__ import annotations

import os
import signal

import msgspec
import pytest

from qaedge.errors import AgentFailed, DeviceLost, QaedgeError, Unreachable
from qaedge.hil import fleet as fleets
from qaedge.hil.agent import AgentSession
from qaedge.hil.agreement import Agreement
from qaedge.hil.fleet import Fleet
from qaedge.hil.profile import Failed, Measured
from qaedge.hil.target import LocalTarget


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(fleets, "WAITS_S", (0.01, 0.01, 0.01))


@pytest.fixture
def two(device):
    return [msgspec.structs.replace(device, name=f"{device.name}-{letter}", base="pi4") for letter in "ab"]


@pytest.fixture
def connect(target, stub, tmp_path):
    """Connect to a device of this machine, and keep its sessions by name."""
    sessions = {}

    def open_board(device, wait_s=0.0):
        # Boards, but one machine: each has a lock of its own.
        locks = tmp_path / f"locks-{device.name}"
        locks.mkdir(exist_ok=True)
        fresh = LocalTarget(environment={"TMPDIR": target._environment["TMPDIR"], "QAEDGE_LOCKS": str(locks)})
        sessions.setdefault(device.name, []).append(
            AgentSession(device, fresh, folder=stub, heartbeat_s=0.3, wait_s=wait_s)
        )
        return sessions[device.name][-1]

    open_board.sessions = sessions
    return open_board


def kill(session):
    os.kill(session.hello.pid, signal.SIGKILL)


def by_name(steps):
    return {step.result.artifact.name: step.result for step in steps if isinstance(step.result, Measured | Failed)}


def test_two_boards_share_the_work_and_say_how_they_agree(two, connect, word, quick, nothing_left):
    files = [word(f"run {i}") for i in range(12)]
    settings = msgspec.structs.replace(quick, chunk=2)
    with Fleet(two, open_board=connect) as fleet:
        steps = list(fleet.measure(files, settings))
        shares = {share.device: share for share in fleet.shares}
    assert by_name(steps).keys() == {file.name for file in files}
    assert len([s for s in steps if isinstance(s.result, Measured)]) == 12, "no file twice"
    assert [s.done for s in steps if isinstance(s.result, Measured)] == list(range(1, 13))
    assert sum(share.measured for share in shares.values()) == 12
    assert all(share.measured > 0 for share in shares.values())
    (agreed,) = [s.result for s in steps if isinstance(s.result, Agreement)]
    assert agreed.files == 3 and (agreed.device, agreed.base) == (two[1].name, two[0].name)
    nothing_left()


def test_a_board_that_is_lost_is_connected_to_again_and_nothing_is_measured_twice(device, connect, word, quick):
    files = [word(f"run {i}") for i in range(9)]
    settings = msgspec.structs.replace(quick, chunk=3)
    found, warnings = [], []
    with Fleet([device], open_board=connect) as fleet:
        for step in fleet.measure(files, settings):
            warnings += [step.warning] * bool(step.warning)
            if isinstance(step.result, Measured):
                found.append(step.result.artifact.name)
                if len(found) == 4:
                    kill(connect.sessions[device.name][-1])
        (share,) = fleet.shares
    assert sorted(found) == sorted(file.name for file in files)
    assert share.losses == 1 and share.given_up == ""
    assert len(connect.sessions[device.name]) == 2
    (warning,) = warnings
    assert "Connecting again" in warning


def test_the_others_take_what_a_dead_board_leaves(two, connect, word, quick):
    dead = two[1].name

    def cut_off(device, wait_s):
        if device.name == dead and dead in connect.sessions:
            raise Unreachable(f"No connection to {dead}: No route to host.")
        return connect(device, wait_s)

    files = [word(f"run {i}") for i in range(16)]
    settings = msgspec.structs.replace(quick, chunk=2)
    found, warnings = [], []
    with Fleet(two, open_board=cut_off) as fleet:
        for step in fleet.measure(files, settings):
            warnings += [step.warning] * bool(step.warning)
            if isinstance(step.result, Measured):
                found.append(step.result)
                if len(found) == 5:
                    kill(connect.sessions[dead][-1])
        shares = {share.device: share for share in fleet.shares}
    assert sorted(m.artifact.name for m in found) == sorted(file.name for file in files)
    assert "No route to host" in shares[dead].given_up
    assert shares[two[0].name].given_up == ""
    assert sum(share.measured for share in shares.values()) == 16
    assert any("is given up, its work goes to" in warning for warning in warnings)


def test_a_board_that_stays_away_ends_with_what_is_left(device, connect, word, quick):
    def once(described, wait_s):
        if connect.sessions:
            raise Unreachable("No connection to it: Connection refused.", "Is it on?")
        return connect(described, wait_s)

    files = [word(f"run {i}") for i in range(6)]
    settings = msgspec.structs.replace(quick, chunk=2)
    found = []
    with Fleet([device], open_board=once) as fleet, pytest.raises(Unreachable, match="Connection refused") as caught:
        for step in fleet.measure(files, settings):
            if isinstance(step.result, Measured):
                found.append(step.result)
                if len(found) == 2:
                    kill(connect.sessions[device.name][-1])
    assert len(found) >= 2
    assert f"{6 - len(found)} of 6 files are left; what was finished is kept." in caught.value.hint


def test_an_error_that_is_the_users_to_mend_is_not_tried_again(device):
    tries = []

    def refuse(described, wait_s):
        tries.append(described)
        raise AgentFailed("No runtime there.")

    with pytest.raises(AgentFailed):
        Fleet([device], open_board=refuse)
    assert len(tries) == 1


def test_boards_of_two_kinds_share_no_table(two, connect):
    def other_kind(device, wait_s):
        session = connect(device, wait_s)
        if device.name == two[1].name:
            session.hello = msgspec.structs.replace(session.hello, cpu_model="Cortex-A99")
        return session

    with pytest.raises(QaedgeError, match="boards of two kinds: cpu_model is"):
        Fleet(two, open_board=other_kind)


def test_a_caller_that_stops_leaves_nothing_behind(two, connect, word, quick, nothing_left):
    settings = msgspec.structs.replace(quick, rounds_min=10_000, rounds_max=10_000)
    with Fleet(two, open_board=connect) as fleet:
        steps = fleet.measure([word("run 1"), word("run 2")], settings)
        next(steps)
        steps.close()
    nothing_left()


def test_one_board_of_two_is_enough_to_start(two, connect, word, quick):
    def first_only(device, wait_s):
        if device.name == two[1].name:
            raise DeviceLost("It is gone.")
        return connect(device, wait_s)

    with Fleet(two, open_board=first_only) as fleet:
        steps = list(fleet.measure([word("run 1"), word("run 2")], quick))
    assert len(by_name(steps)) == 2
    assert "It is gone." in steps[0].warning
