"""TFLite files written by hand, because boards have no writer of them: an empty network, and the reference model.

A file is a flatbuffer (https://flatbuffers.dev/internals/): tables whose fields are found through a vtable,
and everything else behind what refers to it. The slots are the field numbers of
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
"""

import struct
from typing import Any, Dict, List, Sequence, Tuple

from onnx_files import REFERENCE, REFERENCE_SIZE, numbers

#: numpy's word for a type -> its number in TFLite files.
CODES = {
    "float32": 0,
    "float16": 1,
    "int32": 2,
    "uint8": 3,
    "int64": 4,
    "bool": 6,
    "int16": 7,
    "int8": 9,
    "float64": 10,
    "uint64": 12,
    "uint32": 15,
    "uint16": 16,
}
_FLOAT, _INT32 = CODES["float32"], CODES["int32"]
_CONV_2D, _RESHAPE = 3, 22
_CONV_2D_OPTIONS, _RESHAPE_OPTIONS = 1, 17
_RELU = 1

Tensor = Tuple[str, str, Tuple[int, ...]]
#: A field: how it is written, and what; the slot is its key.
Field = Tuple[str, Any]
Table = Dict[int, Field]


def identity(tensors: Sequence[Tensor]) -> bytes:
    """Return a file with one RESHAPE to the same shape per tensor (name, type, shape), `NAME` in and `NAME_` out."""
    graph = _Graph()
    for name, dtype, shape in tensors:
        source, sink = graph.tensor(name, CODES[dtype], shape), graph.tensor(name + "_", CODES[dtype], shape)
        wanted = graph.tensor(name + "_shape", _INT32, (len(shape),), struct.pack("<%di" % len(shape), *shape))
        graph.operator(_RESHAPE, [source, wanted], sink, _RESHAPE_OPTIONS, {0: ("int32s", shape)})
        graph.inputs.append(source)
        graph.outputs.append(sink)
    return graph.file("identity")


def reference() -> bytes:
    """Return the reference model: three 3x3 convolutions in float, 41 million multiplications, always the same.

    It is the work of the ONNX one (see `onnx_files.reference`), with channels last, as this runtime has them.
    """
    graph, size = _Graph(), REFERENCE_SIZE
    source = graph.tensor("x", _FLOAT, (1, size, size, REFERENCE[0][0]))
    graph.inputs.append(source)
    for number, (fan_in, fan_out, stride) in enumerate(REFERENCE):
        size //= stride
        weight = graph.tensor(
            "w%d" % number, _FLOAT, (fan_out, 3, 3, fan_in), numbers(9 * fan_in * fan_out, 9 * fan_in)
        )
        bias = graph.tensor("b%d" % number, _FLOAT, (fan_out,), bytes(4 * fan_out))
        sink = graph.tensor("y%d" % number, _FLOAT, (1, size, size, fan_out))
        options = {1: ("int32", stride), 2: ("int32", stride), 3: ("int8", _RELU)}  # padding: SAME, the default
        graph.operator(_CONV_2D, [source, weight, bias], sink, _CONV_2D_OPTIONS, options)
        source = sink
    graph.outputs.append(source)
    return graph.file("reference")


