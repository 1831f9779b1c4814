"""The frame of the command line: help, exit statuses, errors, interruption, streams."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from qaedge import __version__, cli

HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "scipy", "matplotlib", "PIL", "rich")


def commands() -> Iterator[tuple[str, ...]]:
    yield from ((name,) for name in cli.COMMANDS)
    yield from ((noun, verb) for noun, (_, verbs) in cli.NOUNS.items() for verb in verbs)


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_each_command_has_help_with_an_example(command, qaedge):
    ran = qaedge(*command, "--help")
    assert ran.status == 0 and ran.err == ""
    assert f"  qaedge {' '.join(command)}" in ran.out.partition("Examples:")[2]
    assert "--quiet" in ran.out


@pytest.mark.parametrize("arguments", [["--help"], ["devices", "--help"], ["search", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments, spawn):
    code = (
        "import sys, qaedge.cli\n"
        f"status = qaedge.cli.run({arguments!r})\n"
        f"loaded = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "sys.exit(f'loaded: {loaded}' if loaded else status)"
    )
    process = spawn(code=code)
    _, err = process.communicate()
    assert process.returncode == 0, err


def test_version(qaedge):
    assert qaedge("--version").out == f"qaedge {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
        (["devices", "--nonsense"], "See: qaedge devices --help"),
        (["teacher", "nonsense"], "See: qaedge teacher --help"),
        (["init", "--data", "nonsense"], "cityscapes"),
        (["compare", "only-one.onnx"], "See: qaedge compare --help"),
    ],
)
def test_wrong_usage_ends_with_2(arguments, said, qaedge):
    ran = qaedge(*arguments)
    assert ran.status == 2 and ran.out == ""
    assert ran.err.startswith("error: ") and said in ran.err


def test_a_group_alone_shows_its_verbs(qaedge):
    ran = qaedge("teacher")
    assert ran.status == 2 and "check" in ran.out + ran.err


def test_an_error_is_a_line_and_an_indented_hint(qaedge, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = qaedge("space")
    assert (ran.status, ran.out, ran.err) == (1, "", "error: No file qaedge.toml.\n  Write one with: qaedge init\n")


def test_an_unknown_key_is_named_with_its_file(qaedge, scenes):
    file = scenes / "qaedge.toml"
    file.write_text(file.read_text().replace("count = 128", "cuont = 128"))
    ran = qaedge("space")
    assert ran.status == 1
    assert "qaedge.toml: data.cuont: expected a known key (layout, " in ran.err


def test_json_is_alone_on_stdout(qaedge, scenes):
    ran = qaedge("devices", "--json")
    assert ran.status == 0 and ran.err == ""
    local = next(row for row in json.loads(ran.out) if row["name"] == "local")
    assert local["measured_rows"] == 0 and local["file"].endswith("local.toml")


def test_a_users_own_device_hides_the_packages(qaedge, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "local.toml").write_text('name = "local"\ndescription = "[red]mine\\u001b[31m"\n')
    ran = qaedge("devices")
    assert "[red]mine[31m" in ran.out and "\x1b" not in ran.out
    assert "Nothing" not in ran.err and "qaedge.toml" in ran.err
    assert qaedge("devices", "--quiet").err == ""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_work_ends_with_130_and_says_how_to_go_on(sent, scenes, spawn):
    file = scenes / "qaedge.toml"
    file.write_text(file.read_text().replace("count = 128", "count = 100000"))
    process = spawn("teacher", "check")
    first = process.stderr.readline()
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert first.startswith("evaluating: ")
    assert process.returncode == 130 and out == ""
    assert err.splitlines()[-1] == "interrupted; run the same command again to go on"
    assert "Traceback" not in err


def test_a_reader_that_has_gone_is_no_complaint(scenes, spawn):
    read, write = os.pipe()
    os.close(read)
    process = spawn("devices", "--json", stdout=write)
    os.close(write)
    assert process.communicate()[1] == ""
    assert process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_behind_stdout_is_one_error(spawn, scenes):
    with Path("/dev/full").open("w") as full:
        process = spawn("devices", "--json", stdout=full)
        err = process.communicate()[1]
    assert process.returncode == 1
    assert err.startswith("error: No space left") and "Traceback" not in err and "Exception" not in err


def test_a_bug_asks_to_be_reported(spawn):
    code = "import qaedge.cli as c\nc.COMMANDS['devices'].run = lambda: 1 / 0\nc.main()"
    process = spawn("devices", code=code)
    err = process.communicate()[1]
    assert process.returncode == 1
    assert err.startswith("This is a bug in qaedge") and "ZeroDivisionError" in err


def test_a_warning_is_one_line(spawn):
    code = (
        "import sys, warnings, types, qaedge.cli as c\n"
        "def run():\n    'Warn.'\n    warnings.warn('mind the gap')\n"
        "c.COMMANDS['warn'] = types.SimpleNamespace(run=run, EXAMPLES=())\n"
        "c.main()"
    )
    process = spawn("warn", code=code)
    assert process.communicate() == ("", "warning: mind the gap\n")


@pytest.mark.parametrize(("no_color", "colored"), [("", True), ("1", False)])
def test_colors_only_on_a_terminal_that_wants_them(no_color, colored, spawn, tmp_path):
    terminal, end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": no_color}
    process = spawn("space", cwd=tmp_path, stderr=end, env=environment)
    process.communicate()
    os.close(end)
    text = os.read(terminal, 4096).decode()
    os.close(terminal)
    assert "No file qaedge.toml" in text
    assert ("\x1b[" in text) is colored


def test_python_m_qaedge_is_the_same_program(spawn):
    process: subprocess.Popen[str] = spawn("--version")
    assert process.communicate()[0] == f"qaedge {__version__}\n"


def test_typer_still_says_what_wrong_usage_is():
    # run() takes the base of BadParameter for typer's "wrong usage"; typer gives it no public name.
    assert typer.BadParameter.__bases__[0].__name__ == "UsageError"
