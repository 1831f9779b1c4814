"""Built engines, kept on the board: TensorRT takes seconds to minutes to build one.

A kept one also makes a rerun measure the same thing: TensorRT chooses by timing, and may choose
differently the next time. The folder belongs to the user alone, because an engine is code.
"""

import contextlib
import hashlib
import json
import os
import stat
from typing import List, Optional, Sequence

#: Below the user's home, folder by folder.
FOLDERS = (".cache", "qaedge", "engines")
#: What all engines together may take [bytes]; those that were not used for longest go first.
LIMIT = 1 << 30
_DIGEST = hashlib.sha256().digest_size


class Refused(Exception):
    """The folder is not one to load code from; the text says why."""


class Engines:
    """The folder, made where it is missing."""

    def __init__(self, home: str = "~") -> None:
        """Make the folder, or look whose it is; raise Refused where it is not the user's own."""
        self.folder = os.path.expanduser(home)
        before = os.umask(0o77)
        try:
            for number, name in enumerate(FOLDERS):
                self.folder = os.path.join(self.folder, name)
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self.folder, 0o700)
                if number:  # ~/.cache itself is shared by many programs, and may be a link
                    _check(self.folder)
        except OSError as error:
            raise Refused("%s cannot be made: %s" % (self.folder, error.strerror)) from None
        finally:
            os.umask(before)

    def read(self, key: str) -> Optional[bytes]:
        """Return a kept engine; None where there is none, or it is damaged."""
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return None
            data = file.read()
            os.utime(file.fileno())
        # TensorRT may crash on an engine that was cut short; it is never given one.
        if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
            return None
        return data[_DIGEST:]

    def write(self, key: str, engine: bytes) -> bool:
        """Keep an engine, all of it or nothing; False where there is no space: it can be built again."""
        part = "%s.%d.part" % (self._path(key), os.getpid())
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.write(hashlib.sha256(engine).digest() + engine)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self._path(key))
        except OSError:
            _remove(part)
            return False
        self._trim()
        return True

    def _path(self, key: str) -> str:
        return os.path.join(self.folder, key + ".engine")

    def _trim(self) -> None:
        """Remove the engines that were not used for longest, and what interrupted writers left."""
        found = []
        for name in os.listdir(self.folder):
            path = os.path.join(self.folder, name)
            try:
                status = os.lstat(path)
            except OSError:  # another agent was faster
                continue
            found.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= LIMIT:
                return
            _remove(path)
            total -= size


def key(contents: bytes, facts: Sequence[str]) -> str:
    """Return the name of what is built from a file under these facts: versions, the GPU, the precision."""
    parts: List[str] = [hashlib.sha256(contents).hexdigest(), *facts]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _check(folder: str) -> None:
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise Refused("%s is not a folder of the user's own: remove it" % folder)
    if status.st_mode & 0o77:
        os.chmod(folder, 0o700)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
