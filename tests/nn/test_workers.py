"""Work that this process and its helpers share: in order, whatever fails, and with nobody left behind."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from qaedge.errors import InvalidFile, QaedgeError
from qaedge.nn.workers import Shared

LIMIT_S = 120.0


def do(folder: Path, last: str, number: int) -> tuple[int, int]:
    """What a helper does with the last item; this process waits for it with the first."""
    mine = multiprocessing.parent_process() is None
    if mine and number == 0:
        until = time.monotonic() + LIMIT_S
        while not (folder / "begun").exists() and time.monotonic() < until:
            time.sleep(0.01)
    if not mine:
        (folder / "begun").touch()
        if last == "error":
            raise InvalidFile(folder, "key", "one", "another")
        if last == "bug":
            raise KeyError("nobody expected it")
        if last == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    return number, os.getpid()


@pytest.mark.parametrize(
    ("last", "kind", "says"),
    [
        ("", None, ""),
        ("error", InvalidFile, "key: expected one, found another"),
        ("bug", RuntimeError, "nobody expected it"),
        ("killed", QaedgeError, "ended with status -9"),
    ],
)
def test_results_come_in_order_and_so_does_what_a_helper_raises(last, kind, says, tmp_path):
    found = []
    if kind is None:
        with Shared(functools.partial(do, tmp_path, last), range(50), 1) as shared:
            found = list(shared.results())
        assert len({pid for _, pid in found}) == 2, "both have worked"
    else:
        with (
            pytest.raises(kind, match=says),
            Shared(functools.partial(do, tmp_path, last), range(2), 1) as shared,
        ):
            for result in shared.results():
                found.append(result)
    assert [number for number, _ in found] == list(range(50 if kind is None else 1))


def test_without_helpers_this_process_does_it_all(tmp_path):
    (tmp_path / "begun").touch()
    with Shared(functools.partial(do, tmp_path, ""), range(5), 0) as shared:
        assert list(shared.results()) == [(number, os.getpid()) for number in range(5)]


def test_who_stops_half_way_leaves_no_helper_behind(tmp_path):
    (tmp_path / "begun").touch()
    shared = Shared(functools.partial(do, tmp_path, ""), range(1000), 1)
    with pytest.raises(KeyboardInterrupt), shared:
        for _ in shared.results():
            assert len(multiprocessing.active_children()) == 1
            raise KeyboardInterrupt
    assert multiprocessing.active_children() == []
