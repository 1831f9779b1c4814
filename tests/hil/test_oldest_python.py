"""The agent under the oldest Python that is promised (3.8), or the oldest from there that is on this machine."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qaedge.hil.agent import AgentSession
from qaedge.hil.bootstrap import profilers_folder
from qaedge.hil.profile import Measured, measure
from qaedge.hil.target import LocalTarget

LEAST = (3, 8)


def pythons() -> list[tuple[tuple[int, int], str]]:
    """Return every Python from 3.8 on that runs, the oldest first."""
    names = [shutil.which(f"python3.{minor}") for minor in range(LEAST[1], 20)]
    own = (Path.home() / ".pyenv/versions").glob("3.*/bin/python")
    found = []
    for path in [*map(str, own), *filter(None, names)]:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        version = re.match(r"Python (\d+)\.(\d+)", done.stdout)
        if done.returncode == 0 and version:  # pyenv's stand-ins are there for versions that are not
            found.append(((int(version[1]), int(version[2])), path))
    return sorted(one for one in found if one[0] >= LEAST)


PYTHONS = pythons()


@pytest.fixture
def python():
    """The oldest one, of those that can see our tests' packages or not: the agent needs none."""
    if not PYTHONS:
        pytest.skip("no python3.8 or later on PATH or in ~/.pyenv/versions")
    return PYTHONS[0][1]


def test_every_file_compiles(python, tmp_path):
    folder = tmp_path / "profilers"
    shutil.copytree(profilers_folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    paths = sorted(map(str, folder.glob("*.py")))
    assert len(paths) > 10
    done = subprocess.run([python, "-m", "py_compile", *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_agent_measures(python, device, private, stub, word, quick, nothing_left):
    target = LocalTarget(python, {"TMPDIR": str(private), "QAEDGE_LOCKS": str(private)})
    with AgentSession(device, target, folder=stub) as session:
        assert tuple(map(int, session.hello.python.split(".")[:2])) == PYTHONS[0][0]
        results = [s.result for s in measure(session, [word("run 1"), word("run 2")], quick, threads=1) if s.result]
        readings = session.conditions()["readings"]
    assert len(results) == 2 and all(isinstance(result, Measured) for result in results)
    assert readings["memory_available_bytes"] > 0
    nothing_left()
