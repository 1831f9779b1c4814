"""The inbox of a session: every message of an agent in order, and what ended them.

Two threads read, so that neither stream of the agent ever blocks it. A silence that is too long is the end.
"""

from __future__ import annotations

import contextlib
import queue
import threading

from qaedge.errors import AgentFailed, AgentKilled, DeviceLost, MeasurementError, ProtocolError
from qaedge.hil import frames
from qaedge.hil.target import Remote

#: How much of what the device complains about is kept [bytes].
_ERROR_TAIL = 1 << 14


class Inbox:
    """Messages from one agent; once it has ended, each call says so."""

    def __init__(
        self, process: Remote, device: str, python: str, patience_s: float, patience_when_ready_s: float
    ) -> None:
        """Start to read.

        Args:
            process: the agent.
            device: what to call the device in messages.
            python: what runs the agent there, for messages.
            patience_s: how long it may be silent while it starts: the time of a slow import.
            patience_when_ready_s: how long it may be silent once it beats.
        """
        self._process = process
        self._device = device
        self._python = python
        self._queue: queue.Queue[frames.Message | MeasurementError | None] = queue.Queue()
        self._errors = bytearray()
        self._patience_s = patience_s
        self._patience_when_ready_s = patience_when_ready_s
        self._greeted = False
        self._threads = [
            threading.Thread(target=work, name=f"qaedge {work.__name__}", daemon=True)
            for work in (self._read, self._read_errors)
        ]
        for thread in self._threads:
            thread.start()

    def receive(self) -> frames.Message:
        """Return the next message, or raise what ended the session."""
        item = self._queue.get()
        if item is None:
            item = self._ended()
        elif isinstance(item, frames.Error):
            item = AgentFailed(f"The agent on {self._device} failed: {frames.clean(item.text)}.", self.complaint())
        if isinstance(item, MeasurementError):
            self._queue.put(item)
            raise item
        return item

    def join(self) -> None:
        """Wait until both threads have read to the end."""
        for thread in self._threads:
            thread.join(5.0)

    def complaint(self) -> str:
        """Return the last lines that the device wrote to its standard error."""
        lines = bytes(self._errors).decode(errors="replace").strip().splitlines()
        return "\n".join(f"The device says: {frames.clean(line)[:300]}" for line in lines[-5:])

    def _ended(self) -> MeasurementError:
        status = self._process.wait(2.0)
        how = "its connection ended" if status is None else f"exit status {status}"
        if status is not None and status > 128:
            how = f"signal {status - 128}"
        if not self._greeted:
            return AgentFailed(
                f"The agent could not start on {self._device} ({self._python}): {how}.",
                self.complaint() or "Is that a Python from 3.8, on Linux?",
            )
        return AgentKilled(
            f"The agent on {self._device} ended without a word: {how}.",
            self.complaint() or "What was finished is kept; run the same command again for the rest.",
        )

    def _read(self) -> None:
        splitter = frames.Splitter()
        first = b""
        try:
            while data := self._process.read(self._patience_s):
                first = first or data[:200]
                for message in splitter.feed(data):
                    self._greeted = self._greeted or isinstance(message, frames.Hello)
                    if isinstance(message, frames.Ready):  # from here on there are heartbeats
                        self._patience_s = self._patience_when_ready_s
                    if not isinstance(message, frames.Heartbeat):
                        self._queue.put(message)
        except TimeoutError:
            self._lose(
                f"nothing came for {self._patience_s:g} s",
                f"If it is only slow to answer, write a larger patience_s into devices/{self._device}.toml, "
                f"such as patience_s = {max(60.0, 2 * self._patience_s):g}.",
            )
            self._process.kill()
        except MeasurementError as error:
            self._queue.put(error if self._greeted else self._not_an_agent(first))
            self._process.kill()
        except OSError as error:
            self._lose(str(error) or type(error).__name__)
        else:
            self._queue.put(None)

    def _not_an_agent(self, first: bytes) -> MeasurementError:
        return ProtocolError(
            f"{self._device} answers, but not as an agent: {frames.clean(first.decode(errors='replace'))!r}.",
            "Does a login there print something (.bashrc), or run one command only (ForceCommand)? "
            "It must be silent where no terminal is.",
        )

    def _lose(self, why: str, more: str = "") -> None:
        hint = "Check its power and its cable. What was finished is kept; run the same command again."
        self._queue.put(DeviceLost(f"{self._device} is lost: {why}.", "\n".join(filter(None, (hint, more)))))

    def _read_errors(self) -> None:
        """Drain always, or a runtime that complains a lot would block; the end is kept."""
        with contextlib.suppress(OSError):
            while data := self._process.read_error():
                self._errors += data
                del self._errors[:-_ERROR_TAIL]
