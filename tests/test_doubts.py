"""Every doubt that can be set is known, and explained, and no other is."""

import ast
import re
from pathlib import Path

from qaedge.measurement import DOUBTS

ROOT = Path(__file__).parents[1]
#: Where doubts are made, and by which functions.
_FILES = ["profilers/conditions.py", "profilers/chunks.py", "profilers/entry.py", "qaedge/hil/readings.py"]
_FILES += ["qaedge/hil/agreement.py"]
_MAKERS = {"doubts", "taints", "held_back", "_doubts", "result", "rescaled", "_report", "_take_rounds"}


def explained():
    text = (ROOT / "docs/measuring.md").read_text()
    section = text.split("## What each doubt means")[1].split("\n## ")[0]
    return re.findall(r"^### (.+)$", section, re.MULTILINE)


def set_in(path):
    """Yield the texts that a file puts among doubts: in lists and sets, or by append and add."""
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef) or function.name not in _MAKERS:
            continue
        for node in ast.walk(function):
            items = []
            starred = isinstance(node, ast.Tuple) and any(isinstance(item, ast.Starred) for item in node.elts)
            if starred or isinstance(node, ast.List | ast.Set):
                items = node.elts
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("append", "add"):
                items = node.args
            yield from (i.value for i in items if isinstance(i, ast.Constant) and isinstance(i.value, str))


def test_each_doubt_has_one_heading():
    assert sorted(explained()) == sorted(DOUBTS)


def test_what_the_code_sets_is_what_is_known():
    found = {text for name in _FILES for text in set_in(ROOT / name)}
    assert found == DOUBTS
