"""The queue of a fleet: nothing is lost, nothing is done twice, and the one at fault is found."""

from __future__ import annotations

import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from qaedge.artifact import Artifact
from qaedge.hil.batches import LOSSES, Batches


def files(count: int) -> list[Artifact]:
    return [Artifact(f"f{i}", str(Path(f"f{i}.onnx")), "onnx", f"{i:064x}", 10) for i in range(count)]


@given(st.integers(0, 40), st.integers(1, 16), st.integers(1, 3), st.lists(st.integers(0, 3), max_size=12))
def test_every_file_is_finished_once_whatever_is_lost(count, largest, takers, losses):
    batches = Batches(files(count), largest, takers)
    done: list[str] = []
    left_out: list[str] = []
    lost = iter(losses)
    while (batch := batches.take()) is not None:
        assert 1 <= len(batch) <= largest
        finished = batch[: next(lost, len(batch))]
        for sha256 in finished:
            batches.finish(sha256)
        done += finished
        left_out += batches.give_back(batch)
    assert sorted(done + left_out) == sorted(a.sha256 for a in files(count))
    assert batches.left == 0


def test_the_one_that_takes_the_board_down_is_found_and_the_others_are_measured():
    guilty = files(16)[11].sha256
    batches = Batches(files(16), 16, 1)
    done, left_out, connections = set(), [], 0
    while (batch := batches.take()) is not None:
        for sha256 in batch:
            if sha256 == guilty:
                connections += 1
                break
            batches.finish(sha256)
            done.add(sha256)
        left_out += batches.give_back(batch)
    assert left_out == [guilty] and len(done) == 15
    assert connections == LOSSES


def test_who_waits_takes_what_another_gives_back():
    batches = Batches(files(1), 16, 2)
    (batch,) = [batches.take()]
    taken = []
    waiter = threading.Thread(target=lambda: taken.append(batches.take()))
    waiter.start()
    assert batch is not None
    batches.give_back(batch)
    waiter.join(5.0)
    assert taken == [batch]


def test_nobody_waits_after_a_stop():
    batches = Batches(files(1), 16, 2)
    batches.take()
    taken = [["something"]]
    waiter = threading.Thread(target=lambda: taken.append(batches.take()))
    waiter.start()
    batches.stop()
    waiter.join(5.0)
    assert taken[-1] is None


def test_equal_files_are_one_piece_of_work():
    same = Artifact("again", "again.onnx", "onnx", files(1)[0].sha256, 10)
    batches = Batches([*files(2), same], 16, 1)
    assert batches.left == 3
    assert batches.take() == [a.sha256 for a in files(2)]
    batches.finish(same.sha256)
    assert batches.left == 1
