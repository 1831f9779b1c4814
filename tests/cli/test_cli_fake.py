"""`qaedge profile --device fake`, and boards that follow a script, through the whole command."""

from __future__ import annotations

import json

import pytest
from tiny_scenes import space_of, write_project

from qaedge.hil import fleet
from qaedge.tables import LatencyTable, table_keys

REBOOTS = """\
seed = 3

[[event]]
what = "reboot"
chunk = 0

[[event]]
what = "reboot"
chunk = 2
round = 2
away = 1
"""
#: Runtime version, board and processor that no real board has.
MADE_UP = ("fake", "fake board", "fake")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A small project; the current folder is its own."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fleet, "WAITS_S", (0.01, 0.01, 0.01))
    return write_project(tmp_path)


def describe(workspace, script: str) -> None:
    (workspace.root / "devices").mkdir()
    (workspace.root / "devices" / "flaky.toml").write_text(
        'name = "flaky"\nbase = "fake"\nscript = "flaky-script.toml"\n'
    )
    (workspace.root / "flaky-script.toml").write_text(script)


def rows(workspace, name):
    return list(LatencyTable.store(workspace.latency_file(name)).rows())


def test_it_fills_the_table_with_rows_that_say_what_they_are(tiny, qaedge):
    ran = qaedge("profile", "--device", "fake", "--json")
    assert ran.status == 0, ran.err
    assert "fake is a fake board: its numbers are made up, and true of no device." in ran.err
    found = rows(tiny, "fake")
    assert sorted(row.key for row in found) == sorted(table_keys(space_of(tiny)))
    for row in found:
        fingerprint = row.measurement.fingerprint
        assert (row.measurement.runtime_version, fingerprint["board"], fingerprint["arch"]) == MADE_UP
    assert json.loads(ran.out)["measured"] == len(found)
    ran = qaedge("profile", "--device", "fake")
    assert f"{len(found)} of {len(found)} rows are kept, 0 to measure" in ran.err


def test_a_board_that_reboots_in_the_middle_gets_its_rows_and_the_old_ones_anew(tiny, qaedge):
    describe(tiny, REBOOTS)
    ran = qaedge("profile", "--device", "flaky")
    assert ran.status == 0, ran.err
    assert "Connecting again" in ran.err and "lost 3 times" in ran.out
    first = rows(tiny, "flaky")
    keys = sorted(table_keys(space_of(tiny)))
    assert sorted(row.key for row in first) == keys, "every row, and each once"
    boots = [row.measurement.fingerprint["boot_id"] for row in first]
    assert len(set(boots)) == 2
    old = boots.count(boots[0])

    ran = qaedge("profile", "--device", "flaky")  # the rows of the state that is gone, and no other
    assert ran.status == 0, ran.err
    assert f"{old} of {len(keys)} rows are of another state of flaky and are measured again: boot_id is" in ran.err
    assert len(rows(tiny, "flaky")) == len(keys) + old
    assert {row.measurement.fingerprint["boot_id"] for row in rows(tiny, "flaky")[-old:]} == {boots[-1]}

    ran = qaedge("profile", "--device", "flaky")
    assert f"{len(keys)} of {len(keys)} rows are kept, 0 to measure" in ran.err


def test_rows_taken_while_it_throttled_are_marked_and_measured_again(tiny, qaedge):
    throttles = "[[throttle]]\nfrom_s = 0.0\nto_s = 1e6\nfactor = 2.0\nbits = 4\n"
    describe(tiny, throttles)
    count = len(table_keys(space_of(tiny)))
    ran = qaedge("profile", "--device", "flaky")
    assert ran.status == 0, ran.err
    assert f"{count} of {count} rows were taken while flaky throttled, and are marked" in " ".join(ran.err.split())
    assert all("throttled" in row.measurement.doubts for row in rows(tiny, "flaky"))

    (tiny.root / "flaky-script.toml").write_text("seed = 1\n")  # it has cooled
    ran = qaedge("profile", "--device", "flaky")
    assert ran.status == 0, ran.err
    assert f"{count} of {count} rows were taken while the device throttled and are measured again" in ran.err
    found = rows(tiny, "flaky")
    assert len(found) == 2 * count and not any(row.measurement.is_spoiled for row in found[count:])

    ran = qaedge("profile", "--device", "flaky")
    assert f"{count} of {count} rows are kept, 0 to measure" in ran.err and "throttled" not in ran.err


def test_what_cannot_be_measured_is_told_and_the_rest_is_there(tiny, qaedge):
    describe(tiny, '[[file]]\norder = 0\ndoes = "crash"\n')
    ran = qaedge("profile", "--device", "flaky")
    assert ran.status == 1
    assert "1 of " in ran.err and "ended the process that ran it on flaky, 2 times" in ran.err
    assert len(rows(tiny, "flaky")) == len(table_keys(space_of(tiny))) - 1


def test_a_script_that_is_wrong_is_told_with_its_file_and_key(tiny, qaedge):
    describe(tiny, '[[event]]\nwhat = "explode"\n')
    ran = qaedge("profile", "--device", "flaky")
    assert ran.status == 1 and "flaky-script.toml: event[0].what: expected one of hang" in ran.err
    (tiny.root / "flaky-script.toml").unlink()
    ran = qaedge("profile", "--device", "flaky")
    assert ran.status == 1 and "No file flaky-script.toml" in ran.err
    assert "`script` in the fake board's description" in ran.err


def test_bench_and_the_doctor_know_it(tmp_path, monkeypatch, qaedge):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.onnx").write_bytes(b"x" * 10_000)
    ran = qaedge("bench", "some.onnx", "--device", "fake", "--json")
    assert ran.status == 0, ran.err
    (row,) = json.loads(ran.out)
    assert row["runtime_version"] == "fake" and row["median_s"] == pytest.approx(2e-4 + 2e-8 * 10_000, rel=0.01)
    assert "made up" in ran.err
    ran = qaedge("device", "check", "fake")
    assert ran.status == 0 and "it is a fake board" in ran.out, ran.err
