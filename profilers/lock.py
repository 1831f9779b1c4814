"""The lock on a board: one agent measures there, everybody else learns who it is."""

import contextlib
import fcntl
import json
import os
import re
import tempfile
import time
from typing import Any, Dict, Optional


class Busy(Exception):
    """Somebody else holds the lock; `holder` says who, as far as can be told."""

    def __init__(self, holder: Dict[str, Any]) -> None:
        """Keep what is known of the holder."""
        super().__init__()
        self.holder = holder


class BoardLock:
    """An exclusive `flock`, which the kernel gives back when its holder dies, however it dies."""

    def __init__(self, device: str, folder: Optional[str] = None) -> None:
        """Name the lock; nothing is taken yet."""
        name = "qaedge-%s.lock" % re.sub(r"[^A-Za-z0-9_.-]", "_", device)
        self.path = os.path.join(folder or tempfile.gettempdir(), name)
        self._descriptor: Optional[int] = None

    def take(self, holder: Dict[str, Any]) -> None:
        """Take the lock and write down who has it; raise Busy where it is taken."""
        while True:
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                found = self._holder(descriptor)
                os.close(descriptor)
                raise Busy(found) from None
            if self._is_current(descriptor):
                break
            os.close(descriptor)  # its holder removed the file between our open and our lock
        self._descriptor = descriptor
        text = json.dumps(dict(holder, pid=os.getpid(), since=int(time.time()))).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text, 0)

    def release(self) -> None:
        """Give the lock back and leave no file."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # another user's file in a sticky folder stays, unlocked
                os.unlink(self.path)
            os.close(self._descriptor)
            self._descriptor = None

    def forget(self) -> None:
        """Close this process's copy, in a forked child: the lock is the agent's alone."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        # Not O_CREAT on a file that exists: the kernel's protected_regular refuses that for other
        # users' files in a sticky folder. No link is followed.
        while True:
            try:
                return os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                pass
            try:
                descriptor = os.open(
                    self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
                )
            except FileExistsError:
                continue
            os.fchmod(descriptor, 0o666)  # every user of the board takes the same lock
            return descriptor

    def _is_current(self, descriptor: int) -> bool:
        try:
            mine, there = os.fstat(descriptor), os.stat(self.path)
        except FileNotFoundError:
            return False
        return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)

    @staticmethod
    def _holder(descriptor: int) -> Dict[str, Any]:
        try:
            found = json.loads(os.pread(descriptor, 4096, 0).decode())
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}
