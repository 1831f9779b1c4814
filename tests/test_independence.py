"""What runs on a board needs nothing of ours, and we need nothing of it: they share a protocol."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROFILERS = sorted((ROOT / "profilers").glob("*.py"))


def imported(file: Path) -> set[str]:
    """Return the first part of every module that a file imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("file", PROFILERS, ids=lambda file: file.name)
def test_the_agent_imports_the_standard_library_and_one_runtime(file):
    foreign = imported(file) - {*sys.stdlib_module_names, *(f.stem for f in PROFILERS)}
    # A runtime's own file needs numpy and one runtime, any other file nothing.
    assert len(foreign - {"numpy"}) == 1 if file.stem.startswith("runtime_") else not foreign


@pytest.mark.parametrize("file", PROFILERS, ids=lambda file: file.name)
def test_the_agent_is_written_for_python_3_8(file):
    ast.parse(file.read_text(), feature_version=(3, 8))


def test_the_package_imports_nothing_of_the_agent():
    names = {file.stem for file in PROFILERS} | {"profilers"}
    assert names > {"agent", "profilers"}
    for file in (ROOT / "qaedge").rglob("*.py"):
        assert not imported(file) & names, file
