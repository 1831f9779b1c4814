"""A sample file: a chain of small convolutions as ONNX, for trying a device out where nobody gives a file.

Written by hand, because measuring needs no `onnx` package. Field numbers: those of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import struct

CHANNELS, SIZE, OPERATORS = 16, 24, 40
_FLOAT = 1


def sample_onnx(operators: int = OPERATORS, channels: int = CHANNELS, size: int = SIZE) -> bytes:
    """Return a chain of so many equal 3x3 convolutions in float: each of them takes the same time."""
    graph = b""
    for number in range(operators):
        source, sink = f"y{number}" if number else "x", f"y{number + 1}"
        pads = _text(1, "pads") + b"".join(_number(8, 1) for _ in range(4)) + _number(20, 7)
        node = _text(1, source) + _text(1, f"w{number}") + _text(2, sink) + _text(4, "Conv") + _field(5, pads)
        graph += _field(1, node) + _field(5, _weight(f"w{number}", channels))
    shape = (1, channels, size, size)
    graph += _text(2, "sample") + _field(11, _value("x", shape)) + _field(12, _value(f"y{operators}", shape))
    return _number(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _number(2, 13))


def _weight(name: str, channels: int) -> bytes:
    count = channels * channels * 9
    # All layers have the same weights, which grow what passes by 1.43 each; 0.7 keeps hundreds of them near 1, since
    # denormal numbers would cost time.
    scale = 0.7 * (3.0 / (channels * 9)) ** 0.5
    values = [scale * ((step * 7919 + 11) % 1009 / 504.0 - 1.0) for step in range(count)]
    dims = b"".join(_number(1, size) for size in (channels, channels, 3, 3))
    return dims + _number(2, _FLOAT) + _text(8, name) + _field(9, struct.pack(f"<{count}f", *values))


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_field(1, _number(1, size)) for size in shape)
    return _text(1, name) + _field(2, _field(1, _number(1, _FLOAT) + _field(2, dims)))


def _varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data += bytes([value & 127 | 128])
        value >>= 7
    return data + bytes([value])


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)
