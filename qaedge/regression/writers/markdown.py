"""Markdown: what a suite found, as a comment on a pull request."""

from __future__ import annotations

import re

from qaedge.regression.outcome import Outcome, Outcomes
from qaedge.regression.writers import words
from qaedge.units import format_bytes, format_seconds

#: What would end a cell, or be a link, a mention or HTML in a comment.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#|!~])")


def markdown(found: Outcomes) -> str:
    """Return a table, and below it what is wrong, line by line."""
    lines = [f"### {_plain(found.suite)}: {_plain(words.summary(found))}", ""]
    lines += [f"**{_plain(finding)}**\n" for finding in found.findings]
    lines += [
        "| model | device | verdict | latency | against the baseline | size |",
        "|---|---|---|---:|---:|---:|",
        *map(_row, found.outcomes),
        "",
    ]
    for outcome in found.outcomes:
        lines += [f"* {_plain(outcome.name)}: {_plain(text)}" for text in words.problems(outcome)]
        lines += [f"* {_plain(outcome.name)}: {_plain(text)}" for text in words.doubts(outcome)]
    known = [outcome.comparison for outcome in found.outcomes if outcome.comparison is not None]
    if known:
        lines += ["", "<details><summary>What each verdict rests on</summary>", ""]
        lines += [
            f"* {_plain(outcome.name)}: {_plain(words.behind(outcome.comparison))}"
            for outcome in found.outcomes
            if outcome.comparison is not None
        ]
        lines += ["", "</details>"]
    return "\n".join(lines).rstrip() + "\n"


def _row(outcome: Outcome) -> str:
    result, comparison = outcome.result, outcome.comparison
    cells = (
        outcome.model,
        f"{outcome.device}, {result.version}" if result else outcome.device,
        words.verdict(outcome),
        format_seconds(result.median_s) if result else "",
        words.change(comparison) if comparison else "",
        format_bytes(result.size_bytes) if result else "",
    )
    return f"| {' | '.join(map(_plain, cells))} |"


def _plain(text: str) -> str:
    # A mention works even behind a backslash; a space without width ends it.
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("@", "@\u200b")
