"""The command line: one file per verb or noun; this one puts them together and ends the process.

Exit status: 0 done, 1 an error the user can fix, 2 wrong usage, 3 slower than the baseline,
4 not decided, 130 interrupted.

A command module is imported where it is called or helps, so it imports nothing heavy at its top: numpy, torch
and the runtimes come inside `run`.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib.util
import inspect
import io
import os
import signal
import sys
import traceback
import warnings
from types import FrameType, ModuleType, TracebackType
from typing import Annotated

import typer

import qaedge
from qaedge import report
from qaedge.errors import DiskFull, QaedgeError, UsageError


def _command(name: str) -> ModuleType:
    """Return the module of a command; it is executed when it is first looked into, which most commands never are."""
    full = f"{__name__}.{name}"
    if full not in sys.modules:
        spec = importlib.util.find_spec(full)
        assert spec is not None and spec.loader is not None
        spec.loader = importlib.util.LazyLoader(spec.loader)
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
        setattr(sys.modules[__name__], name, sys.modules[full])
    return sys.modules[full]


#: Each verb, in the order in which one meets them. A module has `run`, whose docstring is the help,
#: and EXAMPLES, the lines below it.
COMMANDS: dict[str, ModuleType] = {
    "demo": _command("demo"),
    "init": _command("init"),
    "space": _command("space"),
    "distill": _command("distill"),
    "profile": _command("profile"),
    "search": _command("search"),
    "build": _command("build"),
    "export": _command("export"),
    "bench": _command("bench"),
    "compare": _command("compare"),
    "history": _command("history"),
    "report": _command("report_page"),
    "devices": _command("devices"),
}

#: Verbs that belong to a noun: `qaedge teacher check`. A noun that is a command, too, runs where no verb follows.
NOUNS: dict[str, tuple[str, dict[str, ModuleType]]] = {
    "device": (
        "Make a board ready to be measured on, and look after it.",
        {
            "add": _command("device_add"),
            "setup": _command("device_setup"),
            "check": _command("device_check"),
            "tune": _command("device_tune"),
            "reset": _command("device_reset"),
            "noise": _command("device_noise"),
            "lock": _command("device_lock"),
            "unlock": _command("device_unlock"),
        },
    ),
    "space": ("", {"check": _command("space_check")}),
    "table": ("Ask how true a table is.", {"check": _command("table_check")}),
    "teacher": (
        "Look at, or train, the network that everything is measured against.",
        {"check": _command("teacher_check"), "train": _command("teacher_train")},
    ),
}

INTERRUPTED = 130
#: How often Python looks for cycles among its objects (`gc.set_threshold`): as often as it does by itself, a tenth of a
#: short command's time would go into that.
_RARELY = (50_000, 20, 20)
_PLAIN_HELP = {"help_option_names": ["-h", "--help"]}


def _version(wanted: bool) -> None:
    if wanted:
        report.line(f"qaedge {qaedge.__version__}")
        raise typer.Exit()


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Find, measure and ship quantized networks that are fast on your own edge board."""


def _group(help_text: str | None = None, runs: bool = False) -> typer.Typer:
    # Plain help starts in half the time of rich's panels, and reads the same in a pipe.
    return typer.Typer(
        help=help_text,
        no_args_is_help=not runs,
        invoke_without_command=runs,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=_PLAIN_HELP,
    )


def _add(group: typer.Typer, name: str, module: ModuleType) -> None:
    group.command(name, epilog=_examples(module), context_settings=_PLAIN_HELP)(module.run)


def _examples(module: ModuleType) -> str:
    # "\b" keeps the lines below it as they are.
    return "\b\nExamples:\n" + "\n".join(f"  {text}" for text in module.EXAMPLES)


def build_app(only: str | None = None) -> typer.Typer:
    """Return the whole command line, as typer sees it; with `only`, of its commands that one."""
    app = _group()
    app.callback()(_root)
    for name in dict.fromkeys([*COMMANDS, *NOUNS]) if only is None else (only,):
        if name not in NOUNS:
            _add(app, name, COMMANDS[name])
            continue
        help_text, verbs = NOUNS[name]
        alone = COMMANDS.get(name)
        group = _group(help_text if alone is None else inspect.cleandoc(alone.run.__doc__ or ""), alone is not None)
        for verb, module in verbs.items():
            _add(group, verb, module)
        if alone is None:
            group.callback()(_noun)  # or typer would take a single verb for the whole group
            app.add_typer(group, name=name, help=help_text)
        else:
            group.callback(invoke_without_command=True, epilog=_examples(alone))(alone.run)
            app.add_typer(group, name=name)
    return app


def _noun() -> None:
    pass


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit status; errors a user can fix are printed.

    Anything else that is raised is a bug and goes through.
    """
    try:
        status = _invoke(arguments)
        sys.stdout.flush()
        return status
    except QaedgeError as problem:
        report.error(problem)
        return problem.exit_status
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        _abandon_stdout()
        return 1
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _abandon_stdout()
        where = f" while writing {problem.filename}" if problem.filename else ""
        report.error(
            DiskFull(
                f"No space left{where}.",
                "Everything finished before is kept. Free some space and run the same command again.",
            )
        )
        return DiskFull.exit_status


def main() -> None:
    """Run the command line of this process and end it with the right exit status."""
    gc.set_threshold(*_RARELY)
    signal.signal(signal.SIGTERM, _terminate)
    warnings.showwarning = _show_warning
    sys.excepthook = _report_bug
    sys.exit(run())


def _invoke(arguments: list[str] | None) -> int:
    first = next(iter(sys.argv[1:] if arguments is None else arguments), None)
    # Building the others would take longer than most commands do.
    command = typer.main.get_command(build_app(first if first in {*COMMANDS, *NOUNS} else None))
    # The base of typer's own "wrong usage" errors; typer gives it no public name.
    wrong_usage: type[Exception] = typer.BadParameter.__bases__[0]
    try:
        status = command.main(args=arguments, prog_name="qaedge", standalone_mode=False)
    except wrong_usage as problem:
        return _usage(problem)
    except typer.Abort:
        return _interrupted()
    if status == INTERRUPTED:  # typer's answer to Ctrl-C
        return _interrupted()
    return status if isinstance(status, int) else 0


def _usage(problem: Exception) -> int:
    context = getattr(problem, "ctx", None)
    path = context.command_path if context is not None else "qaedge"
    message = problem.format_message() if hasattr(problem, "format_message") else str(problem)
    if context is not None and message.strip() == context.get_help().strip():  # a group without its verb
        sys.stderr.write(message + "\n")
    else:
        report.error(UsageError(message, f"See: {path} --help"))
    return UsageError.exit_status


def _interrupted() -> int:
    report.note("interrupted; run the same command again to go on")
    return INTERRUPTED


def _abandon_stdout() -> None:
    # Whoever read us has gone, as `head` does, or the disk behind it is full. What is still buffered
    # would fail again when Python ends, with a complaint and an exit status of its own.
    with contextlib.suppress(io.UnsupportedOperation):  # no file behind it, so nothing to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: object = None,
) -> None:
    report.warn(str(message))


def _report_bug(kind: type[BaseException], problem: BaseException, trace: TracebackType | None) -> None:
    report.note(f"This is a bug in qaedge {qaedge.__version__}; please report it with the lines below.")
    traceback.print_exception(kind, problem, trace)
