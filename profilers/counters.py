"""Counters of the processor: instructions and cycles of one process in user space, by `perf_event_open`.

https://man7.org/linux/man-pages/man2/perf_event_open.2.html. A kernel may refuse
(`kernel.perf_event_paranoid`), a virtual machine may have no counters: then there are none.
"""

import ctypes
import fcntl
import os
import platform
import struct
from typing import Dict, List, Optional, Tuple

#: (machine, bytes of a pointer) -> the call's number: 32-bit programs run on 64-bit kernels, too.
_CALLS = {
    ("x86_64", 8): 298,
    ("aarch64", 8): 241,
    ("armv7l", 4): 364,
    ("armv6l", 4): 364,
    ("armv8l", 4): 364,
    ("aarch64", 4): 364,
}
HARDWARE = 0
SOFTWARE = 1
#: What is counted: name -> (type, config).
EVENTS = {"instructions": (HARDWARE, 1), "cycles": (HARDWARE, 0)}
_DISABLED, _INHERIT, _NO_KERNEL, _NO_HYPERVISOR = 1 << 0, 1 << 1, 1 << 5, 1 << 6
_TIMES = 3  # read_format: time enabled and time running follow the value
_CLOSE_ON_EXEC = 8
_ENABLE, _DISABLE = 0x2400, 0x2401
_ATTRIBUTES = struct.Struct("=IIQQQQQIIQ")  # PERF_ATTR_SIZE_VER0
#: A counter that shared the processor's registers for more than this share of the time is no measurement.
_LEAST_SHARE = 0.9


def call_number(machine: str, pointer_bytes: int) -> Optional[int]:
    """Return the number of the system call; None on a machine that is not known here."""
    return _CALLS.get((machine, pointer_bytes))


class Counters:
    """Events of this thread, and of the threads that it starts from now on; stopped until `start`."""

    def __init__(self, events: Optional[Dict[str, Tuple[int, int]]] = None) -> None:
        """Open what the kernel allows; `missing` says why the others are not there."""
        self.missing: Dict[str, str] = {}
        self._open: List[Tuple[str, int]] = []
        self._before: Dict[str, Tuple[int, int, int]] = {}
        for name, (kind, config) in (EVENTS if events is None else events).items():
            try:
                self._open.append((name, _open(kind, config)))
            except OSError as error:
                self.missing[name] = error.strerror or str(error)

    def begin(self) -> None:
        """Set to nothing what `end` returns."""
        # Differences, because a reset leaves what threads that have ended have counted.
        self._before = {name: _read(descriptor) for name, descriptor in self._open}

    def start(self) -> None:
        """Count from here on."""
        for _, descriptor in self._open:
            fcntl.ioctl(descriptor, _ENABLE, 0)

    def stop(self) -> None:
        """Count no more, until the next `start`."""
        for _, descriptor in self._open:
            fcntl.ioctl(descriptor, _DISABLE, 0)

    def end(self) -> Dict[str, int]:
        """Return what was counted since `begin`; what was not counted nearly all the time is absent."""
        found = {}
        for name, descriptor in self._open:
            before, after = self._before[name], _read(descriptor)
            value, enabled, running = (new - old for new, old in zip(after, before))  # noqa: B905 - Python 3.8
            if value > 0 and running >= _LEAST_SHARE * enabled > 0:
                found[name] = value * enabled // running
        return found

    def close(self) -> None:
        """Give the descriptors back."""
        for _, descriptor in self._open:
            os.close(descriptor)
        self._open = []


def _open(kind: int, config: int) -> int:
    number = call_number(platform.machine(), struct.calcsize("P"))
    if number is None:
        raise OSError("no perf_event_open for %s here" % platform.machine())
    flags = _DISABLED | _INHERIT | _NO_KERNEL | _NO_HYPERVISOR
    attributes = _ATTRIBUTES.pack(kind, _ATTRIBUTES.size, config, 0, 0, _TIMES, flags, 0, 0, 0)
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    arguments = [ctypes.c_long(value) for value in (0, -1, -1, _CLOSE_ON_EXEC)]  # this thread, any core, no group
    descriptor = library.syscall(ctypes.c_long(number), attributes, *arguments)
    if descriptor < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(descriptor)


def _read(descriptor: int) -> Tuple[int, int, int]:
    """Return the value, and the time [ns] that it was wanted and really counted."""
    value, enabled, running = struct.unpack("=QQQ", os.read(descriptor, 24))
    return value, enabled, running
