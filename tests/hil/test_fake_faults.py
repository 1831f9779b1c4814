"""A fake board that fails or lies: each time the error that is promised (docs/measuring.md), and never a number."""

from __future__ import annotations

import pytest
from fakes import FAKE, event, run

from qaedge.errors import (
    AgentFailed,
    AgentKilled,
    DeviceBusy,
    DeviceLost,
    DiskFull,
    MeasurementError,
    ProtocolError,
    Unreachable,
)
from qaedge.hil import fleet as fleets
from qaedge.hil import frames
from qaedge.hil.agent import AgentSession
from qaedge.hil.fake import Board, FakeTarget, Script
from qaedge.hil.fake.script import LIES, Event
from qaedge.hil.fleet import Fleet
from qaedge.hil.profile import Failed, Measured, Settings, measure

# The agent, the board, the line between them end.

ENDS = {
    "hang": (DeviceLost, "nothing came for"),
    "cut": (DeviceLost, "the script cut the connection"),
    "reboot": (AgentKilled, "its connection ended"),
    "killed": (AgentKilled, "signal 9"),
    "error": (AgentFailed, "as the script says"),
}


@pytest.mark.parametrize("what", ENDS)
@pytest.mark.parametrize("at", ["begin", "upload", "turn", "end"])
def test_however_the_agent_ends_it_is_an_error_and_no_number(some, what, at):
    kind, text = ENDS[what]
    board = Board("fake", event(what, at=at))
    found = []
    with pytest.raises(kind, match=text), AgentSession(FAKE, FakeTarget(board)) as session:
        for step in measure(session, some(5), Settings(chunk=5), threads=1):
            found += [step.result] * (step.result is not None)
    assert len(found) == (5 if at == "end" else 0), "what was finished before stands"
    assert board.holder == {}, "and the lock is free"
    assert len(run(some(5), board=board)[0]) == 5, "it happens once"


@pytest.mark.parametrize(("what", "kind"), [(what, kind) for what, (kind, _) in ENDS.items()])
def test_an_agent_that_ends_before_its_greeting(what, kind):
    with pytest.raises(MeasurementError) as info:
        AgentSession(FAKE, FakeTarget(Board("fake", event(what, at="greeting"))))
    # Without a greeting nobody knows whether anything was started at all.
    assert type(info.value) is (AgentFailed if kind is AgentKilled else kind)


@pytest.mark.parametrize("where", [{"chunk": 1}, {"round": 2}, {"turn": 3}, {"at_s": 2.0}, {"after": 7}])
def test_events_come_where_they_are_asked_for(some, where):
    files = some(8)
    found = []
    board = Board("fake", event("killed", **where))
    with pytest.raises(AgentKilled), AgentSession(FAKE, FakeTarget(board)) as session:
        for step in measure(session, files, Settings(chunk=4), threads=1):
            found.append(step)
    results = [step.result for step in found if step.result is not None]
    rounds = [step for step in found if step.what.startswith("round")]
    assert (len(results), len(rounds)) == {
        "chunk": (4, 3),
        "round": (0, 1),
        "turn": (0, 0),
        "at_s": (4, 4),
        "after": (0, 1),
    }[next(iter(where))]


def test_a_reboot_is_another_boot_and_the_work_goes_on(some, monkeypatch):
    monkeypatch.setattr(fleets, "WAITS_S", (0.01, 0.01, 0.01))
    board = Board("fake", event("reboot", chunk=1, round=2, away=2))

    def connect(device, wait_s):
        return AgentSession(device, FakeTarget(board))

    files = some(12)
    with Fleet([FAKE], open_board=connect) as fleet:
        steps = list(fleet.measure(files, Settings(chunk=4)))
        (share,) = fleet.shares
    rows = [step.result.measurement for step in steps if isinstance(step.result, Measured)]
    assert sorted(row.sha256 for row in rows) == sorted(file.sha256 for file in files), "each, and once"
    assert len({row.fingerprint["boot_id"] for row in rows}) == 2
    assert share.losses == 3 and not share.given_up, "the reboot, and two connections that were refused"


def test_a_board_that_is_away_is_unreachable():
    board = Board("fake", Script())
    board.away = 1
    with pytest.raises(Unreachable, match="it is away"):
        AgentSession(FAKE, FakeTarget(board))
    AgentSession(FAKE, FakeTarget(board)).close()


def test_a_file_that_kills_every_board_is_left_out_by_name(some, monkeypatch):
    monkeypatch.setattr(fleets, "WAITS_S", (0.01, 0.01, 0.01))
    files = some(6)
    killer = files[2].sha256[:16]
    board = Board("fake", Script(event=tuple(Event("reboot", sha256=killer) for _ in range(10))))
    with Fleet(
        [FAKE], open_board=lambda device, wait_s: AgentSession(device, FakeTarget(board), wait_s=wait_s)
    ) as fleet:
        steps = list(fleet.measure(files, Settings()))
    results = {step.result.artifact.name: step.result for step in steps if step.result is not None}
    assert isinstance(results.pop(files[2].name), Failed)
    assert len(results) == 5 and all(isinstance(result, Measured) for result in results.values())


