"""What a benchmark ran on: its result says so."""

from __future__ import annotations

from typing import Any

from qaedge.machine import this_machine, versions


def version_of(name: str) -> str:
    """Return a package's version; nothing where it is not installed."""
    return versions(name).get(name, "")


def machine() -> dict[str, Any]:
    """Say what this ran on."""
    here = this_machine()
    return {"processor": here.processor, "system": here.system, **versions("numpy", "scipy", "ortools")}
