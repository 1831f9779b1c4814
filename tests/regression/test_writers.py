"""JUnit, Markdown and annotations of one of each outcome, with texts that a stranger chose."""

from __future__ import annotations

from xml.etree import ElementTree

import msgspec
import numpy as np
from synthetic import make_result

from qaedge.regression.limit import Held
from qaedge.regression.outcome import Outcome, gathered
from qaedge.regression.result import judge
from qaedge.regression.writers.github import annotate
from qaedge.regression.writers.junit import junit
from qaedge.regression.writers.markdown import markdown

DRAW = np.random.default_rng(6)
STEADY = tuple(0.01 * np.exp(DRAW.normal(0, 0.004, 10)))
EVIL = "</x>|\n::error::`@all` <img src=x> \x1b[31m\x00"


def outcome(factor, model, **changed):
    result = make_result([value * factor for value in STEADY[::-1]], model)
    return Outcome(model, "local", "", result, judge(make_result(STEADY, model), result), **changed)


FOUND = gathered(
    EVIL,
    [
        outcome(1.0, "same"),
        outcome(1.2, "slower"),
        outcome(1.03, "unknown"),
        outcome(1.0, "limit", held=(Held("latency_p90 < 1ms", False, "10 ms"),)),
        Outcome(EVIL, "pi4", error=f"lost: {EVIL}"),
    ],
)


def test_junit_counts_and_tells():
    root = ElementTree.fromstring(junit(FOUND))
    assert {name: root.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5",
        "failures": "2",
        "errors": "1",
        "skipped": "1",
    }
    kinds = [next((child.tag for child in case if child.tag != "system-out"), "") for case in root.iter("testcase")]
    assert kinds == ["", "failure", "skipped", "failure", "error"]
    assert "+20" in next(root.iter("failure")).get("message")


def test_markdown_holds_no_foreign_markup():
    text = markdown(FOUND)
    assert "| slower | local, onnxruntime 1.31.0 | SLOWER |" in text
    assert "<img" not in text.replace("\\<", "") and "@all" not in text and "\n::error" not in text
    assert all(line.replace("\\|", "").count("|") in (0, 7) for line in text.splitlines())


def test_annotations_are_a_line_each():
    lines = annotate(FOUND)
    assert all(line.startswith(("::error title=", "::warning title=")) and "\n" not in line for line in lines)
    assert sum(line.startswith("::error") for line in lines) == 3
    assert FOUND.exit_status == 3


def test_exit_statuses():
    def status(*outcomes):
        return gathered("x", outcomes).exit_status

    same, slower, unknown, limit, lost = FOUND.outcomes
    assert [status(one) for one in (same, slower, unknown, limit, lost)] == [0, 3, 4, 3, 1]
    assert status(same, unknown, lost) == 1 and status(same, unknown) == 4 and status() == 0
    opened = msgspec.structs.replace(same, held=(Held("miou > 0.6", None, "not known"),))
    assert status(opened) == 4
