"""Wheels for another machine, fetched by this one's pip and kept under `~/.cache/qaedge/wheels`."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from qaedge.errors import SetupFailed
from qaedge.files import disk_errors
from qaedge.hil.pins import Board

#: How long pip may take [s].
_FETCH_S = 1800.0


class Wheel(msgspec.Struct, frozen=True):
    """A wheel: its file, its hash, and what it takes when unpacked [bytes]."""

    path: Path
    sha256: str
    unpacked_bytes: int

    @property
    def name(self) -> str:
        """Its file's name, which pip reads."""
        return self.path.name

    @staticmethod
    def of(path: Path) -> Wheel:
        """Read a file; raise SetupFailed where it is no wheel."""
        try:
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
            return Wheel(path, hashlib.sha256(path.read_bytes()).hexdigest(), size)
        except (OSError, zipfile.BadZipFile) as error:
            raise SetupFailed(
                f"The wheel {path} cannot be read: {error}.", f"Remove {path.parent} and run the same command again."
            ) from error


def cache_folder() -> Path:
    """Return where wheels are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "qaedge" / "wheels"


def fetch(requirements: Sequence[str], board: Board, cache: Path | None = None) -> list[Wheel]:
    """Return the wheels of some packages, and of what they need, for a board; from the cache where they are.

    Raises SetupFailed where pip does not find them.
    """
    text = msgspec.json.encode((sorted(requirements), board.python, board.arch, board.glibc))
    folder = (cache or cache_folder()) / hashlib.sha256(text).hexdigest()[:16]
    if not folder.is_dir():
        with disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
        try:
            _download(requirements, board, part)
            try:
                part.rename(folder)
            except OSError:
                if not folder.is_dir():  # somebody else fetched the same, and was first
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    found = [Wheel.of(path) for path in sorted(folder.glob("*.whl"))]
    if not found:
        raise SetupFailed(f"There is no wheel in {folder}.", "Remove that folder and run the same command again.")
    return found


def _download(requirements: Sequence[str], board: Board, folder: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise SetupFailed(
            f"The Python that runs qaedge ({sys.executable}) has no pip, which fetches what the board needs.",
            f"Give it one: {sys.executable} -m ensurepip",
        )
    major, minor = board.python
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", f"{major}.{minor}"]
    for tag in board.tags:
        command += ["--platform", tag]
    for abi in board.abis:
        command += ["--abi", abi]
    command += ["--dest", str(folder), *requirements]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_FETCH_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise SetupFailed(f"pip fetched nothing within {_FETCH_S / 60:g} min.", "Is the network slow?") from error
    if ran.returncode:
        lines = [line for line in ran.stderr.splitlines() if line.startswith("ERROR")] or ran.stderr.splitlines()
        raise SetupFailed(
            f"This machine could not fetch {', '.join(requirements)} for Python {major}.{minor} on {board.arch}.",
            "\n".join(["pip says:", *lines[-4:], "Does pip work here, and has this machine internet?"]),
        )
