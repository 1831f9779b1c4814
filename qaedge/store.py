"""Append-only JSON lines with a version: the form of every table on disk.

The first line is `{"format": NAME, "version": N}`. A row is one `write` and one `fsync`, so a
row that was reported finished survives a crash; a torn last line is dropped with a warning, and
the next append starts on a fresh line.

Format history: version 1, the first.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from qaedge.errors import InvalidFile
from qaedge.files import disk_errors

T = TypeVar("T")
VERSION = 1


class StoreWarning(UserWarning):
    """Something in a store was skipped; the message says what."""


class _Header(msgspec.Struct):
    format: str
    version: int


class Store(Generic[T]):
    """Rows of one struct type in one file; several processes may append."""

    def __init__(self, path: Path, kind: type[T], format_name: str) -> None:
        """Name the file; nothing is read or written yet."""
        self.path = path
        self.format_name = format_name
        self._decoder = msgspec.json.Decoder(kind)

    def rows(self) -> Iterator[T]:
        """Yield the rows in the order in which they were appended; none where there is no file.

        Raises InvalidFile where the header is another format's or a newer version's, or where a
        line before the last is broken.
        """
        if not self.path.exists():
            return
        lines = self.path.read_bytes().split(b"\n")
        torn = lines.pop()
        if torn:
            warnings.warn(f"{self.path}: the last line is incomplete and was dropped.", StoreWarning, stacklevel=2)
        if not lines:
            return
        self._check_header(lines[0])
        for number, line in enumerate(lines[1:], start=2):
            if not line:
                continue
            try:
                yield self._decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                # A crash in mid-append leaves a torn line that a later append has closed.
                if isinstance(error, msgspec.ValidationError):
                    raise InvalidFile(self.path, f"line {number}", f"a {self.format_name} row", str(error)) from error
                warnings.warn(f"{self.path}: line {number} is torn and was dropped.", StoreWarning, stacklevel=2)

    def append(self, row: T) -> None:
        """Append one row and return when it is on disk; raise DiskFull where it is not."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with disk_errors(self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                size = os.fstat(descriptor).st_size
                data = msgspec.json.encode(row) + b"\n"
                if size == 0:
                    data = msgspec.json.encode(_Header(self.format_name, VERSION)) + b"\n" + data
                elif os.pread(descriptor, 1, size - 1) != b"\n":
                    data = b"\n" + data
                written = os.write(descriptor, data)
                if written != len(data):
                    os.ftruncate(descriptor, size)
                    raise OSError(28, "No space left on device")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _check_header(self, line: bytes) -> None:
        try:
            header = msgspec.json.decode(line, type=_Header)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidFile(self.path, "line 1", f"the header of a {self.format_name} file", str(error)) from error
        if header.format != self.format_name:
            raise InvalidFile(self.path, "line 1", f"format {self.format_name}", header.format)
        if header.version > VERSION:
            raise InvalidFile(
                self.path, "line 1", f"version {VERSION} or older", f"version {header.version}", "Upgrade qaedge."
            )
