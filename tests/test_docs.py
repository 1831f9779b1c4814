"""The documentation and the command line, held against each other."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from qaedge.cli import build_app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Explained once, at the top of docs/commands.md.
EVERYWHERE = {"--project", "--json", "--quiet", "--device", "--wait", "--help", "-q", "-h"}
#: `qaedge ...` in code: a line of a block, or between backticks.
_BLOCK = re.compile(r"^ *```.*?\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`(qaedge [^`]+)`")
_LINK = re.compile(r"\]\(([^)#:]+)\)")
#: In source: what a message tells the user to run.
_TOLD = re.compile(r"(?:Run|Next|with|See|[a-z]+): (qaedge [a-z][a-z .{}A-Z_-]*)")


def _tree() -> dict[tuple[str, ...], Any]:
    """Every command by its words, with typer's own view of it."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        verbs = getattr(command, "commands", None)
        if verbs is None:
            yield words, command
        else:
            if words and command.invoke_without_command and command.epilog:  # a noun that is a command, too
                yield words, command
            for name, verb in verbs.items():
                yield from walk(verb, (*words, name))

    return dict(walk(typer.main.get_command(build_app()), ()))


TREE = _tree()


def _flags(command: Any) -> set[str]:
    declared = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    return {flag for flag in declared if flag.startswith("-")} | {"--help", "-h"}


def _find(words: list[str]) -> tuple[tuple[str, ...], list[str]] | None:
    """Split a command line, without its first word, into a command's words and what follows."""
    for length in (2, 1):
        if tuple(words[:length]) in TREE:
            return tuple(words[:length]), words[length:]
    return None


def _problem(line: str) -> str:
    """Return what is wrong with a documented command line, or nothing."""
    words = shlex.split(line.split("#")[0].split(" | ")[0])[1:]
    if not words or words[0] in ("COMMAND", "...", "--help", "--version"):
        return ""
    found = _find(words)
    if found is None:
        return f"no such command: {line!r}"
    command, rest = found
    unknown = [w for w in rest if w.startswith("-") and w.split("=")[0] not in _flags(TREE[command])]
    return f"no such flag: {', '.join(unknown)} in {line!r}" if unknown else ""


def _documented(page: Path) -> list[str]:
    text = page.read_text()
    lines = [line.strip().removeprefix("$ ") for block in _BLOCK.findall(text) for line in block.splitlines()]
    return [line for line in lines if line.startswith("qaedge ")] + _INLINE.findall(_BLOCK.sub("", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_documented_command_exists(page):
    assert [problem for problem in map(_problem, _documented(page)) if problem] == []


@pytest.mark.parametrize("words", list(TREE), ids=" ".join)
def test_every_command_and_flag_is_documented(words):
    text = (ROOT / "docs" / "commands.md").read_text()
    section = re.search(rf"^## qaedge {' '.join(words)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert section, f"docs/commands.md has no section '## qaedge {' '.join(words)}'"
    absent = {
        flag for flag in _flags(TREE[words]) - EVERYWHERE if flag.startswith("--") and flag not in section.group(1)
    }
    # `--miou/--no-miou`: the one that differs from the default says it all.
    absent = {flag for flag in absent if f"--no-{flag[2:]}" not in section.group(1)}
    assert absent == set()


@pytest.mark.parametrize("words", list(TREE), ids=" ".join)
def test_examples_in_help_work_as_written(words):
    epilog = TREE[words].epilog or ""
    lines = [line.strip() for line in epilog.splitlines() if line.strip().startswith("qaedge ")]
    assert lines
    assert [problem for problem in map(_problem, lines) if problem] == []


def test_commands_that_messages_name_exist():
    told = set()
    for file in sorted((ROOT / "qaedge").rglob("*.py")):
        for line in _TOLD.findall(file.read_text()):
            words = re.sub(r"\{[^}]*\}", "X", line.strip().rstrip(".")).split()[1:]
            told.add(" ".join(words))
            assert _find(words), f"{file.relative_to(ROOT)} names `qaedge {' '.join(words)}`"
    assert told


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    targets = [target for target in _LINK.findall(_BLOCK.sub("", page.read_text())) if not target.startswith("http")]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_license_is_apache():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text
