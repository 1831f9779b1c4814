"""`qaedge distill` in a process of its own: killed, interrupted, run twice at once, and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_scenes import ROWS, space_of, write_project

from qaedge.project import Workspace
from qaedge.tables import LossRow, LossTable

LIMIT_S = 120.0


def until(true: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Wait for something to be so; fail where the process ends before, or nothing comes."""
    end = time.monotonic() + LIMIT_S
    while not true():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}: {process.communicate()}")
        assert time.monotonic() < end
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """The worker processes below a process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            text = status.with_name("cmdline").read_text()
        except (OSError, IndexError):  # it has just ended
            continue
        if parent == pid and "spawn_main" in text:
            found.append(int(status.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def rows_of(workspace: Workspace) -> list[LossRow]:
    return list(LossTable.store(workspace.loss_file(space_of(workspace).origin)).rows())


@pytest.mark.slow
def test_nothing_finished_is_lost(tmp_path, spawn, qaedge):
    """Ctrl-C, then kill -9, then to the end: every row once, and no process is left behind."""
    workspace = write_project(tmp_path, steps=60)
    file = tmp_path / "qaedge.toml"
    loss = workspace.loss_file(space_of(workspace).origin)

    def start() -> subprocess.Popen[str]:
        return spawn("distill", "--project", file, start_new_session=True)

    def lines() -> int:
        return loss.read_bytes().count(b"\n") - 1 if loss.exists() else 0

    # Ctrl-C while the workers still start: they must not complain in the user's face.
    process = start()
    until(lambda: children(process.pid), process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "run the same command again to go on" in err

    # Ctrl-C in the middle; while it runs, nobody else may.
    process = start()
    until(lambda: lines() >= 1, process)
    ran = qaedge("distill", "--project", file, "--quiet")
    assert ran.status == 1 and f"Another process (process {process.pid}) is distilling" in ran.err
    workers = children(process.pid)
    assert workers
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130 and "Traceback" not in err and "leaked" not in err, err
    until(lambda: not any(map(alive, workers)))
    interrupted = rows_of(workspace)
    assert 1 <= len(interrupted) < ROWS

    # kill -9 of the parent alone: its workers notice and end.
    process = start()
    until(lambda: lines() > len(interrupted), process)
    workers = children(process.pid)
    process.kill()
    process.communicate(timeout=LIMIT_S)
    until(lambda: not any(map(alive, workers)))
    killed = rows_of(workspace)
    assert killed[: len(interrupted)] == interrupted

    ran = qaedge("distill", "--project", file, "--json")
    assert ran.status == 0, ran.err
    assert f"{len(killed)} of {ROWS} rows are there" in ran.err
    done = rows_of(workspace)
    assert done[: len(killed)] == killed
    assert len({(r.block, r.spec, r.scheme) for r in done}) == len(done) == ROWS
    found = {row["block"]: row for row in json.loads(ran.out)["blocks"]}
    assert {name: row["rows"] for name, row in found.items()} == {"stage1": 2, "stage3": 6, "head": 2}
    assert all(0 < row["least"] <= row["median"] <= row["greatest"] for row in found.values())

    before = loss.read_bytes()
    ran = qaedge("distill", "--project", file)
    assert ran.status == 0 and f"{ROWS} of {ROWS} rows are there; 0 to go." in ran.err
    assert "teacher's own, quantized" in ran.out and loss.read_bytes() == before


NETWORK = """\
from torch import nn

def make():
    fine = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
    odd = nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU())  # takes a border off, as no candidate does
    return nn.Sequential(fine, odd, nn.Conv2d(6, 8, 1))

class Two(nn.Module):
    def forward(self, x):
        return x, x

class Sum(nn.Module):
    def forward(self, xs):
        return xs[0] + xs[1]

