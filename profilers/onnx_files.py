"""ONNX files written by hand, because boards have no `onnx` package: an empty network, and the reference model.

The numbers are the field numbers of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

import struct
from typing import List, Sequence, Tuple

#: numpy's word for a type -> its number in ONNX files.
CODES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
}
_FLOAT = CODES["float32"]
#: The reference model: (channels in, channels out, stride) of each 3x3 convolution; its input's height and width.
REFERENCE, REFERENCE_SIZE = ((16, 32, 1), (32, 32, 2), (32, 64, 1)), 60

Tensor = Tuple[str, str, Tuple[int, ...]]


def identity(tensors: Sequence[Tensor]) -> bytes:
    """Return a file with one Identity node per tensor (name, type, shape), `NAME` in and `NAME_` out."""
    graph = b""
    for name, dtype, shape in tensors:
        kind = _kind(CODES[dtype], shape)
        graph += _field(1, _node("Identity", [name], name + "_"))
        graph += _field(11, _text(1, name) + kind) + _field(12, _text(1, name + "_") + kind)
    return _file(graph + _text(2, "identity"))


def reference() -> bytes:
    """Return the reference model: three 3x3 convolutions in float, 41 million multiplications, always the same.

    Weights keep values near 1 from layer to layer: neither denormal numbers nor infinities, which
    some processors are slow at.
    """
    graph, source, size = b"", "x", REFERENCE_SIZE
    for number, (fan_in, fan_out, stride) in enumerate(REFERENCE):
        weight, convolved, sink = "w%d" % number, "c%d" % number, "y%d" % number
        graph += _field(1, _node("Conv", [source, weight], convolved, pads=[1] * 4, strides=[stride] * 2))
        graph += _field(1, _node("Relu", [convolved], sink))
        graph += _field(5, _constant(weight, (fan_out, fan_in, 3, 3)))
        source, size = sink, size // stride
    graph += _text(2, "reference")
    graph += _field(11, _text(1, "x") + _kind(_FLOAT, (1, REFERENCE[0][0], REFERENCE_SIZE, REFERENCE_SIZE)))
    graph += _field(12, _text(1, source) + _kind(_FLOAT, (1, REFERENCE[-1][1], size, size)))
    return _file(graph)


def _file(graph: bytes) -> bytes:
    return _number(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _number(2, 13))


def _node(kind: str, sources: List[str], sink: str, **integers: List[int]) -> bytes:
    attributes = b""
    for name, values in integers.items():
        numbers = b"".join(_number(8, value) for value in values)
        attributes += _field(5, _text(1, name) + numbers + _number(20, 7))
    return b"".join(_text(1, source) for source in sources) + _text(2, sink) + _text(4, kind) + attributes


def _kind(code: int, shape: Sequence[int]) -> bytes:
    dims = b"".join(_field(1, _number(1, size)) for size in shape)
    return _field(2, _field(1, _number(1, code) + _field(2, dims)))


def _constant(name: str, shape: Sequence[int]) -> bytes:
    """Return a tensor of fixed numbers that keep the next layer's near 1."""
    count, fan_in = 1, 1
    for axis, size in enumerate(shape):
        count *= size
        fan_in *= size if axis else 1
    dims = b"".join(_number(1, size) for size in shape)
    return dims + _number(2, _FLOAT) + _text(8, name) + _field(9, numbers(count, fan_in))


def numbers(count: int, fan_in: int) -> bytes:
    """Return so many fixed float numbers between -1 and 1, times what keeps the next layer's near 1."""
    scale = (6.0 / fan_in) ** 0.5
    period = [scale * ((step * 7919 + 11) % 1009 / 504.0 - 1.0) for step in range(1009)]
    return (struct.pack("<1009f", *period) * (count // 1009 + 1))[: 4 * count]


def _varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data += struct.pack("B", value & 127 | 128)
        value >>= 7
    return data + struct.pack("B", value)


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)
