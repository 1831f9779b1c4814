"""Append-only JSON lines with a version: the form of every table on disk.

The first line is `{"format": NAME, "version": N}`. A row is one `write` and one `fsync`, so a
row that was reported finished survives a crash; a torn line is dropped with a warning, and the
next append starts on a fresh line.

Format history: version 1, the first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from qaedge.errors import InvalidFile, MeasurementError, MissingFile
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

    def __init__(self, path: Path, kind: type[T], format_name: str, hint: str = "") -> None:
        """Name the file, and what to do where it is damaged; nothing is read or written yet."""
        self.path = path
        self.format_name = format_name
        self.hint = hint
        self._decoder = msgspec.json.Decoder(kind)

    def rows(self) -> Iterator[T]:
        """Yield the rows in the order in which they were appended; none where there is no file.

        Raises InvalidFile where the header is another format's or a newer version's, or where a
        row does not hold what it should.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise MissingFile(f"Cannot read {self.path}: {error.strerror}.") from error
        header, *lines = data.split(b"\n")
        if not lines:  # nothing, or a header that a crash has torn: no row was ever finished
            if not self._header().startswith(header):
                self._check_header(header)
            return
        self._check_header(header)
        for number, line in enumerate(lines, start=2):
            if not line:
                continue
            try:
                yield self._decoder.decode(line)
            except (msgspec.ValidationError, MeasurementError) as error:
                raise InvalidFile(
                    self.path, f"line {number}", f"a {self.format_name} row", str(error), self.hint
                ) from error
            except (msgspec.DecodeError, UnicodeDecodeError):
                # A crash in mid-append leaves a torn line; a later append closes it.
                warnings.warn(f"{self.path}: line {number} is incomplete and was dropped.", StoreWarning, stacklevel=2)

    def append(self, row: T) -> None:
        """Append one row and return when it is on disk.

        Raises DiskFull or CannotWrite where it is not, with the file as it was before; InvalidFile
        where the file is another format's; MeasurementError where the row holds a value, such as
        NaN, that could not be read back.
        """
        data = msgspec.json.encode(row) + b"\n"
        try:
            self._decoder.decode(data)
        except msgspec.DecodeError as error:
            raise MeasurementError(f"A row for {self.path} holds what is not a value: {error}.") from error
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # another process may append; two headers would not do
                size = self._end(descriptor)
                if size == 0:
                    data = self._header() + b"\n" + data
                elif os.pread(descriptor, 1, size - 1) != b"\n":
                    data = b"\n" + data
                try:
                    if os.write(descriptor, data) != len(data):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(descriptor)
                except OSError:
                    with contextlib.suppress(OSError):  # the first error tells more than this one would
                        os.ftruncate(descriptor, size)
                    raise
            finally:
                os.close(descriptor)

    def _header(self) -> bytes:
        return msgspec.json.encode(_Header(self.format_name, VERSION))

    def _end(self, descriptor: int) -> int:
        """Return the file's size; check its header first, and drop one that a crash has torn."""
        size = os.fstat(descriptor).st_size
        start = os.pread(descriptor, 4096, 0) if size else b""
        line, newline, _ = start.partition(b"\n")
        if size and not newline and self._header().startswith(line):
            os.ftruncate(descriptor, 0)
            return 0
        if size:
            self._check_header(line)
        return size

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