def two():
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), Two(), Sum())
"""
SPACE = """\
name = "odd"
[[block]]
name = "fine"
expansions = [1]
[[block]]
name = "odd"
expansions = [1, 2]
"""


def write_own_teacher(folder: Path, function: str, blocks: str, space: str = SPACE) -> Path:
    write_project(folder, space=space)
    (folder / "my_odd_network.py").write_text(NETWORK)
    file = folder / "qaedge.toml"
    text = file.read_text()
    head, tail = text[: text.index("[teacher]")], text[text.index("[data]") :]
    file.write_text(f'{head}[teacher]\nfunction = "my_odd_network:{function}"\n[teacher.blocks]\n{blocks}\n{tail}')
    return file


def test_candidates_that_fail_are_named_and_the_others_kept(tmp_path, qaedge):
    file = write_own_teacher(tmp_path, "make", 'fine = "0"\nodd = "1"')
    ran = qaedge("distill", "--project", file, "--quiet")
    assert ran.status == 1 and ran.out == ""
    assert ran.err.count("warning:") == 3 and ran.err.count("error:") == 1  # the third: untrained weights
    assert "puts out (6, 32, 48), the teacher (6, 30, 46)" in ran.err
    assert "2 candidates could not be distilled: odd ir_k3_s1_e1_c6, odd ir_k3_s1_e2_c6" in ran.err
    rows = rows_of(Workspace.open(file))
    assert {(r.block, r.started_from) for r in rows} == {("fine", "own"), ("fine", "fresh"), ("odd", "own")}


def test_a_block_with_two_outputs_is_refused(tmp_path, qaedge):
    file = write_own_teacher(tmp_path, "two", 'one = "0"\nodd = "1"')
    ran = qaedge("distill", "--project", file)
    assert ran.status == 1 and "error: The block 'odd' puts out a tuple of 2 (Tensor, Tensor)." in ran.err


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        (
            "teacher.safetensors",
            lambda p: p.unlink(),
            "teacher.safetensors is not there yet: run `qaedge teacher train`",
        ),
        ("teacher.safetensors", lambda p: p.write_bytes(p.read_bytes()[:5000]), "cannot be read"),
        ("teacher.safetensors", lambda p: p.write_bytes(b""), "cannot be read"),
        ("qaedge.toml", lambda p: p.write_text(p.read_text() + "epoch = 3\n"), "finetune.epoch: expected a known key"),
        ("qaedge.toml", lambda p: p.write_text("speed = 3\n" + p.read_text()), "speed: expected a known key"),
        ("space.toml", lambda p: p.write_text(p.read_text() + "kernel = [3]\n"), "kernel: expected a known key"),
        ("space.toml", lambda p: p.write_text(p.read_text().replace("stage3", "stage9")), "stage9"),
        ("qaedge.toml", lambda p: p.write_text(p.read_text().replace("classes = 8", "classes = 9")), "do not fit"),
        ("qaedge.toml", lambda p: p.write_text(p.read_text().replace("count = 12", "count = 3")), "at least 4 images"),
        ("qaedge.toml", lambda p: p.write_text(p.read_text().replace("[3:4]", "[3:99]")), "features[3:99]"),
    ],
)
def test_what_is_wrong_is_said_before_long_work(name, damage, said, tmp_path, qaedge):
    write_project(tmp_path)
    damage(tmp_path / name)
    ran = qaedge("distill", "--project", tmp_path / "qaedge.toml", "--quiet")
    assert ran.status == 1 and ran.out == "", ran.err
    assert ran.err.count("error:") == 1 and said in ran.err, ran.err
    assert "Traceback" not in ran.err


def test_untrained_weights_are_told_before_anything_imitates_them(tmp_path, qaedge):
    write_project(tmp_path, steps=1)
    file = tmp_path / "qaedge.toml"
    file.write_text(file.read_text().replace('weights = "teacher.safetensors"\n', ""))
    assert "warning: teacher.weights is empty" in qaedge("distill", "--project", file).err
