"""What commands that judge have in common: flags, the table, the files they write, the commit they speak of."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from qaedge import report
from qaedge.files import check_writable, write_atomic
from qaedge.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from qaedge.regression.outcome import Outcome, Outcomes

Junit = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML, too.", show_default=False)
]
Markdown = Annotated[
    Path | None,
    typer.Option("--markdown", metavar="FILE", help="Write Markdown for a pull request, too.", show_default=False),
]
Github = Annotated[bool, typer.Option("--github", help="Print annotations as GitHub Actions shows them, on stderr.")]
History = Annotated[
    Path | None,
    typer.Option("--history", metavar="FILE", help="Add what was measured to this history.", show_default=False),
]


class Written(msgspec.Struct, frozen=True):
    """The reports that were asked for."""

    junit: Path | None = None
    markdown: Path | None = None
    github: bool = False
    history: Path | None = None

    def check(self) -> None:
        """Raise CannotWrite, DiskFull or InvalidFile where one could not be written: before anything is measured."""
        from qaedge.regression.history import history_store

        for path in (self.junit, self.markdown, self.history):
            if path is not None:
                check_writable(path)
        if self.history is not None:
            for _ in history_store(self.history).rows():  # a file of another format takes no rows
                pass

    def write(self, found: Outcomes, quiet: bool) -> None:
        """Write them; raise DiskFull or CannotWrite."""
        from qaedge.regression.history import append
        from qaedge.regression.writers.github import annotate
        from qaedge.regression.writers.junit import junit
        from qaedge.regression.writers.markdown import markdown

        if self.junit is not None:
            write_atomic(self.junit, junit(found))
        if self.markdown is not None:
            write_atomic(self.markdown, markdown(found).encode())
        if self.github:
            for text in annotate(found):
                report.note(text)
        if self.history is not None:
            rows = append(self.history, found)
            report.note(f"{rows} rows added to {self.history}", quiet)


def show(found: Outcomes) -> None:
    """Print outcomes as a table, and below it what is wrong and what is not decided."""
    from qaedge.regression.writers import words

    scored = any(outcome.result and outcome.result.miou is not None for outcome in found.outcomes)
    agreed = any(outcome.agreement is not None for outcome in found.outcomes)
    report.table(
        (
            "model",
            "device",
            "verdict",
            ">median",
            ">against the baseline",
            ">size",
            ">peak memory",
            ">first run",
            *((">mIoU",) if scored else ()),
            *((">agreement",) if agreed else ()),
        ),
        [_row(outcome, scored, agreed) for outcome in found.outcomes],
        title=found.suite,
    )
    for finding in found.findings:
        report.line(f"runtime: {finding}")
    for outcome in found.outcomes:
        if outcome.comparison is not None:
            report.line(f"{outcome.name}: {words.behind(outcome.comparison)}")
        for text in (*words.problems(outcome), *words.doubts(outcome)):
            report.line(f"{outcome.name}: {text}")
    report.line(words.summary(found))


def _row(outcome: Outcome, scored: bool, agreed: bool) -> tuple[str | None, ...]:
    from qaedge.regression.writers import words

    result, comparison = outcome.result, outcome.comparison
    ratios = (comparison.size_ratio, comparison.memory_ratio, comparison.first_run_ratio) if comparison else (None,) * 3
    values = (
        format_bytes(result.size_bytes) if result else None,
        format_bytes(result.peak_memory_bytes) if result and result.peak_memory_bytes else None,
        format_seconds(result.first_run_ns * 1e-9) if result and result.first_run_ns else None,
    )
    return (
        outcome.model,
        outcome.device,
        words.verdict(outcome),
        format_seconds(result.median_s) if result else None,
        words.change(comparison) if comparison else None,
        *(_grown(value, ratio) for value, ratio in zip(values, ratios, strict=True)),
        *((_score(outcome),) if scored else ()),
        *((f"{100 * outcome.agreement:.2f} %" if outcome.agreement is not None else None,) if agreed else ()),
    )


def _grown(value: str | None, ratio: float | None) -> str | None:
    if value is None or ratio is None or abs(ratio - 1) < 0.0005:
        return value
    return f"{value} ({100 * (ratio - 1):+.1f} %)"


def _score(outcome: Outcome) -> str | None:
    miou = outcome.result.miou if outcome.result else None
    if miou is None:
        return None
    change = f" ({100 * (miou - outcome.baseline_miou):+.2f})" if outcome.baseline_miou is not None else ""
    return f"{100 * miou:.2f}{change}"


def commit_here(folder: Path) -> str:
    """Return the commit that a folder is at: as CI says, or as git does; empty where nobody knows."""
    if told := os.environ.get("GITHUB_SHA", ""):
        return told[:12]
    command = ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""
