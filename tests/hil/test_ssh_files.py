"""Files on their way to a board, and what a board's shell, disk and folders see of them, over a real sshd."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import subprocess
from pathlib import Path

import msgspec
import pytest

from qaedge.artifact import Artifact
from qaedge.errors import AgentFailed, DiskFull, ProtocolError
from qaedge.hil import frames
from qaedge.hil.agent import AgentSession
from qaedge.hil.bootstrap import BOOTSTRAP
from qaedge.hil.connect import target_for
from qaedge.hil.profile import Measured, measure


def results(steps):
    return {step.result.artifact.name: step.result for step in steps if step.result is not None}


@pytest.fixture
def board(sshd, device):
    """The device, behind sshd."""
    return sshd.device(device.name)


class Between:
    """A Remote whose bytes to the board pass through `change`, a frame at a time."""

    def __init__(self, remote, change) -> None:
        self._remote, self._change = remote, change

    def write(self, data: bytes) -> None:
        self._remote.write(self._change(data))

    def __getattr__(self, name: str):
        return getattr(self._remote, name)


class BetweenTarget:
    """A Target whose agent is reached through Between."""

    def __init__(self, target, change) -> None:
        self._target, self._change = target, change

    def run_python(self, code: str) -> Between:
        return Between(self._target.run_python(code), self._change)

    def __getattr__(self, name: str):
        return getattr(self._target, name)


class Flip:
    """Flips a bit at the end of those frames with file contents that `which` names, by their number."""

    def __init__(self, *which: int) -> None:
        self.which, self.contents, self.sizes = which, 0, []

    def __call__(self, data: bytes) -> bytes:
        if data[4] != frames.BYTES:
            return data
        self.contents += 1
        self.sizes.append(len(data))
        if self.contents - 1 not in self.which:
            return data
        return data[:-1] + bytes([data[-1] ^ 1])


def test_a_file_that_arrives_damaged_is_sent_again_alone(board, stub, word, quick, nothing_left):
    flip = Flip(1)
    files = [word(f"run {number} {'x' * 10 * number}") for number in (1, 2, 3)]
    with AgentSession(board, BetweenTarget(target_for(board), flip), folder=stub) as session:
        found = results(measure(session, files, quick, threads=1))
    assert all(isinstance(result, Measured) for result in found.values()) and len(found) == 3
    assert flip.contents == 4  # three files, and one of them once more
    assert flip.sizes[3] == flip.sizes[1]
    nothing_left()


def test_a_file_that_arrives_damaged_twice_is_an_error(board, stub, word, quick, nothing_left):
    with (
        AgentSession(board, BetweenTarget(target_for(board), Flip(0, 1)), folder=stub) as session,
        pytest.raises(ProtocolError, match=r"arrived damaged at .*, twice"),
    ):
        list(measure(session, [word("run")], quick, threads=1))
    nothing_left()


def test_a_damaged_frame_ends_the_session(board, stub, nothing_left):
    def spoil(data: bytes) -> bytes:
        return b"\xff" + data[1:] if b'"have"' in data else data

    with (
        AgentSession(board, BetweenTarget(target_for(board), spoil), folder=stub) as session,
        pytest.raises(AgentFailed, match="FrameError"),
    ):
        session.missing(["a" * 64])
    nothing_left()


# A full disk.


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"no small disk can be made here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("promised", [True, False])
def test_a_full_disk_names_path_and_bytes(start_sshd, small_disk, device, stub, promised):
    """Both ways: the free space says so before; or it says otherwise, and writing fails."""
    if not promised:
        text = (stub / "uploads.py").read_text()
        (stub / "uploads.py").write_text(text.replace("SPARE = 1 << 24", "SPARE = -(1 << 40)"))
    sshd = start_sshd(environment={"TMPDIR": str(small_disk)})
    board = sshd.device(device.name)
    data = os.urandom(6 << 20)
    name = hashlib.sha256(data).hexdigest()
    with AgentSession(board, target_for(board), folder=stub) as session:
        with pytest.raises(DiskFull) as info:
            session.put({name: data})
        assert str(small_disk) in info.value.message
        assert str(len(data) + (1 << 24) if promised else len(data)) in info.value.message
        assert list((Path(session.hello.folder) / "files").iterdir()) == []  # nothing partial
        assert session.missing([name]) == {name}  # and the session goes on
    assert list(small_disk.iterdir()) == []


def test_a_disk_without_room_for_the_agent(start_sshd, small_disk, device, stub):
    with (small_disk / "full").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate(file.tell() - 8192)
    sshd = start_sshd(environment={"TMPDIR": str(small_disk)})
    board = sshd.device(device.name)
    with pytest.raises(AgentFailed) as info:
        AgentSession(board, target_for(board), folder=stub)
    assert f"No space left on device in {small_disk}" in info.value.hint and "bytes needed" in info.value.hint
    assert [path.name for path in small_disk.iterdir()] == ["full"]


# The board's shell.


def test_names_of_files_and_devices_are_never_commands(sshd, device, stub, quick, tmp_path, private, nothing_left):
    marks = [tmp_path / f"mark{number}" for number in range(4)]
    names = [f"m$(touch {marks[0]})", f"m`touch {marks[1]}`", f"m;touch {marks[2]};", f"m'\"|touch {marks[3]} #"]
    folder = tmp_path / "models"
    artifacts = []
    for number, name in enumerate(names):
        path = folder / f"{name.replace('/', '_')}.onnx"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"run {number}")
        artifacts.append(msgspec.structs.replace(Artifact.of(path), name=name))
    board = sshd.device(f"pi$(touch {marks[0]});touch {marks[1]}")
    with AgentSession(board, target_for(board), folder=stub) as session:
        found = results(measure(session, artifacts, quick, threads=1))
        there = [path.name for path in (Path(session.hello.folder)).rglob("*") if path.is_file()]
        assert not [name for name in there if "touch" in name]
        locks = [path for path in private.iterdir() if path.name.endswith(".lock")]
        assert len(locks) == 1 and "$" not in locks[0].name
    assert all(isinstance(result, Measured) for result in found.values()) and len(found) == 4
    assert not [mark for mark in marks if mark.exists()]
    nothing_left()


def test_the_command_line_on_the_board_is_constant(start_sshd, device, stub, word, quick, tmp_path):
    said = tmp_path / "commands"
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nprintf "%s\\0" "$SSH_ORIGINAL_COMMAND" >> {said}\neval "$SSH_ORIGINAL_COMMAND"\n')
    wrapper.chmod(0o755)
    sshd = start_sshd(f"ForceCommand {wrapper}")
    lines = []
    for name, what in (("one", "run 1"), ("two", "run 2 $(id)")):
        board = sshd.device(f"{device.name}-{name}")
        with AgentSession(board, target_for(board), folder=stub) as session:
            results(measure(session, [word(what)], quick, threads=1))
            lines.append(Path(f"/proc/{session.hello.pid}/cmdline").read_bytes())
    first, second = said.read_bytes().split(b"\0")[:-1]
    assert first == second and BOOTSTRAP.strip().splitlines()[0].encode() in first
    assert lines[0] == lines[1]
    assert device.name.encode() not in first and b".onnx" not in first
    assert said.read_bytes().count(b"\0") == 2


# The board's folders.


def test_the_folder_is_ours_alone(board, stub, word, quick, private):
    with AgentSession(board, target_for(board), folder=stub) as session:
        folder = Path(session.hello.folder)
        assert folder.parent == private
        session.put({hashlib.sha256(b"run").hexdigest(): b"run"})
        assert folder.stat().st_mode & 0o777 == 0o700 and folder.stat().st_uid == os.getuid()
        files = [path for path in folder.rglob("*")]
        assert files and all(path.stat().st_mode & 0o077 == 0 for path in files)
    with AgentSession(board, target_for(board), folder=stub) as session:
        assert session.hello.folder != str(folder)  # nobody can know it beforehand


@pytest.mark.parametrize("how", ["anybody", "another", "link"])
def test_a_folder_where_others_may_write_is_refused(start_sshd, device, stub, tmp_path, how):
    folder = where = tmp_path / "shared"
    folder.mkdir()
    if how == "anybody":
        folder.chmod(0o777)  # without the sticky bit that /tmp has
    elif os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    else:
        os.chown(folder, 12345, 12345)
    if how == "link":
        where = tmp_path / "link"
        where.symlink_to(folder)
    board = start_sshd(environment={"TMPDIR": str(where)}).device(device.name)
    with pytest.raises(AgentFailed) as info:
        AgentSession(board, target_for(board), folder=stub)
    assert "belongs to somebody else" in info.value.hint and "TMPDIR" in info.value.hint
    assert list(folder.iterdir()) == []
    folder.chmod(0o1777)
    os.chown(folder, os.getuid(), os.getgid())
    with AgentSession(board, target_for(board), folder=stub) as session:  # as /tmp is
        assert Path(session.hello.folder).parent == where


@pytest.mark.parametrize(
    "name", ["../evil.py", "/tmp/evil.py", "a/b.py", "evil.sh", ".py", "agent.py\n", "agent.py\0", "a b.py", "Ä.py", ""]
)
def test_file_names_of_the_bundle_cannot_leave_the_folder(board, private, tmp_path, nothing_left, name):
    payload = json.dumps({"files": {name: "import os\nos.mkdir('/tmp/never')"}}).encode()
    assert refused(board, struct.pack(">IB", len(payload), ord("J")) + payload)
    nothing_left()
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("header", [(1 << 20 | 1, b"J"), (2, b"B"), (0xFFFFFFFF, b"J")])
def test_a_bundle_of_another_kind_or_size_is_refused(board, nothing_left, header):
    assert refused(board, struct.pack(">I", header[0]) + header[1] + b"{}")
    nothing_left()


def refused(board, data: bytes) -> bool:
    """Whether the line that takes the agent in ends by itself when it gets this, without a word."""
    target = target_for(board)
    try:
        process = target.run_python(BOOTSTRAP)
        process.write(data)
        return process.wait(20.0) == 1 and process.read(5.0) == b""
    finally:
        target.close()


@pytest.mark.parametrize("name", ["../../x", "a" * 63, "A" * 64, "a" * 64 + "\n", "/etc/passwd"])
def test_names_of_files_on_the_board_are_hashes(board, stub, nothing_left, name):
    with (
        AgentSession(board, target_for(board), folder=stub) as session,
        pytest.raises(AgentFailed, match="is no SHA-256"),
    ):
        session.missing([name])
    nothing_left()
