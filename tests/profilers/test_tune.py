"""Tuning, on a file tree as the kernel lays it out, and with stand-ins for the vendor's programs on PATH."""

import json
import os

import pytest
import tune
from link import Link

CPUFREQ = "sys/devices/system/cpu/cpufreq"
#: Keeps its mode in a file, and answers as NVIDIA's does.
NVPMODEL = """#!/bin/sh
if [ "$1" = -q ]; then echo "NV Power Mode: MODE_$(cat {state})"; cat {state}; else echo "$2" > {state}; fi
"""
JETSON_CLOCKS = """#!/bin/sh
echo "$@" >> {state}
if [ "$1" = --store ]; then echo stored > "$2"; fi
"""
SUDO = """#!/bin/sh
echo "sudo: a password is required" >&2
exit 1
"""


@pytest.fixture
def board(tmp_path, monkeypatch):
    """A tree with two policies, and a PATH with nothing of a Jetson's."""
    for policy, governor in (("policy0", "ondemand"), ("policy4", "schedutil")):
        folder = tmp_path / "root" / CPUFREQ / policy
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(governor + "\n")
        (folder / "scaling_available_governors").write_text("ondemand schedutil performance\n")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


@pytest.fixture
def tuner(board):
    """Make a tuner with a host that says nothing."""
    source, other = os.pipe()
    _, sink = os.pipe()
    yield lambda: tune.Tuner(Link(source, sink), str(board / "home"), str(board / "root"))
    os.close(other)


def governors(board):
    return [path.read_text().strip() for path in sorted((board / "root" / CPUFREQ).glob("*/scaling_governor"))]


def program(board, name, text):
    state = board / f"{name}.state"
    path = board / "bin" / name
    path.write_text(text.format(state=state))
    path.chmod(0o755)
    return state


def test_what_would_be_done_is_told_and_not_done(board, tuner):
    answer = tuner().tune("performance", None, do=False)
    assert answer["commands"] == [
        f"echo performance | tee {board}/root/{CPUFREQ}/{policy}/scaling_governor" for policy in ("policy0", "policy4")
    ]
    assert answer["ran"] == 0 and governors(board) == ["ondemand", "schedutil"]
    assert not (board / "home").exists()


def test_reset_restores_exactly_what_was_there(board, tuner):
    assert tuner().tune("performance", None, do=True)["ran"] == 2
    assert governors(board) == ["performance", "performance"]
    assert tuner().tune("performance", None, do=True)["commands"] == []
    answer = tuner().reset(do=True)
    assert (answer["ran"], answer["failed"]) == (2, "")
    assert governors(board) == ["ondemand", "schedutil"]
    assert tuner().reset(do=True)["notes"] == ["nothing was tuned here"]


def test_the_first_state_survives_a_second_tuning(board, tuner):
    tuner().tune("performance", None, do=True)
    tuner().tune("ondemand", None, do=True)
    tuner().reset(do=True)
    assert governors(board) == ["ondemand", "schedutil"]


def test_a_governor_that_is_not_there_is_told(board, tuner):
    answer = tuner().tune("userspace", None, do=True)
    assert answer["commands"] == [] and "policy0 has no governor userspace" in answer["notes"][0]


def test_a_jetsons_mode_and_clocks_are_stored_set_and_restored(board, tuner):
    mode, clocks = program(board, "nvpmodel", NVPMODEL), program(board, "jetson_clocks", JETSON_CLOCKS)
    program(board, "sudo", '#!/bin/sh\nshift\nexec "$@"\n')
    mode.write_text("2\n")
    answer = tuner().tune("performance", 0, do=True)
    assert answer["failed"] == "" and mode.read_text() == "0\n"
    kept = f"{board}/home/.qaedge/jetson_clocks.conf"
    assert clocks.read_text().splitlines() == [f"--store {kept}", ""]
    assert json.loads((board / "home/.qaedge/tuned.json").read_text())["power_mode"] == 2
    assert tuner().tune("performance", 0, do=True)["commands"] == []
    assert tuner().reset(do=True)["failed"] == ""
    assert mode.read_text() == "2\n" and clocks.read_text().splitlines()[-1] == f"--restore {kept}"
    assert not (board / "home/.qaedge/tuned.json").exists()


def test_clocks_are_held_again_after_a_reboot(board, tuner):
    program(board, "nvpmodel", NVPMODEL).write_text("0\n")
    clocks = program(board, "jetson_clocks", JETSON_CLOCKS)
    boot = board / "root/proc/sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text("first\n")
    kept = f"{board}/home/.qaedge/jetson_clocks.conf"
    program(board, "sudo", '#!/bin/sh\nshift\nexec "$@"\n')
    assert tuner().tune("performance", None, do=True)["failed"] == ""
    assert tuner().tune("performance", None, do=True)["commands"] == []
    boot.write_text("second\n")
    assert tuner().tune("performance", None, do=True)["failed"] == ""
    assert clocks.read_text().splitlines() == [f"--store {kept}", "", ""], "stored once, held in each boot"
    assert tuner().tune("performance", None, do=True)["commands"] == []


def test_a_mode_where_there_are_none_is_told(tuner):
    assert "there is no nvpmodel here, so no power mode to set" in tuner().tune("performance", 0, do=False)["notes"]


def test_a_mode_that_is_not_told_is_left(board, tuner):
    program(board, "nvpmodel", '#!/bin/sh\necho "NV Power Mode: Not Supported"\necho 3\n')
    answer = tuner().tune("performance", 0, do=False)
    assert any("does not say which mode is set" in note for note in answer["notes"])
    assert not any("nvpmodel" in command for command in answer["commands"])


def test_a_sudo_that_wants_a_password_is_told(board, tuner, monkeypatch):
    program(board, "sudo", SUDO)
    monkeypatch.setattr(os, "access", lambda *_: False)
    answer = tuner().tune("performance", None, do=True)
    assert answer["needs_password"] and answer["ran"] == 0
    assert answer["commands"][0].startswith("echo performance | sudo tee ")
    assert governors(board) == ["ondemand", "schedutil"]
