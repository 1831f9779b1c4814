"""A Raspberry Pi: its model, and what its firmware says of its supply and its clocks.

https://www.raspberrypi.com/documentation/computers/os.html#get_throttled: bits 0 to 3 hold now,
16 to 19 say that it happened since. The kernel's driver (drivers/firmware/raspberrypi.c and
drivers/hwmon/raspberrypi-hwmon.c of Raspberry Pi's Linux) clears the latter whenever it asks, and
answers from a cache where it is asked again within 150 ms. So this remembers what it has seen.
"""

import os
import re
import subprocess
import time
from typing import Callable, Optional, Tuple

from sysfs import Readings, ask, hwmons, number, paths, present, text

#: What a bit says, now or (16 higher) since.
BITS = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
NOW = 0xF
#: Never more often than this [s]; the driver's own cache is 0.15 s.
POLL_S = 0.2
#: Where firmware drivers of different kernels put the file: a Pi 4's and a Pi 5's /soc have different names.
PLACES = (
    "sys/bus/platform/drivers/raspberrypi-firmware/*/get_throttled",
    "sys/devices/platform/soc/soc:firmware/get_throttled",
    "sys/devices/platform/*firmware*/get_throttled",
    "sys/devices/platform/*/*firmware*/get_throttled",
)
TOOLS = ("usr/bin/vcgencmd", "opt/vc/bin/vcgencmd")


def model(root: str = "/") -> Optional[str]:
    """Return "Pi 4", "Pi 5" and so on; None on another board."""
    found = re.match(r"Raspberry (Pi \w+)", text(root, "proc/device-tree/model") or "")
    return found.group(1) if found else None


class Firmware:
    """The firmware's throttle bits, and how often each was seen in this session."""

    def __init__(self, root: str = "/", clock: Callable[[], float] = time.monotonic) -> None:
        """Ask nothing yet; `clock` is in seconds."""
        self._root = root
        self._clock = clock
        self._asked_at: Optional[float] = None
        self._bits: Optional[int] = None
        self._seen = 0
        self._counts = {name: 0 for name in BITS.values()}
        self._error = ""

    def read(self) -> Readings:
        """Return `throttle_bits` as last read, `throttle_seen` (all bits of the session) and `firmware_counts`.

        A count rises with each reading that shows something new: it holds now, or has happened
        since the reading before. Empty on a board without such firmware.
        """
        now = self._clock()
        if self._asked_at is None or now >= self._asked_at + POLL_S:
            self._asked_at = now
            self._ask()
        if self._bits is None:
            return {"errors": {"vcgencmd": self._error}} if self._error else {}
        return {"throttle_bits": self._bits, "throttle_seen": self._seen, "firmware_counts": dict(self._counts)}

    @property
    def wait_s(self) -> float:
        """How long until an answer is a new one [s]; 0 where nobody answers."""
        if self._asked_at is None or self._bits is None:
            return 0.0
        return max(0.0, self._asked_at + POLL_S - self._clock())

    def _ask(self) -> None:
        before = self._bits
        self._bits, clears = self._find()
        if self._bits is None:
            return
        since = self._bits >> 16 if before is not None else 0  # the first answer tells of before this session
        if not clears:
            since &= ~((before or 0) >> 16)  # nobody clears them: only what is new is news
        news = self._bits & NOW | since
        self._seen |= self._bits & NOW | news << 16
        for bit, name in BITS.items():
            self._counts[name] += news >> bit & 1

    def _find(self) -> Tuple[Optional[int], bool]:
        """Return the bits, and whether reading clears those of the past."""
        for place in PLACES:
            for path in paths(self._root, place):
                bits = number(self._root, path, 16)
                if bits is not None:
                    return bits, True
        # Kernels without the vendor's changes tell of the supply alone.
        for chip in hwmons(self._root, "rpi_volt"):
            alarm = number(self._root, chip + "/in0_lcrit_alarm")
            if alarm is not None and not self._tool():
                return (0x10001 if alarm else 0), True
        return self._ask_tool(), False

    def _tool(self) -> str:
        found = [os.path.join(self._root, path) for path in TOOLS]
        return next((path for path in found if os.access(path, os.X_OK)), "")

    def _ask_tool(self) -> Optional[int]:
        tool = self._tool()
        if not tool:
            return None
        try:
            said = ask([tool, "get_throttled"])
        except (OSError, subprocess.SubprocessError) as error:
            self._error = str(error)[:200]
            return None
        found = re.search(r"throttled=0x([0-9a-fA-F]{1,8})\b", said)
        self._error = "" if found else said[:200] or "it said nothing"
        return int(found.group(1), 16) if found else None


def facts(root: str = "/") -> Readings:
    """Return which Pi it is."""
    return present({"raspberry": model(root)})
