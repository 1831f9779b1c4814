"""What people see, on a terminal and in a pipe."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import sys
import threading
from collections.abc import Iterator

import pytest

from qaedge import report
from qaedge.errors import QaedgeError
from qaedge.progress import Step


def steps(total: int) -> Iterator[Step]:
    for done in range(1, total + 1):
        yield Step(
            done, total, f"[b]part {done}\x1b[31m", result=done if done % 2 else None, warning="hot" * (done == 2)
        )


def test_table_aligns_numbers_and_keeps_markup_as_text(capsys):
    report.table(("name", ">time"), [("[red]a[/red]", "1 ms"), ("b\x1b[31m\x07", "100 ms"), ("c", None)])
    assert capsys.readouterr().out.splitlines() == [
        "name             time",
        "─────────────────────",
        "[red]a[/red]     1 ms",
        "b[31m          100 ms",
        "c                   -",
    ]


def test_a_wide_table_is_not_cut_in_a_pipe(capsys):
    report.table(("a", "b"), [("x" * 300, "y" * 300)])
    assert "x" * 300 + " " in capsys.readouterr().out


def shown(width: int, monkeypatch, *table: object) -> str:
    """What `report.table` prints on a terminal of a width."""
    terminal, end = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    with os.fdopen(end, "w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        report.table(*table)  # type: ignore[arg-type]
    text = ""
    with contextlib.suppress(OSError):  # the end of a terminal whose other side is closed
        while more := os.read(terminal, 1 << 16):
            text += more.decode()
    os.close(terminal)
    return re.sub(r"\x1b\[[\d;]*m", "", text).replace("\r\n", "\n")


COLUMNS = ("file", ">median", ">p90", ">p99", ">against the first", ">size", "runtime", "doubts")
ROW = ("a_file_with_a_rather_long_name.tflite", "12.3 ms ± 110 us", "13.1 ms", "not estimable", "+1.5 %", "3.34 MiB")


@pytest.mark.parametrize("width", [44, 60, 80, 100, 120, 160, 200])
def test_on_a_terminal_of_any_width_every_number_is_whole_and_no_word_falls_to_letters(width, monkeypatch):
    text = shown(width, monkeypatch, COLUMNS, [(*ROW, "ai-edge-litert 2.3.0", None), (*ROW, None, "unstable")])
    for cell in ROW[1:]:
        assert text.count(cell) == 2, text
    assert "ai-edge-litert" in text and "unstable" in text and "a_file_with_a_" in text
    assert max(map(len, text.splitlines())) <= width
    assert ("against the first  +1.5 %" in text) == (width <= 120), "a row on lines of its own"


def test_a_row_on_lines_of_its_own_leaves_out_what_is_not_there(monkeypatch):
    text = shown(12, monkeypatch, ("name", ">first", ">second"), [("one", None, "2 ms"), ("two", "1 ms", None)])
    assert text == "one\n  second  2 ms\ntwo\n  first   1 ms\n"


def test_error_and_warning(capsys):
    report.error(QaedgeError("It broke.", "Known: this.\nDo that."))
    report.warn("mind\x1b[2J the gap")
    assert capsys.readouterr() == ("", "error: It broke.\n  Known: this.\n  Do that.\nwarning: mind[2J the gap\n")


def test_progress_yields_what_has_a_result_and_speaks_in_lines(capsys, monkeypatch):
    assert [step.result for step in report.progress(steps(5), "working")] == [1, 3, 5]
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith("working: 1 of 5") and lines[-1].startswith("working: 5 of 5")
    assert "warning: hot" in lines and len(lines) == 3 and "\x1b" not in err
    monkeypatch.setattr(report, "PLAIN_INTERVAL_S", 0.0)
    list(report.progress(steps(5), "working"))
    assert capsys.readouterr().err.count("working") == 5


def test_quiet_progress_says_only_warnings(capsys):
    assert len(list(report.progress(steps(5), "working", quiet=True))) == 3
    assert capsys.readouterr() == ("", "warning: hot\n")


def test_progress_that_is_cut_short_says_where(capsys):
    def failing() -> Iterator[Step]:
        yield Step(1, 3, "first")
        yield Step(2, 3, "second")
        raise QaedgeError("It broke.")

    with pytest.raises(QaedgeError):
        list(report.progress(failing(), "working"))
    assert "working: 1 of 3" in capsys.readouterr().err


def test_progress_is_a_bar_on_a_terminal(monkeypatch):
    terminal, end = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    with os.fdopen(end, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert [step.result for step in report.progress(steps(3), "working")] == [1, 3]
    text = ""
    with contextlib.suppress(OSError):  # the end of a terminal whose other side is closed
        while more := os.read(terminal, 1 << 16):
            text += more.decode()
    os.close(terminal)
    assert "━" in text and "3/3" in text and "hot" in text
    assert "[b]part 3[31m" in text


def test_json_out_is_indented_and_ends_with_a_line_break(capsys):
    report.json_out({"a": (1, 2.5), "b": Step(1, 2, "x")})
    assert capsys.readouterr().out.endswith('"warning": ""\n  }\n}\n')


def test_a_wait_is_told_once_it_is_long_and_what_it_is_at(monkeypatch):
    said: list[str] = []
    spoke = threading.Event()

    def hear(text: str) -> None:
        said.append(text)
        spoke.set()

    monkeypatch.setattr(report, "_stderr", hear)
    with report.waiting("searching"):
        pass
    assert said == [], "it was over at once"
    monkeypatch.setattr(report, "PATIENCE_S", 0.0)
    monkeypatch.setattr(report, "PLAIN_INTERVAL_S", 0.0)
    with report.waiting("searching") as told:
        told.what = "3 of\x1b 5"
        spoke.clear()
        assert spoke.wait(60) and (spoke.clear() or spoke.wait(60))
    assert said[-1] == "searching: 3 of 5, 0:00"
    before = len(said)
    with report.waiting("searching", quiet=True):
        pass
    assert len(said) == before
