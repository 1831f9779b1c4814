"""JUnit XML: a test case for each model on each device, as CI servers show them."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from qaedge.regression.outcome import Outcome, Outcomes
from qaedge.regression.writers import words

#: What XML 1.0 forbids, as a stranger's error text may hold it.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(found: Outcomes) -> bytes:
    """Return a suite as JUnit XML: slower, or a broken limit, fails; not measured errs; not decided is skipped."""
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(root, "testsuite", name=_clean(found.suite))
    counts = {"tests": len(found.outcomes), "failures": 0, "errors": 0, "skipped": 0}
    for outcome in found.outcomes:
        counts[_case(suite, outcome)] += 1
    counts["tests"] = len(found.outcomes)
    for element in (root, suite):
        for name, count in counts.items():
            element.set(name, str(count))
    if found.measured_at:
        suite.set("timestamp", found.measured_at)
    if found.findings:
        ElementTree.SubElement(suite, "system-out").text = _clean("\n".join(found.findings))
    ElementTree.indent(root)
    data: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return data + b"\n"


def _case(suite: ElementTree.Element, outcome: Outcome) -> str:
    """Add a case; return which count it belongs to."""
    seconds = outcome.result.median_s if outcome.result else 0.0
    where = f"{outcome.device}.{outcome.runtime}" if outcome.runtime else outcome.device
    case = ElementTree.SubElement(
        suite, "testcase", name=_clean(outcome.model), classname=_clean(where), time=f"{seconds:.9f}"
    )
    status = outcome.exit_status
    kind = {3: "failure", 1: "error", 4: "skipped"}.get(status)
    lines = [*words.problems(outcome), *words.doubts(outcome)]
    if kind:
        told = ElementTree.SubElement(case, kind, message=_clean(lines[0] if lines else words.verdict(outcome)))
        told.text = _clean("\n".join(lines))
    if outcome.comparison is not None:
        line = f"{words.change(outcome.comparison)}, {words.behind(outcome.comparison)}"
        ElementTree.SubElement(case, "system-out").text = _clean(line)
    return {3: "failures", 1: "errors", 4: "skipped"}.get(status, "tests")


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("", text)
