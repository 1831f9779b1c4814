"""Files on the board, named by their SHA-256: kept only when what arrived is what was sent."""

import contextlib
import hashlib
import os
import re
from typing import Any, List, Optional

_SHA256 = re.compile(r"[0-9a-f]{64}")
#: What must stay free on the board's disk beside the file itself [bytes].
SPARE = 1 << 24


class Refused(Exception):
    """A file that is not taken: `reason` is hash or disk."""

    def __init__(self, reason: str, text: str) -> None:
        """Keep both."""
        super().__init__(text)
        self.reason = reason
        self.text = text


class Uploads:
    """A folder of finished files, and at most one that is arriving (`HASH.part`)."""

    def __init__(self, folder: str) -> None:
        """Make the folder, if it is not there."""
        self._folder = folder
        os.makedirs(folder, exist_ok=True)
        self._sha256 = ""
        self._size = self._left = 0
        self._file: Any = None
        self._digest = hashlib.sha256()
        self._refused: Optional[Refused] = None

    def path(self, sha256: str) -> str:
        """Return where a file lies, or will lie."""
        if not _SHA256.fullmatch(sha256):
            raise Refused("hash", "%r is no SHA-256" % sha256[:80])
        return os.path.join(self._folder, sha256)

    def missing(self, hashes: List[str]) -> List[str]:
        """Return those of `hashes` that are not here."""
        return [sha256 for sha256 in hashes if not os.path.exists(self.path(sha256))]

    def begin(self, sha256: str, size: int) -> None:
        """Start to take a file; what is wrong with it, or with the disk, `finish` says."""
        path = self.path(sha256)
        self._discard()
        self._sha256, self._size, self._left = sha256, size, size
        self._digest, self._refused = hashlib.sha256(), None
        disk = os.statvfs(self._folder)
        free = disk.f_bavail * disk.f_frsize
        if free < size + SPARE:
            self._refused = Refused("disk", "%d bytes free in %s, %d needed" % (free, self._folder, size + SPARE))
        else:
            try:
                self._file = open(path + ".part", "wb")  # noqa: SIM115 - closed by finish
            except OSError as error:
                self._full(error)

    @property
    def arriving(self) -> bool:
        """Whether bytes of a file are due."""
        return self._left > 0

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        if len(data) > self._left:
            data, self._refused = data[: self._left], Refused("hash", "more bytes than announced")
        self._left -= len(data)
        self._digest.update(data)
        if self._file is not None:
            try:
                self._file.write(data)
            except OSError as error:
                self._full(error)
                self._discard()

    def finish(self) -> str:
        """Keep the file and return its hash; raise Refused, and keep nothing, where it is not what was sent."""
        if self._refused is None and self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                self._full(error)
        if self._refused is None and self._digest.hexdigest() != self._sha256:
            self._refused = Refused("hash", "what arrived has the hash %s" % self._digest.hexdigest())
        if self._refused is not None:
            self._discard()
            raise self._refused
        self._file = None
        os.rename(self.path(self._sha256) + ".part", self.path(self._sha256))
        return self._sha256

    def drop(self, hashes: List[str]) -> None:
        """Forget files; those that are not here are forgotten already."""
        for sha256 in hashes:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(sha256))

    def _full(self, error: OSError) -> None:
        self._refused = Refused("disk", "%s in %s, %d bytes needed" % (error.strerror, self._folder, self._size))

    def _discard(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
            os.unlink(self.path(self._sha256) + ".part")