def test_the_lock_of_the_agent_that_was_cut_off_is_no_reason_to_give_a_board_up(some, monkeypatch):
    monkeypatch.setattr(fleets, "WAITS_S", (0.01, 0.01, 0.01))
    board = Board("fake", event("cut", round=1, held=2))
    with Fleet(
        [FAKE], open_board=lambda device, wait_s: AgentSession(device, FakeTarget(board), wait_s=wait_s)
    ) as fleet:
        steps = list(fleet.measure(some(6), Settings()))
        (share,) = fleet.shares
    assert sum(isinstance(step.result, Measured) for step in steps) == 6
    assert share.losses == 1 and not share.given_up


def test_somebody_else_measures_there():
    board = Board("fake", event("busy", at="begin", text="ann@desk"))
    with pytest.raises(DeviceBusy, match="ann@desk"):
        AgentSession(FAKE, FakeTarget(board))
    with AgentSession(FAKE, FakeTarget(board)):
        with pytest.raises(DeviceBusy, match="is measuring on"):
            AgentSession(FAKE, FakeTarget(board))
        with AgentSession(FAKE, FakeTarget(board), lock=False) as second:
            assert second.hello.board == "fake board"
    AgentSession(FAKE, FakeTarget(board)).close()


def test_the_lock_of_an_agent_that_was_cut_off_is_waited_for():
    board = Board("fake", event("cut", at="begin", held=1))
    with pytest.raises(DeviceLost):
        AgentSession(FAKE, FakeTarget(board))
    AgentSession(FAKE, FakeTarget(board), wait_s=1.0).close()


# Files that do not arrive.


def test_a_file_that_arrives_damaged_is_sent_again_alone(some):
    board = Board("fake", event("damaged", at="upload", after=1))
    assert len(run(some(3), board=board)[0]) == 3
    assert board._passed["upload"] == 4


def test_a_file_that_arrives_damaged_twice_is_an_error(some):
    script = Script(event=(Event("damaged", at="upload"), Event("damaged", at="upload")))
    with pytest.raises(ProtocolError, match=r"arrived damaged at fake, twice: what arrived has the hash"):
        run(some(1), script)


def test_a_full_disk_names_path_and_bytes(some):
    with pytest.raises(DiskFull, match=r"\d+ bytes free in /fake/qaedge/files, \d+ needed"):
        run(some(3), Script(disk_bytes=(1 << 24) + 10_000))


# A board that lies is not believed.


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("nan", "does not allow"),
        ("negative", "does not allow"),
        ("zero", "does not allow"),
        ("absurd", "does not allow"),
        ("text", "does not allow"),
        ("unknown type", "does not allow"),
        ("not json", "does not allow"),
        ("raw frame", "a frame of type 66"),
        ("huge frame", "a frame of type 74 and 1048577 bytes"),
        ("wrong id", "a file that was not asked for"),
        ("unknown doubt", "for a reason that is not known: 'haunted'"),
        ("twice", "which is final already"),
        ("not measured", "said nothing of"),
    ],
)
def test_a_lie_is_an_error_and_no_number(some, what, text):
    files = some(3)
    board = Board("fake", event(what, sha256=files[1].sha256))
    found = []
    with pytest.raises(ProtocolError, match=text), AgentSession(FAKE, FakeTarget(board)) as session:
        for step in measure(session, files, Settings(), threads=1):
            if step.result is not None:
                found.append(step.result.artifact.name)
    assert found.count(files[1].name) == (1 if what == "twice" else 0)


def test_each_lie_that_a_script_knows_is_told_here():
    (cases,) = [m.args[1] for m in test_a_lie_is_an_error_and_no_number.pytestmark if m.name == "parametrize"]
    assert {what for what, _ in cases} | {"no samples"} == set(LIES)


def test_a_result_without_samples_is_no_result(some):
    with pytest.raises(MeasurementError, match="has no samples"):
        run(some(1), event("no samples"))


def test_results_without_their_end_are_not_complete(some):
    with pytest.raises(AgentKilled, match="without a word: exit status 0"):
        run(some(1), event("no done", at="end"))


@pytest.mark.parametrize(
    ("what", "text"),
    [("other protocol", f"speaks protocol {frames.PROTOCOL + 1}"), ("login text", "answers, but not as an agent")],
)
def test_something_else_than_an_agent_answers(what, text):
    with pytest.raises(ProtocolError, match=text):
        AgentSession(FAKE, FakeTarget(Board("fake", event(what, at="greeting"))))
