"""Frames: four bytes of length, one byte of type, then JSON or raw bytes (docs/agent-protocol.md)."""

import json
import struct
from typing import Any, Dict, List, Tuple

HEADER = struct.Struct(">IB")  # length of what follows, type
JSON, BYTES = ord("J"), ord("B")
LIMITS = {JSON: 1 << 20, BYTES: 1 << 16}

Frame = Tuple[int, bytes]


class FrameError(Exception):
    """Bytes that are no frame: there is no way to find the next one."""


def pack(kind: int, payload: bytes) -> bytes:
    """Return one frame; raise FrameError where the payload is beyond its type's limit."""
    if len(payload) > LIMITS[kind]:
        raise FrameError("a frame of %d bytes, at most %d are allowed" % (len(payload), LIMITS[kind]))
    return HEADER.pack(len(payload), kind) + payload


def pack_json(message: Dict[str, Any]) -> bytes:
    """Return a JSON frame; NaN and infinity are refused (ValueError)."""
    return pack(JSON, json.dumps(message, allow_nan=False, separators=(",", ":")).encode())


def unpack_json(frame: Frame) -> Dict[str, Any]:
    """Return the object in a JSON frame; raise FrameError where there is none."""
    kind, payload = frame
    if kind != JSON:
        raise FrameError("raw bytes where a message was due")
    try:
        message = json.loads(payload.decode())
    except ValueError as error:
        raise FrameError("a message that is not JSON: %s" % error) from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise FrameError("a message without a type")
    return message


class Splitter:
    """Cuts a stream of bytes, however it arrives, into frames."""

    def __init__(self) -> None:
        """Start with nothing received."""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> List[Frame]:
        """Return the frames that `data` completes; raise FrameError where the stream is broken."""
        self._buffer += data
        frames = []
        start = 0
        while len(self._buffer) - start >= HEADER.size:
            length, kind = HEADER.unpack_from(self._buffer, start)
            if kind not in LIMITS:
                raise FrameError("an unknown frame type %d" % kind)
            if length > LIMITS[kind]:
                raise FrameError("a frame of %d bytes, at most %d are allowed" % (length, LIMITS[kind]))
            end = start + HEADER.size + length
            if len(self._buffer) < end:
                break
            frames.append((kind, bytes(self._buffer[start + HEADER.size : end])))
            start = end
        del self._buffer[:start]
        return frames
