"""What any Linux tells of itself: processor, governors, clocks, temperatures, load, memory."""

import os
import platform
import re
from typing import Dict, Optional

from sysfs import Readings, number, paths, present, text

#: The kernel counts time in steps of 10 ms, https://docs.kernel.org/cpu-freq/cpufreq-stats.html
_STEPS_PER_S = 100


def facts(root: str = "/") -> Readings:
    """Return what stays while the board runs."""
    info = text(root, "proc/cpuinfo") or ""
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", info, re.MULTILINE)
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.*)$", info, re.MULTILINE)
    board = text(root, "proc/device-tree/model") or text(root, "sys/firmware/devicetree/base/model")
    cores = len(re.findall(r"^processor\s*:", info, re.MULTILINE)) or os.cpu_count() or 1
    return present(
        {
            "arch": platform.machine(),
            "cpu_model": model.group(1).strip() if model else None,
            "cpu_flags": sorted(flags.group(1).split()) if flags else [],
            "cores": cores,
            "kernel": platform.release(),
            "libc": _libc(root),
            "bits": 64 if platform.architecture()[0] == "64bit" else 32,
            "boot_id": text(root, "proc/sys/kernel/random/boot_id"),
            "memory_bytes": memory(root, "MemTotal"),
            "board": board,
        }
    )


def _libc(root: str) -> Optional[str]:
    """Return the C library and its version, such as "glibc 2.36", as wheels must fit it."""
    try:
        found = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError, AttributeError):
        found = None
    if found:
        return found
    return "musl" if paths(root, "lib/ld-musl-*") else None


def memory(root: str, key: str) -> Optional[int]:
    """Return a line of /proc/meminfo [bytes]."""
    found = re.search(r"^%s:\s*(\d+) kB" % key, text(root, "proc/meminfo") or "", re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def read(root: str = "/", folder: str = "") -> Readings:
    """Return what changes; `folder` is the one whose disk is asked for free space."""
    governor, clock, limits = {}, {}, {}
    for policy in paths(root, "sys/devices/system/cpu/cpufreq/policy*"):
        name = os.path.basename(policy)
        governor[name] = text(root, policy + "/scaling_governor")
        clock[name] = number(root, policy + "/scaling_cur_freq")
        low, high = number(root, policy + "/scaling_min_freq"), number(root, policy + "/scaling_max_freq")
        limits[name] = "%d-%d" % (low, high) if low is not None and high is not None else None
    load = (text(root, "proc/loadavg") or "").split()
    return present(
        {
            "boot_id": text(root, "proc/sys/kernel/random/boot_id"),
            "governor": present(governor),
            "clock_khz": present(clock),
            "clock_limits_khz": present(limits),
            "time_in_state_s": _time_in_state(root),
            "temperature_c": _temperatures(root),
            "load_1min": float(load[0]) if load else None,
            "memory_available_bytes": memory(root, "MemAvailable"),
            "disk_free_bytes": _disk_free(folder),
        }
    )


def _disk_free(folder: str) -> Optional[int]:
    if not folder:
        return None
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize


def _time_in_state(root: str) -> Dict[str, float]:
    """Return how long each clock was used since the start of the system, by policy and clock [s]."""
    found = {}
    for path in paths(root, "sys/devices/system/cpu/cpufreq/policy*/stats/time_in_state"):
        policy = path.split("/")[-3]
        for line in (text(root, path) or "").splitlines():
            words = line.split()
            if len(words) == 2 and all(word.isdigit() for word in words):
                found["%s %s kHz" % (policy, words[0])] = int(words[1]) / _STEPS_PER_S
    return found


def _temperatures(root: str) -> Dict[str, float]:
    found = {}
    for zone in paths(root, "sys/class/thermal/thermal_zone*"):
        value = number(root, zone + "/temp")
        # Zones of sensors that are off read 0, or far outside of what silicon survives.
        if value is not None and -50000 < value < 200000 and value != 0:
            name = text(root, zone + "/type") or "zone"
            found["%s %s" % (os.path.basename(zone), name)] = value / 1000.0
    return found


def throttle_counts(root: str = "/") -> Dict[str, int]:
    """Return how often an x86 core or package was too hot, by file."""
    found = {}
    for name in ("core_throttle_count", "package_throttle_count"):
        for path in paths(root, "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/" + name):
            value = number(root, path)
            if value is not None:
                found[path] = value
    return found
