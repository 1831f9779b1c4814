"""A Jetson: its power mode, over-current events, power rails and the clock of its GPU.

https://docs.nvidia.com/jetson/archives/r36.4/DeveloperGuide/SD/PlatformPowerAndPerformance/JetsonOrinNanoSeriesJetsonOrinNxSeriesAndJetsonAgxOrinSeries.html
"""

import os
import re
import subprocess
from typing import Dict, List, Optional, Tuple

from sysfs import Readings, ask, hwmons, number, paths, present, text

TOOL = "usr/sbin/nvpmodel"
#: Rails through which all of a board's power goes; the first one of these that is there.
INPUTS = ("VDD_IN", "POM_5V_IN")
#: Where no single rail does, those that together do (AGX Orin; the others are behind these).
SUMMED = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")


class NoPower(Exception):
    """No way to read what the board takes; the text says where was looked."""


def power_mode(root: str = "/") -> Readings:
    """Return `power_mode`, such as "15W (0)", as `nvpmodel -q` tells, or the error in `errors`; empty without it.

    It prints "NV Power Mode: 15W" and, in the next line, the mode's number.
    """
    tool = os.path.join(root, TOOL)
    if not os.access(tool, os.X_OK):
        return {}
    try:
        said = ask([tool, "-q"])
    except (OSError, subprocess.SubprocessError) as error:
        return {"errors": {"nvpmodel": str(error)[:200]}}
    mode = mode_in(said)
    if mode is None:
        return {"errors": {"nvpmodel": said[:200] or "it said nothing"}}
    return {"power_mode": "%s (%d)" % mode}


def mode_in(said: str) -> Optional[Tuple[str, int]]:
    """Return the name and number of the mode in what `nvpmodel -q` says; None where it tells none."""
    found = re.search(r"^NV Power Mode:[ \t]*(\S[^\n]*?)[ \t]*\n[ \t]*(\d+)[ \t]*$", said, re.MULTILINE)
    if found is None or "not supported" in found.group(1).lower():
        return None
    return found.group(1), int(found.group(2))


def throttle_counts(root: str = "/") -> Dict[str, int]:
    """Return the over-current events since the start of the system, by file: each made the clocks fall."""
    found = {}
    for path in paths(root, "sys/class/hwmon/hwmon*/oc[1-3]_event_cnt"):
        value = number(root, path)
        if value is not None:
            found[path] = value
    return found


def rails(root: str = "/") -> Dict[str, float]:
    """Return what each rail of the INA3221 sensors carries [W], by its label."""
    found = {}
    for label, voltage, current in _channels(root):
        millivolts, milliamperes = number(root, voltage), number(root, current)
        if millivolts is not None and milliamperes is not None:
            found[label] = millivolts * milliamperes / 1e6
    return found


def _channels(root: str) -> List[Tuple[str, str, str]]:
    found = []
    for chip in hwmons(root, "ina3221"):
        for voltage in paths(root, chip + "/in*_input"):
            base = voltage[: -len("_input")]
            current = "%s/curr%s_input" % (chip, os.path.basename(base)[2:])
            if number(root, base + "_enable") == 0 or number(root, current) is None:
                continue  # switched off, or the sum of the shunts, which has no current of its own
            found.append((text(root, base + "_label") or "%s %s" % os.path.split(base), voltage, current))
    return found


class Power:
    """What the whole board takes: the one input rail, or those that add up to it."""

    def __init__(self, root: str = "/") -> None:
        """Find the rails; raise NoPower, which says where was looked, where there are none."""
        channels = {label: (voltage, current) for label, voltage, current in _channels(root)}
        single = next((label for label in INPUTS if label in channels), None)
        if single is not None:
            self.labels: Tuple[str, ...] = (single,)
        elif all(label in channels for label in SUMMED):
            self.labels = SUMMED
        else:
            raise NoPower(_looked(root, sorted(channels)))
        self._root = root
        self._files = [channels[label] for label in self.labels]

    def watts(self) -> Optional[float]:
        """Return what the board takes now [W]; None where a sensor gives no answer."""
        total = 0.0
        for voltage, current in self._files:
            millivolts, milliamperes = number(self._root, voltage), number(self._root, current)
            if millivolts is None or milliamperes is None:
                return None
            total += millivolts * milliamperes / 1e6
        return total


def _looked(root: str, labels: List[str]) -> str:
    if labels:
        return "its INA3221 rails (%s) are neither %s nor all of %s" % (
            ", ".join(labels),
            " nor ".join(INPUTS),
            ", ".join(SUMMED),
        )
    chips = [text(root, path + "/name") for path in paths(root, "sys/class/hwmon/hwmon*")]
    there = ", ".join(chip for chip in chips if chip) or "none"
    return "no /sys/class/hwmon/hwmon*/name says ina3221 (sensors there: %s)" % there


def _gpu(root: str) -> Readings:
    """Return the GPU's clock and its limits [kHz], https://docs.kernel.org/driver-api/devfreq.html (in Hz)."""
    for device in paths(root, "sys/class/devfreq/*"):
        if re.search(r"\.(gpu|ga10b|gv11b|gp10b)$", device):
            now, low, high = (number(root, "%s/%s_freq" % (device, name)) for name in ("cur", "min", "max"))
            return {
                "gpu_clock_khz": now // 1000 if now is not None else None,
                "gpu_clock_limits_khz": "%d-%d" % (low // 1000, high // 1000)
                if low is not None and high is not None
                else None,
            }
    return {}


def read(root: str = "/") -> Readings:
    """Return what changes: rails and the GPU's clock."""
    return present({"rails_w": rails(root), **_gpu(root)})
