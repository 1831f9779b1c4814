"""Ctrl-C and kill -9 in each stage, in a process of its own: what is finished stays, and the next run goes on.

`distill` and kill -9 in `profile` and `build` are held where those commands are tested.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from test_cli_distill import LIMIT_S, until
from tiny_scenes import write_project

from qaedge.project import Workspace
from qaedge.space import SearchSpace
from qaedge.tables import LatencyTable

#: Enough for a signal to come in time; with these images an epoch takes a tenth of a second.
EPOCHS = 30
#: Holds `export` where both files are written and neither has its name yet.
HELD = """\
import pathlib, time
import qaedge.nn.release as release
def hold(*arguments, **named):
    pathlib.Path("held").touch()
    time.sleep(600)
release.worst_block = hold
import qaedge.cli
qaedge.cli.main()
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Workspace:
    """A tiny project with a trained teacher; the current folder is its own."""
    monkeypatch.chdir(tmp_path)
    return write_project(tmp_path)


def stop(process: subprocess.Popen[str], sent: signal.Signals) -> None:
    """Send a signal as a terminal does, to all that the command has started; look at how it ends."""
    if sent == signal.SIGKILL:
        process.kill()
        process.communicate(timeout=LIMIT_S)
        return
    os.killpg(process.pid, sent)
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130 and out == "", err
    assert err.splitlines()[-1] == "interrupted; run the same command again to go on"
    assert "Traceback" not in err and "error:" not in err and "warning:" not in err, err


@pytest.fixture
def epochs(monkeypatch) -> list[int]:
    """The epochs that are finished in this process."""
    from qaedge.nn import finetune

    finished: list[int] = []
    save = finetune._save
    monkeypatch.setattr(finetune, "_save", lambda *given: (finished.append(given[-1]), save(*given)))
    return finished


def done(folder: Path) -> int:
    """How many epochs the one checkpoint below a folder holds."""
    import torch

    (path,) = folder.rglob("finetune-*.pt")
    return int(torch.load(path, weights_only=True)["epochs"])


def unfinished(folder: Path) -> list[str]:
    """Files under names that no command looks at."""
    return [path.name for path in folder.rglob(".*")]


def test_profile(project, spawn, qaedge):
    file = project.latency_file("local")
    process = spawn("profile", start_new_session=True)
    until(lambda: file.exists() and file.read_bytes().count(b"\n") > 1, process)
    stop(process, signal.SIGINT)
    kept = list(LatencyTable.store(file).rows())
    assert kept and unfinished(project.root) == []
    ran = qaedge("profile", "--json")
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)["kept"] == len(kept)
    assert list(LatencyTable.store(file).rows())[: len(kept)] == kept


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_teacher_train(sent, project, spawn, qaedge, epochs):
    weights = project.root / "teacher.safetensors"
    before = weights.read_bytes()
    arguments = ("teacher", "train", "--epochs", EPOCHS)
    process = spawn(*arguments, start_new_session=True)
    until(lambda: list(project.root.glob("finetune-*.pt")), process)
    stop(process, sent)
    assert weights.read_bytes() == before, "the weights are the old ones until all is done"
    kept = done(project.root)
    ran = qaedge(*arguments)
    assert ran.status == 0, ran.err
    assert epochs == list(range(kept + 1, EPOCHS + 1)), "it went on"
    assert weights.read_bytes() != before and unfinished(project.root) == []
    assert not list(project.root.glob("finetune-*.pt"))


def test_build(project, spawn, qaedge, epochs):
    students = project.results
    arguments = ("build", "--teacher", "--epochs", EPOCHS)
    process = spawn(*arguments, start_new_session=True)
    until(lambda: list(students.rglob("finetune-*.pt")), process)
    stop(process, signal.SIGINT)
    assert unfinished(project.root) == []
    kept = done(students)
    ran = qaedge("export", "teacher")
    assert ran.status == 1 and "Make it with: qaedge build" in ran.err
    ran = qaedge(*arguments)
    assert ran.status == 0, ran.err
    assert epochs == list(range(kept + 1, EPOCHS + 1)), "it went on"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_export(sent, project, spawn, qaedge):
    assert qaedge("build", "--teacher", "--epochs", 0).status == 0
    assert qaedge("export", "teacher").status == 0
    kept = {name: Path(name).read_bytes() for name in ("teacher.onnx", "teacher.onnx.json")}
    process = spawn("export", "teacher", code=HELD, start_new_session=True)
    until(Path("held").exists, process)
    assert len(unfinished(project.root)) == 1
    stop(process, sent)
    assert {name: Path(name).read_bytes() for name in kept} == kept
    if sent == signal.SIGINT:
        assert unfinished(project.root) == []
    assert qaedge("export", "teacher").status == 0
    assert {name: Path(name).read_bytes() for name in kept} == kept and unfinished(project.root) == []
    assert SearchSpace.load(project.space_json).networks
