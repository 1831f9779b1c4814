"""Conditions on the board: facts that stay, readings that change; what a board lacks is absent, never zero.

Everything is read below a root, so that tests can lay out another board's files. Readings that need
a vendor's tool or rail (Pi firmware's own poll, Jetson rails), and the reference model's drift (R14),
join `read` and `doubts`: those two are all that the rest of the agent knows of a board.
"""

import glob
import os
import platform
import re
from typing import Any, Dict, List, Optional

Readings = Dict[str, Any]

#: Raspberry Pi, https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
PI_NOW = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}


def _text(root: str, path: str) -> Optional[str]:
    try:
        with open(os.path.join(root, path), errors="replace") as file:
            return file.read().replace("\0", "").strip()
    except OSError:
        return None


def _number(root: str, path: str, base: int = 10) -> Optional[int]:
    text = _text(root, path)
    try:
        return None if text is None else int(text, base)
    except ValueError:
        return None


def _paths(root: str, pattern: str) -> List[str]:
    return sorted(os.path.relpath(path, root) for path in glob.glob(os.path.join(root, pattern)))


def _present(readings: Readings) -> Readings:
    return {key: value for key, value in readings.items() if value is not None and value != {} and value != ""}


def facts(root: str = "/") -> Readings:
    """Return what stays while the board runs: processor, cores, kernel, boot id, memory."""
    info = _text(root, "proc/cpuinfo") or ""
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", info, re.MULTILINE)
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.*)$", info, re.MULTILINE)
    board = _text(root, "proc/device-tree/model") or _text(root, "sys/firmware/devicetree/base/model")
    memory = _meminfo(root, "MemTotal")
    cores = len(re.findall(r"^processor\s*:", info, re.MULTILINE)) or os.cpu_count() or 1
    return _present(
        {
            "arch": platform.machine(),
            "cpu_model": model.group(1).strip() if model else None,
            "cpu_flags": sorted(flags.group(1).split()) if flags else [],
            "cores": cores,
            "kernel": platform.release(),
            "boot_id": _text(root, "proc/sys/kernel/random/boot_id"),
            "memory_bytes": memory,
            "board": board,
        }
    )


def _meminfo(root: str, key: str) -> Optional[int]:
    found = re.search(r"^%s:\s*(\d+) kB" % key, _text(root, "proc/meminfo") or "", re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def read(root: str = "/") -> Readings:
    """Return what changes: governor, clocks, temperatures, load, memory, throttling, boot id."""
    governor, clock, limits = {}, {}, {}
    for policy in _paths(root, "sys/devices/system/cpu/cpufreq/policy*"):
        name = os.path.basename(policy)
        governor[name] = _text(root, policy + "/scaling_governor")
        clock[name] = _number(root, policy + "/scaling_cur_freq")
        low, high = _number(root, policy + "/scaling_min_freq"), _number(root, policy + "/scaling_max_freq")
        limits[name] = "%d-%d" % (low, high) if low is not None and high is not None else None
    load = (_text(root, "proc/loadavg") or "").split()
    return _present(
        {
            "boot_id": _text(root, "proc/sys/kernel/random/boot_id"),
            "governor": _present(governor),
            "clock_khz": _present(clock),
            "clock_limits_khz": _present(limits),
            "temperature_c": _temperatures(root),
            "load_1min": float(load[0]) if load else None,
            "memory_available_bytes": _meminfo(root, "MemAvailable"),
            "throttle_bits": _number(root, "sys/devices/platform/soc/soc:firmware/get_throttled", 16),
            "throttle_counts": _throttle_counts(root),
        }
    )


def _temperatures(root: str) -> Dict[str, float]:
    found = {}
    for zone in _paths(root, "sys/class/thermal/thermal_zone*"):
        value = _number(root, zone + "/temp")
        # Zones of sensors that are off read 0, or far outside of what silicon survives.
        if value is not None and -50000 < value < 200000 and value != 0:
            name = _text(root, zone + "/type") or "zone"
            found["%s %s" % (os.path.basename(zone), name)] = value / 1000.0
    return found


def _throttle_counts(root: str) -> Dict[str, int]:
    """Return counters that rise when clocks are cut: x86's, and the Jetson's over-current events."""
    patterns = (
        "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count",
        "sys/class/hwmon/hwmon*/oc[0-9]_event_cnt",
    )
    found = {}
    for pattern in patterns:
        for path in _paths(root, pattern):
            value = _number(root, path)
            if value is not None:
                found[path] = value
    return found


def doubts(before: Readings, after: Readings) -> List[str]:
    """Return reasons to distrust what was measured between two readings: "throttled", "changed"."""
    found = []
    bits = before.get("throttle_bits", 0) | after.get("throttle_bits", 0)
    counts = after.get("throttle_counts", {})
    risen = any(counts.get(key, value) > value for key, value in before.get("throttle_counts", {}).items())
    since = (after.get("throttle_bits", 0) & ~before.get("throttle_bits", 0)) >> 16
    if risen or since or any(bits >> bit & 1 for bit in PI_NOW):
        found.append("throttled")
    if any(before.get(key) != after.get(key) for key in ("boot_id", "governor", "clock_limits_khz")):
        found.append("changed")
    return found


def choose_cores(count: int, allowed: List[int], root: str = "/") -> List[int]:
    """Return `count` cores to stay on: the strongest, one per physical core first, the last ones first.

    Interrupts mostly land on the first core. Fewer where fewer are allowed.
    """
    taken_twice = set()
    for core in allowed:
        siblings = _text(root, "sys/devices/system/cpu/cpu%d/topology/thread_siblings_list" % core) or ""
        numbers = [int(number) for number in re.findall(r"\d+", siblings)]
        if numbers and "-" in siblings:
            numbers = list(range(numbers[0], numbers[-1] + 1))
        if any(other > core for other in numbers if other in allowed):
            taken_twice.add(core)

    def worth(core: int) -> Any:
        capacity = _number(root, "sys/devices/system/cpu/cpu%d/cpu_capacity" % core) or 0
        return core not in taken_twice, capacity, core

    return sorted(sorted(allowed, key=worth, reverse=True)[:count])
