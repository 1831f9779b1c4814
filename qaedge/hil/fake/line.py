"""The line between a host and the agent of a fake board: two streams in memory that can be cut, and beats.

A beat is due by the board's clock while it works, and by ours while it waits for us: its own stands still then.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import msgspec

from qaedge.hil import frames
from qaedge.hil.fake.board import Board

Frame = tuple[int, bytes]


class Gone(Exception):
    """The host closed its end, or ended the agent."""


class Cancelled(Exception):
    """The host does not want the rest of the chunk."""


class FrameError(Exception):
    """What the host sent is no frame: the agent says so and ends."""


class Line:
    """What was sent each way and not read yet, and in which way the line has ended."""

    def __init__(self) -> None:
        """Nothing was sent."""
        self.changed = threading.Condition()
        self.up, self.down, self.errors = bytearray(), bytearray(), bytearray()
        self.closed = self.killed = self.ended = self.cut = self.silent = False
        #: How the agent ended, where anybody could see it.
        self.status: int | None = None

    def tell(self) -> None:
        """Wake whoever waits; the caller holds `changed`."""
        self.changed.notify_all()

    def write(self, data: bytes) -> None:
        """Send from the agent; raise Gone where nobody is there."""
        with self.changed:
            if self.killed:
                raise Gone
            self.down += data
            self.tell()

    def hear(self, timeout_s: float) -> bytes:
        """Return what the host has sent; b"" where nothing came in time; raise Gone where nothing will."""
        with self.changed:
            self.changed.wait_for(lambda: self.up or self.closed or self.killed, timeout_s)
            if self.killed or (self.closed and not self.up):
                raise Gone
            data = bytes(self.up)
            self.up.clear()
            return data

    def end(self, status: int | None, complaint: str = "") -> None:
        """Say that the agent has ended."""
        with self.changed:
            self.errors += complaint.encode()
            self.status = status
            self.ended = True
            self.tell()

    def break_off(self, silent: bool = False) -> None:
        """Break the connection; or, silent, let it stand while nobody answers, until the host gives up (Gone)."""
        with self.changed:
            self.silent, self.cut = silent, not silent
            self.tell()
            if silent:
                self.changed.wait_for(lambda: self.closed or self.killed)
        raise Gone


class Link:
    """Frames over a line, on the board's clock."""

    def __init__(self, line: Line, board: Board) -> None:
        """No heartbeat until `heartbeat_s` is set."""
        self.line = line
        self.heartbeat_s: float | None = None
        self._board = board
        self._beat_at_s = 0.0
        self._buffer = bytearray()
        self._frames: deque[Frame] = deque()

    def send(self, kind: str, /, **values: Any) -> None:
        """Send one message."""
        self.line.write(frames.pack({"type": kind, **values}))

    def receive(self) -> Frame:
        """Wait for the host's next frame."""
        while not self._frames:
            data = self.line.hear(self.heartbeat_s or 3600.0)
            if data:
                self._split(data)
            elif self.heartbeat_s is not None:
                self.send("heartbeat")
        return self._frames.popleft()

    def beat_from_now(self, heartbeat_s: float) -> None:
        """Beat from here on."""
        self.heartbeat_s, self._beat_at_s = heartbeat_s, self._board.now_s

    def spend(self, seconds: float) -> None:
        """Wait on the board's clock; raises as `catch_up`."""
        self._board.spend(seconds)
        self.catch_up(seconds)

    def catch_up(self, seconds: float) -> None:
        """Beat as often as was due in the time that has just passed; raise Cancelled where the host said so.

        Where the script gives the clock a speed, this takes as long as that.
        """
        while self.heartbeat_s is not None and self._board.now_s >= self._beat_at_s + self.heartbeat_s:
            self._beat_at_s += self.heartbeat_s
            self.send("heartbeat")
        speed = self._board.script.speed
        self._split(self.line.hear(seconds / speed if speed else 0.0))
        for frame in self._frames:
            if frame[0] == frames.JSON and unpack(frame)["type"] == "cancel":
                self._frames.remove(frame)
                raise Cancelled

    def _split(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= frames.HEADER.size:
            length, kind = frames.HEADER.unpack_from(self._buffer)
            if length > frames.LIMITS.get(kind, -1):
                raise FrameError(f"a frame of type {kind} and {length} bytes")
            end = frames.HEADER.size + length
            if len(self._buffer) < end:
                return
            frame = kind, bytes(self._buffer[frames.HEADER.size : end])
            del self._buffer[:end]
            if frame != (frames.JSON, b'{"type":"alive"}'):
                self._frames.append(frame)


def unpack(frame: Frame) -> dict[str, Any]:
    """Return the message in a frame; raise FrameError where there is none."""
    kind, payload = frame
    if kind != frames.JSON:
        raise FrameError("raw bytes where a message was due")
    try:
        message = msgspec.json.decode(payload)
    except msgspec.DecodeError as error:
        raise FrameError(f"a message that is not JSON: {error}") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise FrameError("a message without a type")
    return message
