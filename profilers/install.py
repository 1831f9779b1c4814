"""Setting up: what a board has, and a private environment with its runtimes there, whole or not at all.

An environment holds its own path in its files, so each is made where it stays, `~/.qaedge/venv-XXXX`,
and only when its runtimes have been imported there does the link `~/.qaedge/venv` point to it.
"""

import ctypes
import fcntl
import glob
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Dict, List, Optional, Sequence

from link import Link
from uploads import Uploads

PR_SET_PDEATHSIG = 1
#: How long one step may take [s]: an SD card is slow.
STEP_S = 1800.0
#: In an environment, what it was made from, and what was found in it.
MANIFEST = "qaedge.json"
_WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*[.]whl")
_VERSIONS = """
import importlib, json, sys
found = {}
for names in sys.argv[1:]:
    reasons = []
    for name in names.split("|"):  # one of them is enough
        try:
            importlib.import_module(name)
        except ImportError as error:
            reasons.append("%s: %s" % (name, error))
            continue
        package = name.split(".")[0]
        found[package] = str(getattr(sys.modules[package], "__version__", "unknown"))
        break
    else:
        raise ImportError("; ".join(reasons))
print(json.dumps(found))
"""


class CannotInstall(Exception):
    """Nothing was installed: `stage` is disk, python, pip, import or busy."""

    def __init__(self, stage: str, text: str) -> None:
        """Keep both."""
        super().__init__(text)
        self.stage = stage
        self.text = text


def home_folder(home: str = "~") -> str:
    """Return where qaedge keeps what stays on the board."""
    return os.path.join(os.path.expanduser(home), ".qaedge")


def base_python() -> str:
    """Return the Python that environments are made with: the one behind this one's own environment."""
    return str(getattr(sys, "_base_executable", "") or sys.executable)


def look(home: str = "~") -> Dict[str, Any]:
    """Return what setting up has to know: the C library, free disk, and the environment that is there."""
    libc, version = platform.libc_ver()
    folder = os.path.expanduser(home)
    return {
        "libc": libc,
        "libc_version": version,
        "base_python": base_python(),
        "home": folder,
        "home_free_bytes": _free(folder),
        "tmp": tempfile.gettempdir(),
        "tmp_free_bytes": _free(tempfile.gettempdir()),
        "route": _has_route(),
        "installed": _manifest(os.path.join(home_folder(home), "venv")),
    }


