"""Unpacking: an ONNX file with weights of 4 or 2 bits, as one of 8 bits with the same scales.

ONNX Runtime 1.32 computes with such weights in float, which is slow, or refuses them; 8-bit integers of the
same values go through its integer kernels. So they are unpacked when a file is loaded: it stays small where
it is kept. Nothing is executed, and no `onnx` package is needed. This file depends on nothing: it may be
copied beside whatever deploys such files.

The numbers are the field numbers of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from typing import Iterator, List, Optional, Tuple

#: ModelProto, GraphProto, TensorProto, OperatorSetIdProto: their fields that matter here.
IR_VERSION, GRAPH, OPSET_IMPORT = 1, 7, 8
INITIALIZER = 5
DIMS, DATA_TYPE, RAW_DATA = 1, 2, 9
OPSET_DOMAIN, OPSET_NUMBER = 1, 2

#: data type of a tensor -> bits of each of its integers.
FEW_BITS = {22: 4, 26: 2}
INT8 = 3
#: What a file without such tensors needs: every runtime since ONNX Runtime 1.18 has it.
PLAIN_IR_VERSION, PLAIN_OPSET = 10, 21


def unpacked(data: bytes) -> bytes:
    """Return an ONNX file with its packed weights unpacked to INT8; the same bytes where it has none.

    Bytes that are no ONNX file come back as they are: what is wrong with them, the runtime says.
    """
    try:
        return _model(data)
    except (IndexError, ValueError):
        return data


def _model(data: bytes) -> bytes:
    fields = list(_fields(data))
    graphs = [_graph(data[a:b]) for number, _, a, b, _ in fields if number == GRAPH]
    if not any(changed for _, changed in graphs):
        return data
    parts: List[bytes] = []
    for number, wire, begin, end, start in fields:
        if number == GRAPH:
            parts.append(_field(GRAPH, graphs.pop(0)[0]))
        elif number == IR_VERSION and wire == 0:
            parts.append(_key(IR_VERSION, 0) + _varint(min(_read(data, begin)[0], PLAIN_IR_VERSION)))
        elif number == OPSET_IMPORT:
            parts.append(_field(OPSET_IMPORT, _opset(data[begin:end])))
        else:
            parts.append(data[start:end])
    return b"".join(parts)


def _graph(data: bytes) -> Tuple[bytes, bool]:
    parts: List[bytes] = []
    changed = False
    for number, _, begin, end, start in _fields(data):
        tensor = _tensor(data[begin:end]) if number == INITIALIZER else None
        if tensor is None:
            parts.append(data[start:end])
        else:
            parts.append(_field(INITIALIZER, tensor))
            changed = True
    return b"".join(parts), changed


def _tensor(data: bytes) -> Optional[bytes]:
    """Return a packed tensor as INT8, or None where it is not packed."""
    fields = list(_fields(data))
    kind = next((_read(data, a)[0] for number, wire, a, _, _ in fields if number == DATA_TYPE and wire == 0), 0)
    if kind not in FEW_BITS:
        return None
    count = 1
    for number, wire, begin, end, _ in fields:
        if number == DIMS and wire == 0:
            count *= _read(data, begin)[0]
        elif number == DIMS:  # packed, as some writers have it
            at = begin
            while at < end:
                size, at = _read(data, at)
                count *= size
    parts: List[bytes] = []
    for number, _, begin, end, start in fields:
        if number == DATA_TYPE:
            parts.append(_key(DATA_TYPE, 0) + _varint(INT8))
        elif number == RAW_DATA:
            parts.append(_field(RAW_DATA, _integers(data[begin:end], FEW_BITS[kind], count)))
        else:
            parts.append(data[start:end])
    return b"".join(parts)


def _integers(packed: bytes, bits: int, count: int) -> bytes:
    """Return each integer as a byte of its own, by a table from a byte to what lies in it."""
    per_byte, mask, sign = 8 // bits, (1 << bits) - 1, 1 << (bits - 1)
    if len(packed) * per_byte < count:
        raise ValueError("cut off")
    table: List[bytes] = []
    for byte in range(256):
        values = [(byte >> (bits * place)) & mask for place in range(per_byte)]
        table.append(bytes((value - (1 << bits) if value & sign else value) & 255 for value in values))
    return b"".join([table[byte] for byte in packed])[:count]


def _opset(data: bytes) -> bytes:
    """Lower the version of ONNX's own operators; other domains stay as they are."""
    fields = list(_fields(data))
    if any(number == OPSET_DOMAIN and data[a:b] not in (b"", b"ai.onnx") for number, _, a, b, _ in fields):
        return data
    parts: List[bytes] = []
    for number, wire, begin, end, start in fields:
        if number == OPSET_NUMBER and wire == 0:
            parts.append(_key(OPSET_NUMBER, 0) + _varint(min(_read(data, begin)[0], PLAIN_OPSET)))
        else:
            parts.append(data[start:end])
    return b"".join(parts)


def _fields(data: bytes) -> Iterator[Tuple[int, int, int, int, int]]:
    """Yield number, wire type, where the value begins and ends, and where the field begins."""
    at = 0
    while at < len(data):
        start = at
        key, at = _read(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            begin = at
            _, at = _read(data, at)
        elif wire == 2:
            length, begin = _read(data, at)
            at = begin + length
        elif wire in (1, 5):
            begin = at
            at += 8 if wire == 1 else 4
        else:
            raise ValueError("an unknown wire type")
        if at > len(data):
            raise ValueError("cut off")
        yield number, wire, begin, at, start


def _read(data: bytes, at: int) -> Tuple[int, int]:
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


def _key(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    data.append(value)
    return bytes(data)


def _field(number: int, data: bytes) -> bytes:
    return _key(number, 2) + _varint(len(data)) + data
