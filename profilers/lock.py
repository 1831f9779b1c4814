"""The lock on a board: one agent measures there, everybody else learns who it is."""

import contextlib
import fcntl
import json
import os
import pwd
import time
from typing import Any, Dict, Optional, Set

import marks


class Busy(Exception):
    """Somebody else holds the lock; `holder` says who, as far as can be told."""

    def __init__(self, holder: Dict[str, Any]) -> None:
        """Keep what is known of the holder."""
        super().__init__()
        self.holder = holder


class BoardLock:
    """An exclusive `flock`, which the kernel gives back when its holder dies, however it dies."""

    def __init__(self, folder: str = "") -> None:
        """Name the lock, in `folder` or where marks.py says; nothing is taken yet."""
        self.path = marks.place("qaedge.lock", folder)
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

    def peek(self, root: str = "/") -> Dict[str, Any]:
        """Return who holds the lock, without touching it; empty where it is free."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return {}
        try:
            names = _names(descriptor, root)
            with open(os.path.join(root, "proc/locks")) as file:
                taken = any(names & set(line.split()) for line in file if "FLOCK" in line)
            return dict(self._holder(descriptor) or {"user": "somebody"}) if taken else {}
        except OSError:
            return {}
        finally:
            os.close(descriptor)

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
            except PermissionError:  # somebody's who lets nobody look
                raise Busy({"user": self._owner()}) from None
            try:
                descriptor = os.open(
                    self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
                )
            except FileExistsError:
                continue
            os.fchmod(descriptor, 0o666)  # every user of the board takes the same lock
            return descriptor

    def _owner(self) -> str:
        try:
            return pwd.getpwuid(os.lstat(self.path).st_uid).pw_name
        except (OSError, KeyError):
            return "somebody"

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


def _names(descriptor: int, root: str) -> Set[str]:
    """Return how /proc/locks may name a file, "fe:00:4711": the device in hexadecimal, and the inode.

    The device is the file system's, which on btrfs and the like is not the one that `fstat` tells:
    where the kernel says which mount the file is on, that mount's counts, too.
    """
    status = os.fstat(descriptor)
    devices = {(os.major(status.st_dev), os.minor(status.st_dev))}
    try:
        with open(os.path.join(root, "proc/self/fdinfo/%d" % descriptor)) as file:
            mounts = [line.split()[1] for line in file if line.startswith("mnt_id:")]
        with open(os.path.join(root, "proc/self/mountinfo")) as file:
            for words in map(str.split, file):
                if words[0] in mounts:
                    major, _, minor = words[2].partition(":")
                    devices.add((int(major), int(minor)))
    except (OSError, ValueError, IndexError):
        pass  # not Linux, or an old one
    return {"%02x:%02x:%d" % (major, minor, status.st_ino) for major, minor in devices}
