"""Files that arrive on the board, and the lock on it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import uploads
from lock import BoardLock, Busy

DATA = b"content" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def board(tmp_path):
    return uploads.Uploads(str(tmp_path / "files"))


def test_a_file_is_kept_when_its_hash_is_right(board, tmp_path):
    assert board.missing([SHA256]) == [SHA256]
    board.begin(SHA256, len(DATA))
    board.add(DATA[:500])
    assert board.arriving
    assert [p.name for p in (tmp_path / "files").iterdir()] == [f"{SHA256}.part"]
    board.add(DATA[500:])
    assert not board.arriving
    assert board.finish() == SHA256
    assert Path(board.path(SHA256)).read_bytes() == DATA
    assert board.missing([SHA256]) == []
    board.drop([SHA256, SHA256])
    assert list((tmp_path / "files").iterdir()) == []


def test_a_cut_upload_is_begun_anew(board):
    board.begin(SHA256, len(DATA))
    board.add(b"wrong start")
    board.begin(SHA256, len(DATA))
    board.add(DATA)
    assert board.finish() == SHA256


@pytest.mark.parametrize("sent", [b"x" + DATA[1:], DATA + b"more"])
def test_nothing_is_kept_of_a_wrong_file(board, tmp_path, sent):
    board.begin(SHA256, len(DATA))
    board.add(sent)
    with pytest.raises(uploads.Refused) as info:
        board.finish()
    assert info.value.reason == "hash"
    assert list((tmp_path / "files").iterdir()) == []


def test_a_full_disk_is_said_before_anything_is_written(board, tmp_path):
    board.begin(SHA256, 2**60)
    board.add(DATA)
    with pytest.raises(uploads.Refused) as info:
        board.finish()
    assert info.value.reason == "disk"
    assert str(tmp_path) in info.value.text
    assert list((tmp_path / "files").iterdir()) == []


@pytest.mark.parametrize("name", ["../escape", "", "A" * 64, SHA256 + "\n"])
def test_only_hashes_are_names(board, name):
    with pytest.raises(uploads.Refused):
        board.path(name)


def test_the_lock_is_one_processes_and_says_whose(tmp_path):
    lock = BoardLock(str(tmp_path))
    lock.take({"user": "me", "holder": "me@host"})
    second = BoardLock(str(tmp_path))
    with pytest.raises(Busy) as info:
        second.take({})
    assert info.value.holder["user"] == "me"
    assert info.value.holder["pid"] == os.getpid()
    lock.release()
    second.take({"user": "you"})
    assert json.loads(Path(second.path).read_text())["user"] == "you"
    second.release()
    assert not Path(second.path).exists()


def test_the_lock_is_free_when_its_holder_is_killed(tmp_path):
    code = f"import lock; l = lock.BoardLock({str(tmp_path)!r}); l.take({{}}); print('taken', flush=True); input()"
    folder = str(Path(uploads.__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    ) as process:
        assert process.stdout.readline() == b"taken\n"
        mine = BoardLock(str(tmp_path))
        with pytest.raises(Busy):
            mine.take({})
        process.kill()
        process.wait()
        mine.take({})
        mine.release()


def test_the_lock_follows_no_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    lock = BoardLock(str(tmp_path))
    Path(lock.path).symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        lock.take({})
    assert victim.read_text() == "precious"


def test_everybody_on_a_machine_meets_at_one_lock(tmp_path, monkeypatch):
    monkeypatch.delenv("QAEDGE_LOCKS", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    mine = Path(BoardLock().path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "another"))
    assert mine == Path(BoardLock().path) and mine.parent in (Path("/run/lock"), Path("/tmp"))
    monkeypatch.setenv("QAEDGE_LOCKS", str(tmp_path))
    assert BoardLock().path == str(tmp_path / "qaedge.lock")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_lock_that_nobody_may_look_into_is_taken(tmp_path):
    (tmp_path / "qaedge.lock").touch(0o000)
    with pytest.raises(Busy):
        BoardLock(str(tmp_path)).take({})
