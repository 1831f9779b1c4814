"""The lease on a board: somebody wants it for himself for a while, though no agent of his measures there.

A lock dies with its process; a lease is a file that says who and until when. It counts the board's
own time since it started, because a board's clock may be wrong; a reboot ends it.
"""

import contextlib
import fcntl
import json
import os
import pwd
import time
from typing import Any, Dict, Iterator

import marks

#: Nobody may have a board for longer [s].
LONGEST_S = 7 * 24 * 3600.0


class Lease:
    """The lease of the board."""

    def __init__(self, folder: str = "", root: str = "/") -> None:
        """Name it, in `folder` or where marks.py says; nothing is read yet."""
        self.path = marks.place("qaedge.lease", folder)
        try:
            with open(os.path.join(root, "proc/sys/kernel/random/boot_id")) as file:
                self._boot = file.read().strip()
        except OSError:
            self._boot = ""

    def holder(self) -> Dict[str, Any]:
        """Return who has the board (`owner`) and for how long yet (`left_s`); empty where nobody has."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return {}
        try:
            return self._read(descriptor)
        finally:
            os.close(descriptor)

    def take(self, owner: str, seconds: float) -> Dict[str, Any]:
        """Have the board for so long from now on; return who has it: another one, where he came first."""
        try:
            with self._opened(create=True) as descriptor:
                found = self._read(descriptor)
                if not found or found["owner"] == owner:
                    until = _now() + min(max(seconds, 0.0), LONGEST_S)
                    text = json.dumps({"owner": owner[:200], "until": until, "boot_id": self._boot}).encode()
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, text, 0)
                    found = self._read(descriptor)
                return found
        except PermissionError:
            return self._closed()

    def give_back(self, owner: str, force: bool) -> Dict[str, Any]:
        """End the lease; return who still has the board: somebody else, where it is not forced."""
        try:
            with contextlib.suppress(FileNotFoundError), self._opened(create=False) as descriptor:
                found = self._read(descriptor)
                if found and found["owner"] != owner and not force:
                    return found
                os.ftruncate(descriptor, 0)
                with contextlib.suppress(OSError):  # another user's file in a sticky folder stays, empty
                    os.unlink(self.path)
        except PermissionError:
            return self._closed()
        return {}

    def _closed(self) -> Dict[str, Any]:
        """Return whose file it is, where we may not open it: nobody knows what it says, so it is taken for a lease."""
        try:
            user = pwd.getpwuid(os.lstat(self.path).st_uid).pw_name
        except (OSError, KeyError):
            user = "somebody"
        return {"owner": ("%s, whose file %s we may not open," % (user, self.path))[:200]}

    @contextlib.contextmanager
    def _opened(self, create: bool) -> Iterator[int]:
        # As in lock.py: never O_CREAT on another user's file in a sticky folder, and no link is followed.
        while True:
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                if not create:
                    raise
                try:
                    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                    descriptor = os.open(self.path, flags, 0o600)
                except FileExistsError:
                    continue
                os.fchmod(descriptor, 0o666)  # every user of the board may see and end it
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)  # its holder removed the file between our open and our lock
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _read(self, descriptor: int) -> Dict[str, Any]:
        try:
            found = json.loads(os.pread(descriptor, 4096, 0).decode())
            left = float(found["until"]) - _now()
            owner, boot = str(found["owner"]), str(found["boot_id"])
        except (ValueError, KeyError, TypeError):
            return {}
        if boot != self._boot or not 0 < left <= LONGEST_S:
            return {}
        return {"owner": owner[:200], "left_s": round(left, 1)}


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
