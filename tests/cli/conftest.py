"""A command line run in this process, or in one of its own, and a small project to run it on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tiny_tables import write_tables

from qaedge import cli
from qaedge.hil import campaign, contest, profile, settings
from qaedge.project import Workspace
from qaedge.space import SearchSpace

#: Commands that measure wait for each other: two test runs may share this machine.
MEASURES = ("bench", "compare", "profile")


def patient(arguments: tuple[object, ...]) -> list[str]:
    wait = ["--wait", "4min"] if arguments and arguments[0] in MEASURES and "--help" not in arguments else []
    return [*map(str, arguments), *wait]


@pytest.fixture(autouse=True)
def own_lock(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let agents keep their lock in a folder of the test's own: whoever measures on this machine is not waited for."""
    folder = str(tmp_path_factory.mktemp("agent"))
    monkeypatch.setenv("TMPDIR", folder)
    monkeypatch.setenv("QAEDGE_LOCKS", folder)


class Brisk(settings.Settings, frozen=True):
    """What commands measure with here: as they do anywhere, but less patient with a machine that is busy."""

    warmup_limit_s: float = 0.3
    rounds_max: int = 4
    retakes: int = 1
    drift_pause_s: float = 0.1


@pytest.fixture(scope="package", autouse=True)
def brisk() -> Iterator[None]:
    """Let commands in this process measure briskly: tests look at what becomes of figures, not at how true they are."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (settings, profile, campaign, contest):
            patch.setattr(module, "Settings", Brisk)
        yield


class Ran(msgspec.Struct, frozen=True):
    status: int
    out: str
    err: str


@pytest.fixture
def qaedge(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command line in this process."""

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        status = cli.run(patient(arguments))
        out, err = capsys.readouterr()
        return Ran(status, out, err)

    return run


@pytest.fixture
def spawn() -> Callable[..., subprocess.Popen[str]]:
    """Start a command line in a process of its own; Python's arguments instead with `code`."""

    def start(*arguments: object, code: str = "", **options: object) -> subprocess.Popen[str]:
        head = [sys.executable, "-c", code] if code else [sys.executable, "-m", "qaedge"]
        environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment, **options}
        return subprocess.Popen([*head, *patient(arguments)], text=True, **settings)  # type: ignore[call-overload]

    return start


@pytest.fixture
def scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qaedge: Callable[..., Ran]) -> Path:
    """A fresh project on generated scenes that asks for no trained weights; the current folder is its own."""
    monkeypatch.chdir(tmp_path)
    assert qaedge("init", "--quiet").status == 0
    file = tmp_path / "qaedge.toml"
    text = file.read_text()
    assert text.count('weights = "teacher.safetensors"') == 1
    file.write_text(text.replace('weights = "teacher.safetensors"', 'weights = ""'))
    return tmp_path


@pytest.fixture
def tables(scenes: Path) -> SearchSpace:
    """A project whose space and tables are there; whole networks cost what the sums say."""
    return write_tables(Workspace.open())
