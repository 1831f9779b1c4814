"""What people see: tables, progress, warnings and errors. The only module that prints.

Results go to stdout, everything else to stderr. Nothing is colored where the stream is no terminal
or NO_COLOR is set, and no text from outside can carry markup or control characters.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO, TypeVar

import msgspec

from qaedge.errors import QaedgeError
from qaedge.progress import Step

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

#: Without a terminal, a line of progress at most this often [s].
PLAIN_INTERVAL_S = 10.0
#: What takes no longer than this shows no progress [s].
PATIENCE_S = 2.0
#: Width of a table that is not shown on a terminal: nothing is folded or cut.
_PIPED_WIDTH = 10_000
#: On a terminal, no column of words is narrower than this, unless its words are shorter.
_LEAST_WIDTH = 16
#: What a table puts between and around columns.
_GAP = 3
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_RED, _YELLOW, _DIM = "31;1", "33;1", "2"


def plain(text: object) -> str:
    """Return `text` without control characters, so that no name can move the cursor or set colors."""
    return _CONTROL.sub("", str(text))


def line(text: str = "") -> None:
    """Print a line of a result."""
    sys.stdout.write(plain(text) + "\n")


def note(text: str, quiet: bool = False) -> None:
    """Print a line that is not a result."""
    if not quiet:
        _stderr(plain(text))


def warn(text: str) -> None:
    """Print a warning; `--quiet` does not silence it."""
    _stderr(f"{_paint('warning:', _YELLOW, sys.stderr)} {plain(text)}")


def error(problem: QaedgeError) -> None:
    """Print what happened and, indented below it, what is known and what to do."""
    _stderr(f"{_paint('error:', _RED, sys.stderr)} {plain(problem.message)}")
    for hint in problem.hint.splitlines():
        _stderr(f"  {plain(hint)}")


def json_out(value: object) -> None:
    """Print structs or plain data as indented JSON, alone on stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Print a table; on a terminal too narrow for it each row as lines of its own, so that nothing is cut.

    Args:
        columns: headings; one that begins with ">" is right-aligned, as numbers should be.
        rows: a cell for each column; None is printed as a dash.
        title: a line above.
    """
    from rich import box
    from rich.table import Table

    console = _console(sys.stdout)
    cells = [["-" if cell is None else plain(cell) for cell in row] for row in rows]
    if title:  # not the table's own, which would be folded at the table's width
        line(plain(title))
    if console.is_terminal and _least_width(columns, cells) > console.width:
        _list(columns, cells)
        return
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        drawn.add_column(
            column.removeprefix(">"),
            justify="right" if column.startswith(">") else "left",
            no_wrap=not console.is_terminal or column.startswith(">"),
            overflow="fold",
        )
    for row in cells:
        drawn.add_row(*row)
    if console.is_terminal:
        console.print(drawn)
        return
    # Rich fills each line up to the table's width, and indents it; a pipe has no use for either.
    with console.capture() as capture:
        console.print(drawn)
    lines = [text.removeprefix(" ").rstrip() for text in capture.get().splitlines()]
    sys.stdout.write("\n".join(lines).strip("\n") + "\n")


def _least_width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Return what a table takes whose numbers are whole, and whose words are folded, but not to a letter or two."""
    width = 0
    for number, column in enumerate(columns):
        widest = max(len(cell) for cell in (column.removeprefix(">"), *(row[number] for row in rows)))
        width += (widest if column.startswith(">") else min(widest, _LEAST_WIDTH)) + _GAP
    return width


