"""The package as others install it: what the wheel carries, and what works without the extras."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tiny_files import write_convolutions

from qaedge import __version__

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
#: What pip says where it cannot reach an index, or the index has nothing for this Python.
UNREACHABLE = (
    "No matching distribution",
    "Could not find a version",
    "ConnectionError",
    "Connection refused",
    "timed out",
)


def called(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    ran = called(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of programs of an environment that has the wheel without any extra."""
    folder = tmp_path_factory.mktemp("plain")
    assert called(sys.executable, "-m", "venv", folder, cwd=folder).returncode == 0
    ran = called(folder / "bin" / "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel, cwd=folder)
    if ran.returncode and any(text in ran.stderr for text in UNREACHABLE):
        pytest.skip(f"no package index within reach: {ran.stderr.strip().splitlines()[-1]}")
    assert ran.returncode == 0, ran.stderr
    return folder / "bin"


def test_the_wheel_carries_devices_and_the_agent(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, pattern in (("devices", "*.toml"), ("profilers", "*.py")):
        wanted = {f"qaedge/{folder}/{file.name}" for file in (ROOT / folder).glob(pattern)}
        assert wanted and wanted <= names
    assert {f"qaedge/page/static/{file.name}" for file in (ROOT / "qaedge/page/static").iterdir()} <= names
    assert "qaedge/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests", "docs", "benchmarks")) for name in names)


def test_without_extras_everything_but_training_works(installed, tables, scenes):
    def qaedge(*arguments: str) -> subprocess.CompletedProcess[str]:
        return called(installed / "qaedge", *arguments, cwd=scenes)

    assert called(installed / "python", "-c", "import torch", cwd=scenes).returncode != 0
    assert qaedge("--version").stdout == f"qaedge {__version__}\n"
    assert "search" in qaedge("--help").stdout

    devices = json.loads(qaedge("devices", "--json").stdout)
    assert any(d["name"] == "local" and str(installed.parent) in d["file"] for d in devices)

    ran = qaedge("search", "--output", "arch.json")
    assert ran.returncode == 0, ran.stderr
    assert (scenes / "arch.json").exists()
    ran = qaedge("search", "--plot", "front.png")
    assert ran.returncode == 1 and "qaedge[nn]" in ran.stderr

    ran = qaedge("report")
    assert ran.returncode == 1 and 'pip install "qaedge[page]"' in ran.stderr

    write_convolutions(scenes / "light.onnx", 1)
    write_convolutions(scenes / "heavy.onnx", 12)
    ran = qaedge("bench", "light.onnx", "--json", "--wait", "5min")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)[0]["median_s"] > 0
    ran = qaedge("compare", "light.onnx", "heavy.onnx", "--wait", "5min")
    assert ran.returncode == 3, ran.stdout + ran.stderr

    for command in (("profile",), ("teacher", "check")):
        ran = qaedge(*command)
        assert ran.returncode == 1 and 'pip install "qaedge[nn]"' in ran.stderr, ran.stderr
