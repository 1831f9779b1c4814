"""Interrupted runs: `qaedge profile` on a board behind a real sshd loses nothing finished, and repeats nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sshd import Sshd, wait_for
from tiny_scenes import write_project

import qaedge
from qaedge.project import Workspace
from qaedge.space import SearchSpace
from qaedge.tables import LatencyTable, table_keys

SPACE = """
name = "many"

[[block]]
name = "stage1"
kind = "stem"
schemes = ["w7a8"]

[[block]]
name = "stage3"
expansions = [{expansions}]
kernels = [{kernels}]
schemes = ["w7a8", "w4a8"]

[[block]]
name = "head"
kind = "context"
kernels = [1]
widths = [{widths}]
schemes = ["w7a8"]
"""
FEW = SPACE.format(expansions="2", kernels="3", widths="8")
MANY = SPACE.format(expansions="1, 2, 3, 4, 5, 6", kernels="3, 5, 7", widths=", ".join(map(str, range(5, 18))))
TOML = """
name = "board"
description = "a test"
connection = "ssh"
pin = false
python = "{python}"

[ssh]
host = "{sshd.host}"
port = {sshd.port}
user = "{sshd.user}"
host_key = "{sshd.fingerprint}"
identity_file = "{sshd.key}"
"""


class Run:
    """A project whose device is a board behind sshd, and its table."""

    def __init__(self, folder: Path, sshd: Sshd, space: str) -> None:
        (folder / "devices").mkdir(parents=True)
        (folder / "devices" / "board.toml").write_text(TOML.format(sshd=sshd, python=sys.executable))
        self.folder = folder
        self.workspace: Workspace = write_project(folder, space=space)
        self.table = self.workspace.latency_file("board")
        self.processes: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        """Start `qaedge profile` in a process of its own."""
        package = Path(qaedge.__file__).parents[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "qaedge", "profile", "--device", "board", "--wait", "1min"],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def finish(self) -> str:
        """Run to the end; return what it said."""
        process = self.start()
        out, err = process.communicate()
        assert process.returncode == 0, err
        return " ".join((out + err).split())

    def lines(self) -> list[bytes]:
        """The finished lines of the table, without the header."""
        data = self.table.read_bytes() if self.table.exists() else b""
        return data.split(b"\n")[1:-1]

    @property
    def wanted(self) -> int:
        """How many rows a whole table has."""
        return len(table_keys(SearchSpace.load(self.workspace.space_json)))

    def keys(self) -> list[str]:
        """The key of every row, as often as it was stored."""
        return [row.key for row in LatencyTable.store(self.table).rows()]

    def wait_for_rows(self, count: int, process: subprocess.Popen[str]) -> None:
        """Return within a millisecond of the row: they are stored in bursts."""
        until = time.monotonic() + 300.0
        while len(self.lines()) < count:
            if time.monotonic() > until:
                process.kill()
                pytest.fail(f"{count} rows are not in the table: {process.communicate()[1]}")
            time.sleep(0.001)

    def end(self) -> None:
        """End what still runs."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


@pytest.fixture
def start_run(sshd, tmp_path):
    """Make a project: start_run(its space)."""
    runs = []

    def start(space: str) -> Run:
        runs.append(Run(tmp_path / "project", sshd, space))
        return runs[-1]

    yield start
    for run in runs:
        run.end()


@pytest.mark.slow
def test_a_run_whose_connection_is_dropped_goes_on(sshd, start_run, private, nothing_left):
    run = start_run(FEW)
    process = run.start()
    wait_for(lambda: any(private.glob("qaedge-*/files/*")) or process.poll() is not None, 60.0, "it uploads")
    sshd.drop()
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert sshd.said().count("Starting session") == 2  # it has connected again by itself
    assert "is lost" in err and "lost 1 time" in out
    keys = run.keys()
    assert len(keys) == len(set(keys)) > 3
    assert f"{len(keys)} of {len(keys)} rows are kept, 0 to measure" in run.finish()
    assert run.keys() == keys
    nothing_left()


#: When each of fifteen runs is killed: before it has connected, while it uploads or measures, with its next rows.
KILLS = ("start", "upload", "rows", "rows", "rows") * 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_host_is_killed_fifteen_times(sshd, start_run, private, nothing_left):
    run = start_run(MANY)
    dice = random.Random(0)
    for when in KILLS:
        before = run.keys()
        process = run.start()
        if when == "start":
            time.sleep(dice.uniform(0.2, 2.0))  # anywhere in its imports, its export, its connecting
        elif when == "upload":
            wait_for(lambda: any(private.glob("qaedge-*/files/*")), 60.0, "it uploads")
            time.sleep(dice.uniform(0.0, 0.5))
        else:
            run.wait_for_rows(len(before) + dice.choice((1, 1, 2, 3)), process)
        assert process.poll() is None, process.communicate()[1]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        nothing_left()  # within 5 s: no agent, no folder
        assert run.keys()[: len(before)] == before  # nothing finished was lost
    kept = len(run.keys())
    assert kept >= 9
    run.finish()
    keys = run.keys()
    assert len(keys) == len(set(keys))  # nothing was measured again after its row was stored
    assert len(keys) == run.wanted > kept
    assert f"{run.wanted} of {run.wanted} rows are kept, 0 to measure" in run.finish()
    nothing_left()