def run(
    link: Link, command: Sequence[str], hear: Callable[[str], None], text: str = "", timeout_s: float = STEP_S
) -> int:
    """Run a command, hand its lines to `hear` while the link beats, and return its exit status.

    It dies with the agent, and when the host goes. Its status is 124 where it takes too long.
    """
    ours, its = os.pipe()
    source = tempfile.TemporaryFile()  # noqa: SIM115 - closed below, when the child has its own
    source.write(text.encode())
    source.seek(0)
    environment = dict(os.environ, LC_ALL="C", PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    for name in ("PYTHONHOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    try:
        process = subprocess.Popen(
            list(command),
            stdin=source,
            stdout=its,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=_die_with_agent,
        )
    except OSError as error:
        os.close(ours)
        hear("%s: %s" % (command[0], error.strerror))
        return 127
    finally:
        os.close(its)
        source.close()
    until, rest, status = time.monotonic() + timeout_s, b"", 124
    try:
        while link.wait(ours, until):
            data = os.read(ours, 1 << 16)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines if data else [*lines, rest]:
                if line.strip():
                    hear(line.decode(errors="replace").rstrip()[:1000])
            if not data:
                status = process.wait()
                break
    finally:
        os.close(ours)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return status


class Install:
    """One installation, as a message of the host asks for it."""

    def __init__(self, link: Link, uploads: Uploads, message: Dict[str, Any], home: str = "~") -> None:
        """Take the order; nothing is done yet."""
        self._link = link
        self._uploads = uploads
        self._order = message
        self._base = home_folder(home)
        self._last: List[str] = []

    def make(self) -> Dict[str, Any]:
        """Make the environment and return what is in it; raise CannotInstall, and leave nothing, where it fails."""
        os.makedirs(self._base, mode=0o700, exist_ok=True)
        with open(os.path.join(self._base, "install.lock"), "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CannotInstall("busy", "somebody else is setting it up") from None
            needed, free = int(self._order["needed_bytes"]), _free(self._base)
            if free is not None and free < needed:
                raise CannotInstall("disk", "%d bytes free in %s, %d needed" % (free, self._base, needed))
            self._clear(but=self._current())
            folder = tempfile.mkdtemp(prefix="venv-", dir=self._base)
            try:
                found = self._fill(folder)
                self._switch(folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._clear(but=folder)
        return found

    def _fill(self, folder: str) -> Dict[str, Any]:
        options = ["--system-site-packages"] if self._order["system_site_packages"] else []
        self._step("python", [base_python(), "-I", "-m", "venv", "--without-pip", *options, folder])
        python = os.path.join(folder, "bin", "python")
        scratch = os.path.join(folder, "scratch")
        os.mkdir(scratch)
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = scratch  # the board's own may be in memory, and small
        try:
            wheels = [self._wheel(scratch, wheel["name"], wheel["sha256"]) for wheel in self._order["wheels"]]
            pip = self._wheel(scratch, self._order["pip"]["name"], self._order["pip"]["sha256"])
            what = ["--no-index", "--no-deps", *wheels]
            if not wheels:
                what = ["--only-binary=:all:", "--timeout=5", "--retries=0", *self._order["requirements"]]
            flags = ["--no-cache-dir", "--ignore-installed", "--no-warn-script-location", "--progress-bar=off"]
            if wheels or self._order["requirements"]:  # what comes with the system is seen, not installed
                self._step("pip", [python, "-I", os.path.join(pip, "pip"), "install", *flags, *what])
            self._step("import", [python, "-I", "-c", _VERSIONS, *self._order["imports"]])
            versions = json.loads(self._last[-1])
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before
        shutil.rmtree(scratch, ignore_errors=True)
        manifest = {"key": str(self._order["key"]), "versions": versions, "python": platform.python_version()}
        with open(os.path.join(folder, MANIFEST), "w") as file:
            json.dump(manifest, file)
        return {"versions": versions, "folder": folder}

    def _wheel(self, scratch: str, name: str, sha256: str) -> str:
        """Give a file that arrived under its hash the name that pip reads."""
        if not _WHEEL.fullmatch(name):
            raise CannotInstall("pip", "%r is no name of a wheel" % name[:80])
        path = os.path.join(scratch, name)
        try:
            shutil.move(self._uploads.path(sha256), path)
        except FileNotFoundError:
            raise CannotInstall("pip", "%s has not arrived" % name) from None
        return path

    def _step(self, stage: str, command: List[str]) -> None:
        self._last = []

        def hear(line: str) -> None:
            self._last = [*self._last[-19:], line]
            if stage != "import":
                self._link.send("progress", text=line)

        status = run(self._link, command, hear)
        if status:
            text = "\n".join(self._last[-6:]) or "nothing was said"
            raise CannotInstall(stage, ("exit status %d: %s" % (status, text))[:3000])

    def _current(self) -> str:
        return os.path.realpath(os.path.join(self._base, "venv"))

    def _switch(self, folder: str) -> None:
        """Let the name `venv` mean this environment, at once."""
        name = os.path.join(self._base, "venv")
        if os.path.isdir(name) and not os.path.islink(name):
            os.rename(name, "%s.before-%d" % (name, time.time()))  # somebody made it by hand: it is his
        new = name + ".new"
        if os.path.lexists(new):
            os.unlink(new)
        os.symlink(os.path.basename(folder), new)
        os.replace(new, name)

    def _clear(self, but: str) -> None:
        """Remove environments that nothing points to: earlier ones, and what an interrupted installation left."""
        for folder in glob.glob(os.path.join(self._base, "venv-*")):
            if os.path.realpath(folder) != os.path.realpath(but):
                shutil.rmtree(folder, ignore_errors=True)


def _manifest(venv: str) -> Dict[str, Any]:
    try:
        with open(os.path.join(venv, MANIFEST)) as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict) or not isinstance(found.get("versions"), dict):
        return {}
    return {"key": str(found.get("key", "")), **{name: str(text) for name, text in found["versions"].items()}}


def _free(folder: str) -> Optional[int]:
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize


def _has_route() -> bool:
    """Whether packets know a way out: without one there is no index to ask."""
    for path, column, default in (("/proc/net/route", 1, "00000000"), ("/proc/net/ipv6_route", 0, "0" * 32)):
        try:
            with open(path) as file:
                rows = [line.split() for line in file]
        except OSError:
            continue
        if any(len(row) > column and row[column] == default and row[-1] != "lo" for row in rows):
            return True
    return False


def _die_with_agent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
