"""A meter: an external power meter on the host, by a command that prints one JSON object per line (R16).

Each line is `{"watts": 3.21}`. What the command is, and how often it prints, is its owner's business;
a line counts for the moment when it arrives here.
"""

from __future__ import annotations

import contextlib
import shlex
import statistics
import subprocess
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Annotated

import msgspec

from qaedge.errors import MeasurementError
from qaedge.hil import frames

_PROTOCOL = 'It must print lines such as {"watts": 3.21}; docs/measuring.md describes it.'


class Line(msgspec.Struct, frozen=True):
    """One line of a meter."""

    watts: Annotated[float, msgspec.Meta(ge=0, lt=1e5)]


class Meter:
    """A running meter and what it has said; a context manager that ends it."""

    def __init__(self, command: Sequence[str], first_s: float = 10.0) -> None:
        """Start the command, and wait for its first line.

        Raises MeasurementError where it cannot be run, or says nothing that is power for `first_s`.
        """
        self._name = shlex.join(command)
        self._lines: list[tuple[float, float]] = []
        self._windows: dict[int | None, list[float]] = {}
        self._wrong = ""
        self._changed = threading.Condition()
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        except OSError as error:
            raise MeasurementError(f"Cannot run the meter {self._name}: {error.strerror}.", _PROTOCOL) from error
        self._thread = threading.Thread(target=self._read, name="qaedge meter", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: bool(self._lines or self._wrong), first_s)
            if not self._lines:
                wrong = self._wrong or f"it said nothing for {first_s:g} s"
        if not self._lines:
            self.close()
            raise MeasurementError(f"The meter {self._name} cannot be used: {wrong}.", _PROTOCOL)

    def __enter__(self) -> Meter:
        """Nothing more to do: it runs."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.close()

    def close(self) -> None:
        """End the command, and wait until it is gone."""
        self._process.terminate()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(2.0)
        with contextlib.suppress(OSError, ValueError):
            if self._process.stdout is not None:
                self._process.stdout.close()

    def mark(self, message: frames.Energy) -> None:
        """Note that a time of interest begins or ends now."""
        key = message.id if message.phase == "busy" else None
        now = time.monotonic()
        self._windows[key] = [now] if message.begins else [*self._windows.get(key, [])[:1], now]

    def values(self, candidate: int) -> dict[str, float]:
        """Return, of idle and busy, the mean `_w`, its standard error `_error_w` and how many lines, `_samples`.

        Raises MeasurementError where the meter said too little in either time.
        """
        found: dict[str, float] = {}
        for name, key in (("idle", None), ("busy", candidate)):
            watts = self._within(key)
            error = statistics.stdev(watts) / len(watts) ** 0.5
            found |= {f"{name}_w": statistics.fmean(watts), f"{name}_error_w": error, f"{name}_samples": len(watts)}
        return found

    def _within(self, key: int | None) -> list[float]:
        window = self._windows.get(key, [])
        with self._changed:
            found = [watts for at, watts in self._lines if len(window) == 2 and window[0] <= at <= window[1]]
            wrong = self._wrong
        if len(found) < 2:
            what = "while a candidate looped" if key is not None else "while the board was at rest"
            raise MeasurementError(
                f"The meter {self._name} said too little {what}{f': {wrong}' if wrong else ''}.", _PROTOCOL
            )
        return found

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for text in self._process.stdout:
                line = msgspec.json.decode(text, type=Line)
                with self._changed:
                    self._lines.append((time.monotonic(), line.watts))
                    self._changed.notify_all()
            wrong = f"it ended with exit status {self._process.wait()}"
        except (msgspec.DecodeError, msgspec.ValidationError):
            wrong = f"it said {frames.clean(text)[:80]!r}"
        except (OSError, ValueError) as error:
            wrong = str(error)
        with self._changed:
            self._wrong = wrong
            self._changed.notify_all()