class _Graph:
    """A network as it grows: tensors and operators refer to each other by number."""

    def __init__(self) -> None:
        self.inputs: List[int] = []
        self.outputs: List[int] = []
        self._tensors: List[Table] = []
        self._operators: List[Table] = []
        self._codes: List[int] = []
        # The first buffer is empty: that of everything that is computed.
        self._buffers: List[Table] = [{}]

    def tensor(self, name: str, code: int, shape: Sequence[int], data: bytes = b"") -> int:
        """Add a tensor, with `data` a constant one, and return its number."""
        buffer = 0
        if data:
            buffer = len(self._buffers)
            self._buffers.append({0: ("data", data)})
        fields = {0: ("int32s", shape), 1: ("int8", code), 2: ("uint32", buffer), 3: ("text", name), 8: ("bool", 1)}
        self._tensors.append(fields)
        return len(self._tensors) - 1

    def operator(self, code: int, sources: Sequence[int], sink: int, kind: int, options: Table) -> None:
        """Add an operator, whose options are a table of type `kind`."""
        if code not in self._codes:
            self._codes.append(code)
        self._operators.append(
            {
                0: ("uint32", self._codes.index(code)),
                1: ("int32s", sources),
                2: ("int32s", [sink]),
                3: ("uint8", kind),
                4: ("table", options),
            }
        )

    def file(self, name: str) -> bytes:
        """Return the file."""
        graph = {
            0: ("tables", self._tensors),
            1: ("int32s", self.inputs),
            2: ("int32s", self.outputs),
            3: ("tables", self._operators),
            4: ("text", name),
        }
        # The code stands twice: readers from before 2020 know the first place alone.
        codes = [{0: ("int8", code), 2: ("int32", 1), 3: ("int32", code)} for code in self._codes]
        model: Table = {
            0: ("uint32", 3),
            1: ("tables", codes),
            2: ("tables", [graph]),
            3: ("text", name),
            4: ("tables", self._buffers),
        }
        out = bytearray(struct.pack("<I4s", 0, b"TFL3"))
        struct.pack_into("<I", out, 0, _table(out, model))
        return bytes(out)


#: How a field that holds its value itself is written.
_SCALARS = {"int8": "<b", "uint8": "<B", "bool": "<B", "int32": "<i", "uint32": "<I", "float32": "<f"}


def _table(out: bytearray, fields: Table) -> int:
    """Append a table and all that it refers to; return where it begins."""
    sizes = {slot: struct.calcsize(_SCALARS.get(kind, "<I")) for slot, (kind, _) in fields.items()}
    places: Dict[int, int] = {}
    end = 4  # behind the distance to the vtable; the largest fields first, so that each is aligned
    for slot in sorted(fields, key=lambda slot: (-sizes[slot], slot)):
        places[slot] = end
        end += sizes[slot]
    count = max(fields) + 1 if fields else 0
    _align(out, 2)
    vtable = len(out)
    out += struct.pack("<HH%dH" % count, 4 + 2 * count, end, *[places.get(slot, 0) for slot in range(count)])
    _align(out, 4)
    start = len(out)
    out += bytes(end)
    struct.pack_into("<i", out, start, start - vtable)
    for slot, (kind, value) in fields.items():
        at = start + places[slot]
        if kind in _SCALARS:
            struct.pack_into(_SCALARS[kind], out, at, value)
        else:
            where = _behind(out, kind, value)
            struct.pack_into("<I", out, at, where - at)
    return start


def _behind(out: bytearray, kind: str, value: Any) -> int:
    """Append what a field refers to; return where it begins."""
    if kind == "table":
        return _table(out, value)
    if kind == "tables":
        start = _counted(out, len(value), 4)
        out += bytes(4 * len(value))
        for number, fields in enumerate(value):
            at = start + 4 + 4 * number
            struct.pack_into("<I", out, at, _table(out, fields) - at)
        return start
    if kind == "int32s":
        start = _counted(out, len(value), 4)
        out += struct.pack("<%di" % len(value), *value)
        return start
    data = value.encode() + b"\0" if kind == "text" else value
    # What a kernel reads begins at a multiple of 16.
    start = _counted(out, len(data) - (kind == "text"), 16 if kind == "data" else 4)
    out += data
    return start


def _counted(out: bytearray, count: int, alignment: int) -> int:
    """Append how many there are, so that what follows is aligned; return where that number begins."""
    out += bytes(-(len(out) + 4) % alignment)
    _align(out, 4)
    out += struct.pack("<I", count)
    return len(out) - 4


def _align(out: bytearray, alignment: int) -> None:
    out += bytes(-len(out) % alignment)
