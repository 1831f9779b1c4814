"""Files of the kernel: small texts and numbers below a root; what is not there, or makes no sense, is None.

And what a vendor's tool prints, where there is no file for it.
"""

import glob
import os
import subprocess
from typing import Any, Dict, List, Optional

Readings = Dict[str, Any]


def text(root: str, path: str) -> Optional[str]:
    """Return a file's text without padding; None where it cannot be read."""
    try:
        with open(os.path.join(root, path), errors="replace") as file:
            return file.read().replace("\0", "").strip()
    except OSError:
        return None


def number(root: str, path: str, base: int = 10) -> Optional[int]:
    """Return a file's whole number; None where there is none."""
    found = text(root, path)
    try:
        return None if found is None else int(found, base)
    except ValueError:
        return None


def paths(root: str, pattern: str) -> List[str]:
    """Return what matches a pattern, relative to the root, in order."""
    return sorted(os.path.relpath(path, root) for path in glob.glob(os.path.join(glob.escape(root), pattern)))


def present(readings: Readings) -> Readings:
    """Leave out what is absent or empty: a board that lacks something says nothing of it."""
    return {key: value for key, value in readings.items() if value is not None and value != {} and value != ""}


def hwmons(root: str, name: str) -> List[str]:
    """Return the sensor chips of a name, https://docs.kernel.org/hwmon/sysfs-interface.html."""
    return [path for path in paths(root, "sys/class/hwmon/hwmon*") if text(root, path + "/name") == name]


def ask(command: List[str], limit_s: float = 5.0) -> str:
    """Return what a program prints, errors and all; by its path and arguments, never through a shell.

    Raises OSError or subprocess.SubprocessError where it cannot be run or does not end.
    """
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit_s
    )
    return done.stdout.decode(errors="replace").strip()
