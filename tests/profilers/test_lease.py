import json
import os
from pathlib import Path

import lease
import pytest


@pytest.fixture
def one(tmp_path):
    return lease.Lease(str(tmp_path))


def test_a_lease_is_its_owners_until_he_gives_it_back(one):
    assert one.holder() == {}
    assert one.take("ann@desk", 60)["owner"] == "ann@desk"
    held = one.holder()
    assert held["owner"] == "ann@desk" and 59 < held["left_s"] <= 60
    assert one.take("bob@desk", 60)["owner"] == "ann@desk"
    assert one.take("ann@desk", 600)["left_s"] > 590
    assert one.give_back("bob@desk", force=False)["owner"] == "ann@desk"
    assert one.holder()["owner"] == "ann@desk"
    assert one.give_back("ann@desk", force=False) == {} and one.holder() == {}
    assert not Path(one.path).exists()


def test_it_can_be_forced(one):
    one.take("ann@desk", 60)
    assert one.give_back("bob@desk", force=True) == {} and one.holder() == {}
    assert one.give_back("bob@desk", force=False) == {}  # nothing left to end


def test_it_ends_with_its_time(one, monkeypatch):
    one.take("ann@desk", 60)
    now = lease._now()
    monkeypatch.setattr(lease, "_now", lambda: now + 61)
    assert one.holder() == {}
    assert one.take("bob@desk", 60)["owner"] == "bob@desk"


def test_it_ends_with_the_boards_next_start(tmp_path):
    for boot in ("one", "two"):
        folder = tmp_path / boot / "proc/sys/kernel/random"
        folder.mkdir(parents=True)
        (folder / "boot_id").write_text(boot)
    lease.Lease(str(tmp_path), str(tmp_path / "one")).take("ann@desk", 60)
    assert lease.Lease(str(tmp_path), str(tmp_path / "one")).holder()
    assert not lease.Lease(str(tmp_path), str(tmp_path / "two")).holder()


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "null", '{"owner": "ann"}', '{"owner": "ann", "until": "soon", "boot_id": ""}', '{"until": 1e999}'],
)
def test_a_file_that_says_nothing_holds_nobody_up(one, text):
    one.take("ann@desk", 60)
    Path(one.path).write_text(text)
    assert one.holder() == {}
    assert one.take("bob@desk", 60)["owner"] == "bob@desk"


def test_nobody_writes_himself_a_lease_for_ever(one):
    one.take("ann@desk", 60)
    told = json.loads(Path(one.path).read_text())
    Path(one.path).write_text(json.dumps(dict(told, until=1e18)))
    assert one.holder() == {}


def test_no_link_is_followed(one, tmp_path):
    (tmp_path / "precious").write_text("kept")
    Path(one.path).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError):
        one.take("ann@desk", 60)
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_file_that_may_not_be_opened_is_taken_for_somebodys_lease(one, monkeypatch):
    one.take("ann@desk", 60)

    def closed(*_):
        raise PermissionError(13, "Permission denied", one.path)

    monkeypatch.setattr(lease.os, "open", closed)
    for answer in (one.take("bob@desk", 60), one.give_back("bob@desk", force=True)):
        assert f"whose file {one.path} we may not open" in answer["owner"]
    assert one.holder() == {}


def test_a_lock_on_a_file_of_another_disk_is_not_ours(tmp_path):
    """Inodes are numbered anew on each."""
    import lock

    mine = lock.BoardLock(str(tmp_path))
    path = Path(mine.path)
    path.write_text('{"holder": "ann@desk"}')
    status = path.stat()
    (tmp_path / "proc").mkdir()
    locks = tmp_path / "proc/locks"
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    line = "1: FLOCK  ADVISORY  WRITE 4711 {}:{} 0 EOF\n"
    locks.write_text(line.format("ff:fe", status.st_ino) + line.format(device, status.st_ino + 1))
    assert mine.peek(str(tmp_path)) == {}
    locks.write_text(line.format("ff:fe", status.st_ino) + line.format(device, status.st_ino))
    assert mine.peek(str(tmp_path)) == {"holder": "ann@desk"}


def test_who_holds_the_lock_is_seen_without_touching_it(tmp_path):
    import lock

    first, second = (lock.BoardLock(str(tmp_path)) for _ in range(2))
    assert second.peek() == {}
    first.take({"user": "pi", "holder": "ann@desk"})
    assert second.peek()["holder"] == "ann@desk"
    first.release()
    assert second.peek() == {}
