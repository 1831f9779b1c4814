"""What an ONNX file says of itself, read from its bytes: no `onnx` package, and nothing is executed.

A tensor of an ONNX file may lie in another file, named by a path in it. Such files are refused: only
the file itself goes to a device, and a path from a stranger is not followed (CVE-2022-25882,
CVE-2024-27318 and others). Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Iterator

#: message -> field number -> the message in that field; all that can hold a tensor.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14


def external_tensor(data: bytes) -> str | None:
    """Return the name of a tensor that lies in another file, or None.

    Bytes that are no ONNX file hold none; what they are instead, the runtime says.
    """
    try:
        return _find(memoryview(data), "model", 0)
    except (IndexError, ValueError):
        return None


def _find(data: memoryview, kind: str, depth: int) -> str | None:
    if depth > 64:
        raise ValueError("nested beyond reason")
    if kind == "tensor":
        return _external_name(data)
    inside = _INSIDE[kind]
    for number, value in _fields(data):
        if number in inside and isinstance(value, memoryview):
            found = _find(value, inside[number], depth + 1)
            if found is not None:
                return found
    return None


def _external_name(data: memoryview) -> str | None:
    name, external = "", False
    for number, value in _fields(data):
        if number == _NAME and isinstance(value, memoryview):
            name = bytes(value).decode(errors="replace")
        elif number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value == 1):
            external = True
    return name if external else None


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield field number and value; raise IndexError or ValueError where the bytes are no message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
        elif wire == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("cut off")
            yield number, data[at : at + length]
            at += length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError("an unknown wire type")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number too long")
