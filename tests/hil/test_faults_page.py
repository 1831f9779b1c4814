"""docs/faults.md names tests that exist, and every row of it names one or says why it does not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "faults.md").read_text()
ROWS = [row for row in re.findall(r"^\| (.*) \|$", PAGE, re.MULTILINE) if not row.startswith(("Fault |", "Risk |"))]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split(" | ")[0])
def test_a_row_names_tests_that_exist(row):
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
    assert named or "not tested" in row
    for file, name in named:
        tree = ast.parse((TESTS / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


def test_every_test_over_ssh_is_named():
    """A promise that is tested, and not written down, is one that nobody knows of."""
    absent = {
        f"{file.relative_to(TESTS)}::{node.name}"
        for file in sorted((TESTS / "hil").glob("test_ssh_*.py"))
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and f"::{node.name}`" not in PAGE
    }
    assert absent == set()
