"""Pins: which version of a runtime a board gets, by its Python; and which wheels its C library can load."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from qaedge.errors import SetupFailed
from qaedge.runtime import RUNTIMES

#: Python on the board -> what is installed there. The last ones that have wheels for aarch64 and that Python, and
#: the numpy that goes with all of them. Each line was resolved for aarch64, and that of 3.11 installed and run there
#: before it had TFLite; with it, those of 3.8, 3.9 and 3.11 were installed and run on x86-64. LiteRT has no wheels
#: for 3.8; tflite-runtime, its older name, does not take numpy 2.
PINS: dict[tuple[int, int], dict[str, str]] = {
    (3, 8): {"onnxruntime": "1.19.2", "tflite-runtime": "2.14.0", "numpy": "1.24.4", "pip": "25.0.1"},
    (3, 9): {"onnxruntime": "1.19.2", "ai-edge-litert": "2.1.0", "numpy": "2.0.2", "pip": "25.3"},
    (3, 10): {"onnxruntime": "1.23.2", "ai-edge-litert": "2.3.0", "numpy": "2.2.6", "pip": "25.3"},
    (3, 11): {"onnxruntime": "1.32.0", "ai-edge-litert": "2.3.0", "numpy": "2.4.6", "pip": "25.3"},
    (3, 12): {"onnxruntime": "1.32.0", "ai-edge-litert": "2.3.0", "numpy": "2.4.6", "pip": "25.3"},
    (3, 13): {"onnxruntime": "1.32.0", "ai-edge-litert": "2.3.0", "numpy": "2.4.6", "pip": "25.3"},
    (3, 14): {"onnxruntime": "1.32.0", "ai-edge-litert": "2.3.0", "numpy": "2.4.6", "pip": "25.3"},
}
#: Processor -> the oldest glibc 2.N for which there is a name of wheels, and their older names.
_ARCHES: dict[str, tuple[int, dict[int, str]]] = {
    "aarch64": (17, {17: "manylinux2014"}),
    "x86_64": (5, {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}),
}
_RUNTIMES_NEED_GLIBC = 28
#: A package whose wheels for a processor need a newer glibc 2.N -> the last one that does not.
_OLDER: dict[tuple[str, str], tuple[int, str]] = {("tflite-runtime", "aarch64"): (34, "2.13.0")}


class Board(msgspec.Struct, frozen=True):
    """What decides which wheels a board can load."""

    python: tuple[int, int]
    arch: str
    glibc: int

    @property
    def tags(self) -> tuple[str, ...]:
        """The names of wheels for its processor and C library, the newest first."""
        oldest, older = _ARCHES[self.arch]
        found: list[str] = []
        for minor in range(self.glibc, oldest - 1, -1):
            found.append(f"manylinux_2_{minor}_{self.arch}")
            if minor in older:
                found.append(f"{older[minor]}_{self.arch}")
        return tuple(found)

    @property
    def abis(self) -> tuple[str, ...]:
        """The names of its Python's binary interface."""
        return (f"cp{self.python[0]}{self.python[1]}", "abi3", "none")


def board_of(name: str, python: str, arch: str, libc: str, libc_version: str) -> Board:
    """Return what a board can load; raise SetupFailed where there are no runtimes for it."""
    match = re.match(r"(\d+)\.(\d+)", python)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version not in PINS:
        known = ", ".join(f"{major}.{minor}" for major, minor in PINS)
        raise SetupFailed(
            f"{name} has Python {python}, and runtimes are pinned for {known}.",
            "Install one of these there beside its own, and name it as `python` in the device's description.",
        )
    if arch not in _ARCHES:
        raise SetupFailed(
            f"{name} is {arch}, and there are runtimes for {', '.join(_ARCHES)}.",
            "A Raspberry Pi from the 3 on needs the 64-bit system for this.",
        )
    if libc != "glibc" or not re.match(r"2\.\d+", libc_version):
        raise SetupFailed(
            f"{name} has the C library {libc or 'unknown'} {libc_version}, and the runtimes are built for glibc.",
            "Use a system with glibc there: Debian, Ubuntu, Raspberry Pi OS, JetPack.",
        )
    minor = int(libc_version.split(".")[1])
    if minor < _RUNTIMES_NEED_GLIBC:
        raise SetupFailed(
            f"{name} has glibc {libc_version}, and the runtimes need 2.{_RUNTIMES_NEED_GLIBC} or newer.",
            "Update its system; Debian 10, Ubuntu 20.04 and JetPack 5 have it.",
        )
    return Board(version, arch, minor)


def requirements(runtimes: Sequence[str], board: Board) -> tuple[str, ...]:
    """Return what is installed for some runtimes, each with its version; of "ONE|OTHER" the first that is pinned."""
    pinned = PINS[board.python]
    needed = dict.fromkeys(package for runtime in runtimes for package in RUNTIMES[runtime].packages)
    names = [next(name for name in package.split("|") if name in pinned) for package in needed]
    return tuple(f"{name}=={_version(name, board)}" for name in names)


def _version(name: str, board: Board) -> str:
    needs, older = _OLDER.get((name, board.arch), (0, ""))
    return older if board.glibc < needs else PINS[board.python][name]


def pinned(runtime: str, python: tuple[int, ...]) -> str | None:
    """Return the version that a runtime has where we install it, as the agent tells it; None where that is open."""
    table = next((table for version, table in PINS.items() if version == python), {})
    if runtime != "tflite":
        return table.get(runtime)
    name = "ai-edge-litert"  # of the other, which one depends on the C library
    return f"{name} {table[name]}" if name in table else None


def imports(runtimes: Sequence[str]) -> tuple[str, ...]:
    """Return what has to be importable for some runtimes; of "ONE|OTHER" one."""
    return tuple(dict.fromkeys(module for runtime in runtimes for module in RUNTIMES[runtime].imports))


def pip_requirement(python: tuple[int, int]) -> str:
    """Return the pip that runs on that Python."""
    return f"pip=={PINS[python]['pip']}"
