"""What every file for the board must keep: Python 3.8, the standard library and one runtime, nothing of ours."""

import ast
import sys
from pathlib import Path

import pytest

from qaedge.runtime import RUNTIMES

PROFILERS = Path(__file__).parents[2] / "profilers"
QAEDGE = Path(__file__).parents[2] / "qaedge"
FILES = sorted(PROFILERS.glob("*.py"))


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def runtime_of(path):
    """What a runtime's own file may import beside the standard library: what the host knows that it needs."""
    if not path.stem.startswith("runtime_"):
        return set()
    nodes = ast.parse(path.read_text()).body
    found = [n.value.value for n in nodes if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "NAME"]
    assert len(found) == 1, f"{path.name} does not say NAME"
    return {module.partition(".")[0] for either in RUNTIMES[found[0]].imports for module in either.split("|")}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_is_python_3_8(path):
    ast.parse(path.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_needs_nothing_but_the_library_and_its_runtime(path):
    neighbors = {other.stem for other in FILES}
    allowed = set(sys.stdlib_module_names) | neighbors | runtime_of(path)
    assert set(imported(ast.parse(path.read_text()))) <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_hides_no_module_of_the_library(path):
    # `chunk` and others went away with Python 3.13; on older boards they are there.
    assert path.stem not in set(sys.stdlib_module_names) | {"chunk", "pipes", "imp", "cgi"}


def test_qaedge_imports_none_of_them():
    names = {path.stem for path in FILES}
    for path in QAEDGE.rglob("*.py"):
        assert not names & set(imported(ast.parse(path.read_text()))), path


def test_has_files():
    assert {"agent", "guard", "conditions", "runtime_onnx"} <= {path.stem for path in FILES}
