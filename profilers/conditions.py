"""Conditions on the board: facts that stay, readings that change; what a board lacks is absent, never zero.

Everything is read below a root, so that tests can lay out another board's files. linux.py,
raspberry.py and jetson.py know what a kind of board tells; here it becomes one reading, and what
two readings say about the time between them.
"""

import re
from typing import Any, Dict, List, Optional

import jetson
import linux
import raspberry
from sysfs import Readings, number, text

#: Sensors of the chip itself; others are of batteries, radios, the room.
_SILICON = re.compile(r"cpu|soc|gpu|cv\d|tj|x86_pkg|coretemp|core|k10temp|junction", re.IGNORECASE)
#: What is the same before and after, or two states are mixed.
_STEADY = ("boot_id", "governor", "clock_limits_khz", "gpu_clock_limits_khz")


class Board:
    """The board that the agent runs on, or one that a test has laid out."""

    def __init__(self, root: str = "/", folder: str = "") -> None:
        """Read below `root`; `folder` is the one whose disk is asked for free space."""
        self._root = root
        self._folder = folder
        self._firmware = raspberry.Firmware(root)
        self.memory_bytes = linux.memory(root, "MemTotal") or 0

    def facts(self) -> Readings:
        """Return what stays while the board runs; a power mode needs a tool and a step of its own to change."""
        found = linux.facts(self._root)
        found.update(raspberry.facts(self._root))
        found.update({key: value for key, value in jetson.power_mode(self._root).items() if key != "errors"})
        try:
            found["power_rails"] = ", ".join(jetson.Power(self._root).labels)
        except jetson.NoPower as reason:
            found["no_power"] = str(reason)
        return found

    def read(self) -> Readings:
        """Return what changes: governors, clocks, temperatures, load, memory, disk, throttling, power."""
        found = linux.read(self._root, self._folder)
        found.update(jetson.read(self._root))
        found.update(self._firmware.read())
        counts = dict(linux.throttle_counts(self._root), **jetson.throttle_counts(self._root))
        if counts:
            found["throttle_counts"] = counts
        return found

    @property
    def wait_s(self) -> float:
        """How long until `read` says something new of throttling [s]."""
        return self._firmware.wait_s

    def read_all(self) -> Readings:
        """Return `read`, what cooling goes by, and what is too slow for each round: a Jetson's power mode."""
        found, mode = self.read(), jetson.power_mode(self._root)
        chip_c = temperature(found)
        if chip_c is not None:
            found["chip_c"] = chip_c
        errors = dict(found.get("errors", {}), **mode.pop("errors", {}))
        found.update(mode)
        if errors:
            found["errors"] = errors
        return found

    def power(self) -> jetson.Power:
        """Return what reads the whole board's power; raise jetson.NoPower where nothing does."""
        return jetson.Power(self._root)


def temperature(reading: Readings) -> Optional[float]:
    """Return the temperature of the chip's hottest part [degrees Celsius]; of anything, where no name says chip."""
    zones: Dict[str, float] = reading.get("temperature_c", {})
    chip = [value for name, value in zones.items() if _SILICON.search(name.partition(" ")[2])]
    return max(chip or zones.values(), default=None)


def held_back(reading: Readings) -> List[str]:
    """Return what the firmware says holds now: "throttled", "under-voltage"."""
    bits = int(reading.get("throttle_bits", 0)) & raspberry.NOW
    return (["throttled"] if bits & ~1 else []) + (["under-voltage"] if bits & 1 else [])


def taints(before: Readings, after: Readings) -> List[str]:
    """Return why nothing measured between two readings is good: "throttled", "under-voltage"."""
    found = set(held_back(before)) | set(held_back(after))
    risen = _risen(before.get("firmware_counts", {}), after.get("firmware_counts", {}))
    weak = raspberry.BITS[0]
    if weak in risen:
        found.add("under-voltage")
    if set(risen) - {weak} or _risen(before.get("throttle_counts", {}), after.get("throttle_counts", {})):
        found.add("throttled")
    return sorted(found)


def _risen(before: Dict[str, int], after: Dict[str, int]) -> List[str]:
    return [name for name, value in before.items() if after.get(name, value) > value]


def doubts(before: Readings, after: Readings) -> List[str]:
    """Return reasons to distrust what was measured between two readings, apart from `taints`: "changed"."""
    return ["changed"] if any(before.get(key) != after.get(key) for key in _STEADY) else []


def between(before: Readings, after: Readings) -> Readings:
    """Return what happened between two readings: time at each clock [s], and counters that rose."""
    found: Readings = {}
    for key in ("time_in_state_s", "throttle_counts", "firmware_counts"):
        old, new = before.get(key, {}), after.get(key, {})
        rises = {name: round(value - old[name], 3) for name, value in new.items() if value > old.get(name, value)}
        if rises:
            found[key] = rises
    return found


def told(reading: Readings) -> Readings:
    """Return a reading as it is stored: without what means something only as a difference (`between`)."""
    return {key: value for key, value in reading.items() if key != "time_in_state_s"}


def choose_cores(count: int, allowed: List[int], root: str = "/") -> List[int]:
    """Return `count` cores to stay on: the strongest, one per physical core first, the last ones first.

    Interrupts mostly land on the first core. Fewer where fewer are allowed.
    """
    taken_twice = set()
    for core in allowed:
        siblings = text(root, "sys/devices/system/cpu/cpu%d/topology/thread_siblings_list" % core) or ""
        numbers = [int(found) for found in re.findall(r"\d+", siblings)]
        if numbers and "-" in siblings:
            numbers = list(range(numbers[0], numbers[-1] + 1))
        if any(other > core for other in numbers if other in allowed):
            taken_twice.add(core)

    def worth(core: int) -> Any:
        capacity = number(root, "sys/devices/system/cpu/cpu%d/cpu_capacity" % core) or 0
        return core not in taken_twice, capacity, core

    return sorted(sorted(allowed, key=worth, reverse=True)[:count])
