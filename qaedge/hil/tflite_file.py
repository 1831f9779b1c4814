"""What a TFLite file says of itself, read from its bytes: no runtime, and nothing is executed.

A runtime follows every offset in the file without a look at its length, and a file that was cut off ends the
process (tflite-runtime), or in words that say nothing (LiteRT). So each offset is followed here first. Slots:
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs
"""

from __future__ import annotations

import struct

#: table -> slot -> what the field refers to: a table, "text", "[table]", or "[N]", a vector of items of N bytes.
_TABLES: dict[str, dict[int, str]] = {
    "model": {1: "[code]", 2: "[graph]", 3: "text", 4: "[buffer]", 5: "[4]", 6: "[metadata]", 7: "[signature]"},
    "code": {1: "text"},
    "graph": {0: "[tensor]", 1: "[4]", 2: "[4]", 3: "[operator]", 4: "text"},
    "tensor": {0: "[4]", 3: "text", 4: "quantization", 6: "any", 7: "[4]", 9: "[any]"},
    "quantization": {0: "[4]", 1: "[4]", 2: "[4]", 3: "[8]", 5: "any"},
    "operator": {1: "[4]", 2: "[4]", 4: "any", 5: "[1]", 7: "[1]", 8: "[4]", 12: "any"},
    "buffer": {0: "[1]"},
    "metadata": {0: "text"},
    "signature": {0: "[map]", 1: "[map]", 2: "text"},
    "map": {0: "text"},
    "any": {},
}
_EXTERNAL_BUFFERS = 9


class _Damaged(Exception):
    """The text says what does not fit."""


def refusal(data: bytes) -> str:
    """Return why a runtime must not get this file; empty where nothing is wrong with it."""
    if len(data) < 8 or data[4:8] != b"TFL3":
        begins = f"it begins with {data[:12]!r}" if data else "it is empty"
        return f"it is no TFLite file: {begins}, and one has 'TFL3' from its fifth byte on"
    try:
        return _Reader(data).look()
    except _Damaged as reason:
        return f"it is cut off or damaged: {reason} ({len(data)} bytes)"


class _Reader:
    """One file; each table in it is looked at once."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._seen: set[tuple[int, str]] = set()

    def look(self) -> str:
        root = self._offset(0, "its beginning")
        self._table(root, "model")
        fields = self._fields(root, "model")
        if _EXTERNAL_BUFFERS in fields and self._vector(self._offset(fields[_EXTERNAL_BUFFERS], "model"), 4, "model"):
            return "tensors lie in another file, and only the file itself goes to a device"
        buffers, codes = self._tables(fields, 4, "model"), self._tables(fields, 1, "model")
        for buffer in buffers:
            self._far_buffer(buffer)
        graphs = self._tables(fields, 2, "model")
        if not graphs:
            raise _Damaged("it holds no network")
        for graph in graphs:
            self._graph(graph, len(buffers), len(codes))
        return ""

    def _graph(self, graph: int, buffers: int, codes: int) -> None:
        """Hold the numbers by which parts of a graph refer to each other against how many there are."""
        fields = self._fields(graph, "graph")
        tensors, operators = self._tables(fields, 0, "graph"), self._tables(fields, 3, "graph")
        for tensor in tensors:
            buffer = self._number(self._fields(tensor, "tensor").get(2))
            self._below(buffer, max(1, buffers), "a tensor's buffer")  # the first is for those that have none
        for slot, what in ((1, "an input"), (2, "an output")):
            self._all_below(fields.get(slot), len(tensors), what)
        for operator in operators:
            own = self._fields(operator, "operator")
            self._below(self._number(own.get(0)), codes, "an operator's kind")
            for slot, what in ((1, "an operator's input"), (2, "an operator's output")):
                self._all_below(own.get(slot), len(tensors), what)

    def _far_buffer(self, buffer: int) -> None:
        """Look at a buffer that lies behind the tables, as in files above 2 GB."""
        fields = self._fields(buffer, "buffer")
        if 1 in fields and 2 in fields:
            offset, size = self._number(fields[1], "<Q"), self._number(fields[2], "<Q")
            if offset > 1 and offset + size > len(self._data):
                raise _Damaged(f"a buffer of {size} bytes would end at {offset + size}")

    def _table(self, at: int, kind: str) -> None:
        """Look at a table, and at everything that it refers to."""
        if (at, kind) in self._seen:
            return
        self._seen.add((at, kind))
        fields = self._fields(at, kind)
        for slot, what in _TABLES[kind].items():
            if slot not in fields:
                continue
            target = self._offset(fields[slot], kind)
            if what == "text":
                self._vector(target, 1, kind)
            elif what[0] != "[":
                self._table(target, what)
            elif what[1:-1].isdigit():
                self._vector(target, int(what[1:-1]), kind)
            else:
                for item in range(self._vector(target, 4, kind)):
                    self._table(self._offset(target + 4 + 4 * item, kind), what[1:-1])

    def _fields(self, at: int, kind: str) -> dict[int, int]:
        """Return where each field of a table lies."""
        vtable = at - self._number(at, "<i", kind)
        size, length = self._number(vtable, "<H", kind), self._number(vtable + 2, "<H", kind)
        if size < 4 or size % 2 or vtable + size > len(self._data) or at + length > len(self._data):
            raise _Damaged(f"a table ({kind}) at {at} is none")
        places = struct.unpack_from(f"<{(size - 4) // 2}H", self._data, vtable + 4)
        if any(place >= length for place in places if place):
            raise _Damaged(f"a table ({kind}) at {at} is none")
        return {slot: at + place for slot, place in enumerate(places) if place}

    def _tables(self, fields: dict[int, int], slot: int, kind: str) -> list[int]:
        """Return where the tables of a vector lie, which were looked at already."""
        if slot not in fields:
            return []
        start = self._offset(fields[slot], kind)
        return [self._offset(start + 4 + 4 * item, kind) for item in range(self._vector(start, 4, kind))]

    def _vector(self, at: int, size: int, kind: str) -> int:
        """Return how many items a vector has; raise _Damaged where they do not end within the file."""
        count = self._number(at, "<I", kind)
        if at + 4 + count * size > len(self._data):
            raise _Damaged(f"what a {kind} refers to would end at {at + 4 + count * size}")
        return count

    def _all_below(self, field: int | None, count: int, what: str) -> None:
        if field is None:
            return
        start = self._offset(field, what)
        for number in struct.unpack_from(f"<{self._vector(start, 4, what)}i", self._data, start + 4):
            self._below(number, count, what, least=-1)  # -1: an optional one that is not there

    def _below(self, number: int, count: int, what: str, least: int = 0) -> None:
        if not least <= number < count:
            raise _Damaged(f"{what} is number {number} of {count}")

    def _offset(self, at: int, kind: str) -> int:
        return at + self._number(at, "<I", kind)

    def _number(self, at: int | None, form: str = "<I", kind: str = "number") -> int:
        if at is None:
            return 0
        if at < 0 or at + struct.calcsize(form) > len(self._data):
            raise _Damaged(f"a {kind} would lie at {at}")
        return int(struct.unpack_from(form, self._data, at)[0])
