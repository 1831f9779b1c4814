"""The link to the host: frames in, frames out, and a heartbeat whenever the agent waits.

One thread does everything: a process that forks (child.py) must not have a second thread that may
hold a lock at that moment. The agent never computes for long, it waits, and waiting beats.
"""

import os
import select
import time
from collections import deque
from typing import Any, Deque, Optional

import frames

#: What the host sends to say that it lives: nothing to be answered.
_ALIVE = (frames.JSON, b'{"type":"alive"}')


class HostGone(Exception):
    """The host closed its end, died, or has been silent for too long."""


class Cancelled(Exception):
    """The host does not want the rest of the chunk."""


class Link:
    """Frames over two file descriptors."""

    def __init__(self, source: int, sink: int) -> None:
        """Read from `source`, write to `sink`; no heartbeat until `heartbeat_s` is set."""
        os.set_blocking(sink, False)  # or an agent would hang, and hold the board, where nobody reads any more
        self.source = source
        self.sink = sink
        self.heartbeat_s: Optional[float] = None
        #: How long the host may be silent [s]: a cable that was pulled closes nothing.
        self.patience_s: Optional[float] = None
        self._heard_at = time.monotonic()
        self._beat_at = time.monotonic()
        self._splitter = frames.Splitter()
        self._frames: Deque[frames.Frame] = deque()

    def send(self, kind: str, /, **values: Any) -> None:
        """Send one message; raise HostGone where nobody is there to read it."""
        values["type"] = kind
        data = memoryview(frames.pack_json(values))
        while data:
            try:
                data = data[os.write(self.sink, data) :]
            except BlockingIOError:
                self._wait_for_room()
            except OSError:
                raise HostGone() from None

    def receive(self) -> frames.Frame:
        """Wait for the host's next frame."""
        while not self._frames:
            self._wait(None, None)
        return self._frames.popleft()

    def wait(self, descriptor: Optional[int], until: float) -> bool:
        """Wait until `descriptor` can be read (True) or the monotonic time `until` has come (False).

        Raises HostGone, and Cancelled where the host sends that word; other frames are kept.
        """
        while True:
            if self._wait(descriptor, until):
                return True
            for frame in self._frames:
                if frame[0] == frames.JSON and frames.unpack_json(frame)["type"] == "cancel":
                    self._frames.remove(frame)
                    raise Cancelled()
            if time.monotonic() >= until:
                return False

    def pause(self, seconds: float) -> None:
        """Wait; raises as `wait`."""
        self.wait(None, time.monotonic() + seconds)

    def _wait(self, descriptor: Optional[int], until: Optional[float]) -> bool:
        """Wait once: for the host, for `descriptor`, or for the time of the next heartbeat."""
        poll = select.poll()
        poll.register(self.source, select.POLLIN)
        if descriptor is not None:
            poll.register(descriptor, select.POLLIN)
        times = [until] if until is not None else []
        if self.heartbeat_s is not None:
            times.append(self._beat_at + self.heartbeat_s)
        now = time.monotonic()
        timeout = max(0.0, min(times) - now) * 1000 + 1 if times else None
        ready = {found for found, _ in poll.poll(timeout)}
        now = time.monotonic()
        if self.heartbeat_s is not None and now >= self._beat_at + self.heartbeat_s:
            self._beat_at = now
            self.send("heartbeat")
        self._hear(self.source in ready, now)
        return descriptor in ready

    def _wait_for_room(self) -> None:
        """Wait until the sink takes more; hear the host meanwhile."""
        poll = select.poll()
        poll.register(self.sink, select.POLLOUT)
        poll.register(self.source, select.POLLIN)
        patience = None if self.patience_s is None else self._heard_at + self.patience_s - time.monotonic()
        ready = {found for found, _ in poll.poll(None if patience is None else max(0.0, patience) * 1000 + 1)}
        self._hear(self.source in ready, time.monotonic())

    def _hear(self, ready: bool, now: float) -> None:
        """Take in what the host has said, if it has; HostGone where it has been silent for too long, or is gone."""
        if ready:
            data = os.read(self.source, 1 << 18)
            if not data:
                raise HostGone()
            self._heard_at = now
            self._frames.extend(frame for frame in self._splitter.feed(data) if frame != _ALIVE)
        elif self.patience_s is not None and now > self._heard_at + self.patience_s:
            raise HostGone()
