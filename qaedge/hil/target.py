"""Target: the only seam to hardware; LocalTarget is this machine."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from qaedge.errors import AgentFailed


class Remote(Protocol):
    """A command that runs on a target, with its three streams."""

    def write(self, data: bytes) -> None:
        """Write all of `data` to its input; raise OSError where nobody reads any more."""

    def read(self, timeout_s: float) -> bytes:
        """Return what it has written, at least a byte; b"" at the end; raise TimeoutError."""

    def read_error(self) -> bytes:
        """Return what it has complained about, at least a byte; b"" at the end."""

    def close_input(self) -> None:
        """Tell it that nothing more will come."""

    def wait(self, timeout_s: float) -> int | None:
        """Return its exit status (128 + n for signal n), or None where it still runs."""

    def kill(self) -> None:
        """End it now, whatever state it is in; nothing of it is left."""

    def close(self) -> None:
        """Close the streams, when it has ended and nobody reads them any more."""


class Target(Protocol):
    """A way to a machine: run a command there, put a file, get a file."""

    @property
    def name(self) -> str:
        """What to call it in messages."""

    @property
    def python(self) -> str:
        """The Python that has the runtimes there."""

    def run(self, command: Sequence[str]) -> Remote:
        """Start a command; raise MeasurementError where that cannot be done."""

    def run_python(self, code: str) -> Remote:
        """Start the Python that has the runtimes on a piece of code; raise MeasurementError."""

    def put(self, source: Path, destination: str) -> None:
        """Copy a file to the target."""

    def get(self, source: str, destination: Path) -> None:
        """Copy a file from the target."""

    def close(self) -> None:
        """End the connection."""


class LocalProcess:
    """A child process of this one, in a session of its own: Ctrl-C reaches us alone, and we end it in order."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it; raise OSError where there is no such program."""
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._input, self._output, self._error = self._process.stdin, self._process.stdout, self._process.stderr

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def write(self, data: bytes) -> None:
        """See Remote."""
        left = memoryview(data)
        while left:
            left = left[os.write(self._input.fileno(), left) :]

    def read(self, timeout_s: float) -> bytes:
        """See Remote."""
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            raise TimeoutError
        return os.read(self._output.fileno(), 1 << 18)

    def read_error(self) -> bytes:
        """See Remote."""
        return os.read(self._error.fileno(), 1 << 16)

    def close_input(self) -> None:
        """See Remote."""
        self._input.close()

    def wait(self, timeout_s: float) -> int | None:
        """See Remote."""
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        return 128 - status if status < 0 else status

    def kill(self) -> None:
        """See Remote. SIGTERM asks the guard, which ends its agent and removes the folder; SIGKILL if it does not."""
        for number, patience_s in ((signal.SIGTERM, 4.0), (signal.SIGKILL, 2.0)):
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
                self.wait(patience_s)

    def close(self) -> None:
        """See Remote."""
        for stream in (self._input, self._output, self._error):
            stream.close()


class LocalTarget:
    """This machine: commands are subprocesses, files are copied."""

    def __init__(self, python: str = sys.executable, environment: Mapping[str, str] | None = None) -> None:
        """Use this process's Python, or another one; `environment` is added to this process's own.

        The agent's private folder is made where `TMPDIR` says.
        """
        self.name = "local"
        self.python = python
        self._environment = {**os.environ, **(environment or {})}

    def run(self, command: Sequence[str]) -> LocalProcess:
        """Start a command; raise AgentFailed where there is no such program."""
        try:
            return LocalProcess(command, self._environment)
        except OSError as error:
            raise AgentFailed(
                f"Cannot run {command[0]}: {error.strerror}.", "Is that Python still installed?"
            ) from error

    def run_python(self, code: str) -> LocalProcess:
        """See Target."""
        return self.run([self.python, "-u", "-c", code])

    def put(self, source: Path, destination: str) -> None:
        """Copy a file."""
        shutil.copyfile(source, destination)

    def get(self, source: str, destination: Path) -> None:
        """Copy a file."""
        shutil.copyfile(source, destination)

    def close(self) -> None:
        """Nothing is held."""
