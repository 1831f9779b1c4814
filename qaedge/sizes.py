"""The table of sizes: how large candidates and the teacher are as files, where nothing was measured on the device.

A latency table has sizes, too. This one needs no device to run anything: files are written, and their bytes counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from qaedge.errors import NotMeasured
from qaedge.space import SearchSpace
from qaedge.store import Store
from qaedge.tables import own_rows


class SizeRow(msgspec.Struct, frozen=True):
    """How large a file is; `layer_bits` as in `LatencyRow`."""

    key: str
    format: str
    form: str
    size_bytes: int
    layer_bits: tuple[int, ...] = ()


class SizeTable:
    """Sizes of files of one format, as a device wants them; the last row of a key counts."""

    def __init__(self, device: str, rows: Iterable[SizeRow], file_format: str = "onnx") -> None:
        """Index the rows of a format."""
        self.device, self.format = device, file_format
        self.rows = {row.key: row for row in rows if row.format == file_format}

    @staticmethod
    def store(path: Path) -> Store[SizeRow]:
        """The file form of this table."""
        return Store(path, SizeRow, "qaedge-size")

    def row(self, key: str) -> SizeRow:
        """Return a row; raise NotMeasured where there is none."""
        row = self.rows.get(key)
        if row is None:
            raise NotMeasured(f"The size of {key} as {self.format} is not known.", "Run: qaedge search --by size")
        return row

    def part_sizes(self, space: SearchSpace, is_float: bool) -> dict[str, float]:
        """Return by key that a block is its own file's bytes: no whole network was written that would tell better."""
        return {key: float(row.size_bytes) for key, row in self.rows.items()}

    def origin(self, space: SearchSpace, is_float: bool) -> tuple[SizeRow, list[SizeRow]]:
        """Return the rows of the whole teacher and of each of its own blocks, as `LatencyTable.origin`."""
        return own_rows(space, is_float, self.row)
