"""GitHub annotations: workflow commands, which Actions shows beside the run.

The form: https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
"""

from __future__ import annotations

from qaedge.regression.outcome import Outcomes
from qaedge.regression.writers import words


def annotate(found: Outcomes) -> tuple[str, ...]:
    """Return a line for each thing that is wrong (error), not decided (warning), or a finding of its own (warning)."""
    lines = [_line("warning", "runtime", finding) for finding in found.findings]
    for outcome in found.outcomes:
        lines += [_line("error", outcome.name, text) for text in words.problems(outcome)]
        lines += [_line("warning", outcome.name, text) for text in words.doubts(outcome)]
    return tuple(lines)


def _line(kind: str, title: str, text: str) -> str:
    # No text from outside may end the line: the next one could be a command of its own.
    return f"::{kind} title={_escape(title, True)}::{_escape(text)}"


def _escape(text: str, inside: bool = False) -> str:
    found = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return found.replace(":", "%3A").replace(",", "%2C") if inside else found
