"""A real upgrade of a runtime, seen by a suite: `python benchmarks/regression/upgrade.py OLD_PYTHON NEW_PYTHON FILE`...

A description of this machine names OLD_PYTHON; a baseline is saved with it. Then it names NEW_PYTHON, as after an
upgrade, and the suite runs against that baseline. Renews `runtime_upgrade` in result.json.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from regression import keep

from qaedge import cli


def main() -> None:
    """Save, upgrade, compare."""
    old, new, *files = (Path(word).absolute() for word in sys.argv[1:])
    models = "".join(f'[[model]]\nfile = "{file}"\n' for file in files)
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("devices").mkdir()
        Path("benchmarks.toml").write_text(f'devices = ["bench"]\nlimits = ["slower_than_baseline < 3%"]\n{models}')
        describe(old)
        saved = run("--save-baseline", "before")
        describe(new)
        found = run("--against", "before")
        again = run("--against", "before")
        os.chdir(home)
    for one in (found, again):
        for outcome in one["outcomes"]:
            print(outcome["model"], outcome["comparison"]["verdict"], outcome["comparison"]["ratio"])
        print(one["findings"])
    keep(
        {
            "runtime_upgrade": {
                "baseline": [version(outcome) for outcome in saved["outcomes"]],
                "now": [version(outcome) for outcome in found["outcomes"]],
                "findings": [found["findings"], again["findings"]],
                "verdicts": [
                    {o["model"]: [o["comparison"]["verdict"], o["comparison"]["ratio"]] for o in one["outcomes"]}
                    for one in (found, again)
                ],
            }
        }
    )


def describe(python: Path) -> None:
    """Let the device be this machine with that Python."""
    Path("devices/bench.toml").write_text(f'name = "bench"\nbase = "local"\npython = "{python}"\n')


def run(*words: str) -> dict[str, Any]:
    """Run the suite; return what it prints as JSON."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        cli.run(["bench", "--suite", "benchmarks.toml", "--json", "--quiet", "--wait", "30min", *words])
    found: dict[str, Any] = msgspec.json.decode(printed.getvalue())
    return found


def version(outcome: dict[str, Any]) -> str:
    """Return which runtime measured a model."""
    return f"{outcome['model']}: {outcome['result']['runtime']} {outcome['result']['runtime_version']}"


if __name__ == "__main__":
    main()
