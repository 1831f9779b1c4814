"""The machine that a result was made on, and the versions of what made it: a result says so."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import msgspec

import qaedge


class Machine(msgspec.Struct, frozen=True):
    """What a result was made on: the processor's name, its cores that this process may use, and the system."""

    processor: str
    cores: int
    system: str


def this_machine() -> Machine:
    """Say what this runs on."""
    name = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", _cpu_info(), re.MULTILINE)
    processor = name.group(1).strip() if name else platform.processor() or "unknown"
    return Machine(processor, usable_cores(), f"{platform.system()} {platform.machine()}")


def cpu_flags() -> frozenset[str]:
    """Return what Linux says that the processor can do, such as "avx2"; nothing elsewhere."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpu_info(), re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:  # no Linux
        return ""


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of qaedge, of Python, and of those of the packages that are installed."""
    import importlib.metadata  # not at the top: it is slow to import, and commands start quickly

    found = {"qaedge": qaedge.__version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
