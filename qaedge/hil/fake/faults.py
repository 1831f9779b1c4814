"""Faults of a fake board: how its agent ends, and how it lies."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from qaedge.hil import frames
from qaedge.hil.fake.board import Board
from qaedge.hil.fake.line import Link
from qaedge.hil.fake.script import ENDS, Event

#: A lie about samples -> what stands in their place; NaN is no JSON, and is written all the same.
_VALUES = {"nan": float("nan"), "negative": -1_000_000, "zero": 0, "absurd": 10**16, "text": "fast"}
#: A lie that is no message -> the bytes.
_BYTES = {
    "raw frame": frames.HEADER.pack(4, frames.BYTES) + b"fake",
    "huge frame": frames.HEADER.pack(frames.LIMITS[frames.JSON] + 1, frames.JSON),
    "not json": frames.HEADER.pack(4, frames.JSON) + b"{'a'",
}


class Ended(Exception):
    """The agent is gone from one moment to the next; `status` is None where nobody can tell how."""

    def __init__(self, status: int | None, complaint: str = "") -> None:
        """Keep both."""
        super().__init__(complaint)
        self.status = status
        self.complaint = complaint


class Broken(Exception):
    """The agent cannot go on, says so, and ends."""


def suffer(event: Event | None, link: Link, board: Board) -> str:
    """End as an event says; return its word where it ends nothing, or none where there is no event."""
    if event is None:
        return ""
    if event.what in ENDS:
        _end(event, link, board)
    return event.what


def _end(event: Event, link: Link, board: Board) -> NoReturn:
    if event.what in ("hang", "cut"):
        link.line.break_off(silent=event.what == "hang")
    if event.what == "reboot":
        board.reboot()
        raise Ended(None)
    if event.what == "killed":
        raise Ended(128 + 9, "Killed\n")
    raise Broken(event.text)


def tell(link: Link, lie: str, kind: str, message: dict[str, Any]) -> None:
    """Send `samples` or `measured`, or what a liar sends in its place."""
    samples = kind == "samples"
    if (lie == "no samples" and samples) or (lie == "not measured" and not samples):
        return
    if samples and lie in _BYTES:
        link.line.write(_BYTES[lie])
    if samples and lie in _VALUES:
        message = {"type": kind, **message, "samples_ns": [_VALUES[lie]]}
        payload = json.dumps(message).encode()  # msgspec would write null for NaN
        link.line.write(frames.HEADER.pack(len(payload), frames.JSON) + payload)
        return
    if lie == "wrong id":
        message = {**message, "id": 10**6}
    if lie == "unknown doubt" and not samples:
        message = {**message, "doubts": ["haunted"]}
    if lie == "twice" and not samples:
        link.send(kind, **message)
    link.send("sample" if lie == "unknown type" and samples else kind, **message)