def _list(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print each row as a line for each of its cells, below its first; what is not there is left out."""
    names = [column.removeprefix(">") for column in columns[1:]]
    widest = max(map(len, names), default=0)
    for row in rows:
        line(row[0])
        for name, cell in zip(names, row[1:], strict=True):
            if cell != "-":
                line(f"  {name:<{widest}}  {cell}")


def progress(steps: Iterable[Step], title: str, quiet: bool = False) -> Iterator[Step]:
    """Show how far `steps` have come, and yield those that carry a result.

    A bar on a terminal; otherwise a line at the start, at the end, and every ten seconds between.
    Warnings are printed in any case.
    """
    shown = _silent if quiet else _bar if sys.stderr.isatty() else _lines
    for step in shown(steps, plain(title)):
        if step.warning:
            warn(step.warning)
        if step.result is not None:
            yield step


def result_of(steps: Generator[Step, None, T], title: str, quiet: bool = False) -> T:
    """Show how far `steps` have come, and return what they return."""
    kept: list[T] = []

    def told() -> Iterator[Step]:
        kept.append((yield from steps))

    for _ in progress(told(), title, quiet):
        pass
    return kept[0]


class Waiting:
    """What a wait is about, as it goes on: `what` is shown beside its title."""

    def __init__(self, title: str) -> None:
        """Begin with the title alone."""
        self.title, self.what = plain(title), ""

    def __str__(self) -> str:
        """Say both."""
        return f"{self.title}: {plain(self.what)}" if self.what else self.title


@contextlib.contextmanager
def waiting(title: str, quiet: bool = False) -> Iterator[Waiting]:
    """Show, where what is inside takes more than two seconds, that it goes on; set `what` of what is given.

    For work that is mostly over at once, and so large sometimes that one would ask. A spinner on a terminal; otherwise
    a line after two seconds, and every ten from then on.
    """
    told, ended = Waiting(title), threading.Event()
    if quiet:
        yield told
        return
    watcher = threading.Thread(target=_watch, args=(told, ended, sys.stderr.isatty()), daemon=True)
    watcher.start()
    try:
        yield told
    finally:
        ended.set()
        watcher.join()


def _watch(told: Waiting, ended: threading.Event, terminal: bool) -> None:
    began = time.monotonic()
    if ended.wait(PATIENCE_S):
        return
    if terminal:
        with _console(sys.stderr).status(str(told)) as shown:
            while not ended.wait(0.2):
                shown.update(f"{told}, {_elapsed(time.monotonic() - began)}")
        return
    while True:
        _stderr(f"{told}, {_elapsed(time.monotonic() - began)}")
        if ended.wait(PLAIN_INTERVAL_S):
            return


def _stderr(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _paint(text: str, code: str, stream: TextIO) -> str:
    colored = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[{code}m{text}\x1b[0m" if colored else text


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    terminal = stream.isatty()
    return Console(
        file=stream,
        markup=False,
        highlight=False,
        emoji=False,
        force_terminal=terminal,
        width=None if terminal else _PIPED_WIDTH,
        safe_box=True,
    )


def _silent(steps: Iterable[Step], title: str) -> Iterator[Step]:
    yield from steps


def _lines(steps: Iterable[Step], title: str) -> Iterator[Step]:
    began = time.monotonic()
    spoke: float | None = None
    silent: Step | None = None
    for step in steps:
        now = time.monotonic()
        silent = step
        if spoke is None or now - spoke >= PLAIN_INTERVAL_S:
            _stderr(_progress_line(step, title, now - began))
            spoke, silent = now, None
        yield step
    if silent is not None:
        _stderr(_progress_line(silent, title, time.monotonic() - began))


def _progress_line(step: Step, title: str, elapsed_s: float) -> str:
    share = f"{step.done} of {step.total}" if step.total else f"{step.done}"
    return f"{title}: {share}, {_elapsed(elapsed_s)}: {plain(step.what)}"


def _elapsed(seconds: float) -> str:
    whole = int(seconds)
    return (
        f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
        if whole >= 3600
        else f"{whole // 60}:{whole % 60:02d}"
    )


def _bar(steps: Iterable[Step], title: str) -> Iterator[Step]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[what]}", markup=False),
    )
    # Notes and warnings that are printed meanwhile go through sys.stderr, which rich lets pass above the bar.
    with Progress(*columns, console=_console(sys.stderr)) as bar:
        task = bar.add_task(title, total=None, what="")
        for step in steps:
            bar.update(task, completed=step.done, total=step.total or None, what=plain(step.what)[:60])
            yield step
