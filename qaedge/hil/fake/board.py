"""A fake board: its clock, its heat, its noise, who holds it, and which events of its script are still to come.

It outlives the agents that run on it, as a board does. Its clock is simulated: time passes when
something is said to take time, and not otherwise.
"""

from __future__ import annotations

import hashlib
import math
import random
import threading
import uuid
from collections import Counter
from typing import Any

from qaedge.hil.fake.script import Event, File, Script

#: What a throttle bit is called in `firmware_counts`.
_BITS = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
#: What stands in each row that was made up, whatever the device is called.
VERSION, BOARD = "fake", "fake board"


class Board:
    """A board that follows a script; one agent at a time measures on it."""

    def __init__(self, name: str, script: Script) -> None:
        """Switch it on for the first time."""
        self.name = name
        self.script = script
        self.now_s = 0.0
        self.chunks = 0
        #: How many connections will still be refused, and how many begins find the lock taken.
        self.away = self.held = 0
        self.holder: dict[str, str] = {}
        self.lease: dict[str, str] = {}
        self._guard = threading.Lock()
        self._random = random.Random(script.seed)
        self._boots = 0
        self._heat_c = script.heat.ambient_c
        self._throttles = 0
        self._hot = False
        self._happened: set[int] = set()
        self._passed: Counter[str] = Counter()
        self._order: dict[str, int] = {}
        self._done: Counter[str] = Counter()

    @property
    def boot_id(self) -> str:
        """Another one after each reboot, and the same ones in each process."""
        digest = hashlib.sha256(f"{self.name} {self.script.seed} {self._boots}".encode()).digest()
        return str(uuid.UUID(bytes=digest[:16]))

    def reboot(self) -> None:
        """Start anew; the clock goes on, because throttling is told by it."""
        self._boots += 1

    def take(self, holder: dict[str, str]) -> dict[str, str]:
        """Take the lock; return who has it instead, or nothing."""
        with self._guard:
            if self.held:
                self.held -= 1
                return {"user": "fake", "pid": "1", "holder": "an agent that was cut off"}
            if self.holder:
                return self.holder
            if self.lease and self.lease["owner"] != holder["holder"]:
                return self.lease
            self.holder = holder
            return {}

    def release(self) -> None:
        """Give the lock back."""
        with self._guard:
            self.holder = {}

    def event(
        self, at: str, *, chunk: int | None = None, number: int | None = None, turn: int | None = None, sha256: str = ""
    ) -> Event | None:
        """Return what happens here and now, and never again; None where nothing does."""
        with self._guard:
            before = self._passed[at]
            self._passed[at] += 1
            for place, event in enumerate(self.script.event):
                here = (event.chunk in (None, chunk), event.round in (None, number), event.turn in (None, turn))
                if (
                    place not in self._happened
                    and event.at == at
                    and before >= event.after
                    and self.now_s >= event.at_s
                    and all(here)
                    and sha256.startswith(event.sha256)
                ):
                    self._happened.add(place)
                    self.away, self.held = self.away + event.away, self.held + event.held
                    return event
            return None

    def meet(self, sha256: str) -> None:
        """Hear of a file: the order of that counts for the script."""
        self._order.setdefault(sha256, len(self._order))

    def latency_s(self, sha256: str, size: int) -> float:
        """Return how long a run of a file takes, when nothing shakes [s]."""
        for file in self.script.file:
            if self._is(file, sha256) and file.latency_s is not None:
                return file.latency_s
        return self.script.base_s + self.script.per_byte_s * size

    def does(self, sha256: str) -> str:
        """Return what a file does now instead of running, or "run"; counts how often it did."""
        for file in self.script.file:
            if self._is(file, sha256) and file.does != "run" and (not file.times or self._done[sha256] < file.times):
                self._done[sha256] += 1
                return file.does
        return "run"

    def _is(self, file: File, sha256: str) -> bool:
        if file.sha256:
            return sha256.startswith(file.sha256)
        return self._order.get(sha256) == file.order

    def run(self, latency_s: float, repeats: int) -> tuple[int, int]:
        """Let so many back-to-back runs pass; return how long they take, and without a core for how long of it [ns]."""
        slow, burst = self._slowness()
        shaken = math.exp(self._random.gauss(0.0, self.script.noise.sigma))
        taken_s = latency_s * repeats * slow * burst * shaken
        self.spend(taken_s, busy=True)
        return max(1, round(taken_s * 1e9)), round(taken_s * (1.0 - 1.0 / burst) * 1e9)

    def spend(self, seconds: float, busy: bool = False) -> None:
        """Let time pass."""
        heat = self.script.heat
        towards = heat.ambient_c + (heat.rise_c if busy else 0.0)
        self._heat_c = towards + (self._heat_c - towards) * math.exp(-seconds / heat.time_s)
        self.now_s += seconds
        hot = heat.limit_c is not None and self._heat_c >= heat.limit_c
        self._throttles += hot and not self._hot
        self._hot = hot

    def _slowness(self) -> tuple[float, float]:
        """Return how many times as long everything takes now, and how many times of that are another process's."""
        noise = self.script.noise
        slow = 1.0 + noise.drift * math.sin(2 * math.pi * self.now_s / noise.drift_period_s)
        for window in self.script.throttle:
            if window.from_s <= self.now_s < window.to_s:
                slow *= window.factor
        if self._hot:
            slow *= self.script.heat.factor
        burst = noise.burst_every_s > 0 and self.now_s % noise.burst_every_s < noise.burst_s
        return slow, noise.burst_factor if burst else 1.0

    def facts(self) -> dict[str, Any]:
        """Return what stays while the board runs; each says that this is no board."""
        return {
            "arch": "fake",
            "cpu_model": "fake",
            "cpu_flags": [],
            "cores": self.script.cores,
            "kernel": "fake",
            "libc": "fake",
            "bits": 64,
            "boot_id": self.boot_id,
            "memory_bytes": self.script.memory_bytes,
            "board": BOARD,
            "no_power": "a fake board has none",
        }

    def read(self, used_bytes: int = 0) -> dict[str, Any]:
        """Return what changes, as conditions are read on a board; `used_bytes` are the agent's files."""
        now = [window for window in self.script.throttle if window.from_s <= self.now_s < window.to_s]
        since = [window for window in self.script.throttle if window.from_s <= self.now_s]
        bits = 4 if self._hot else 0
        for window in now:
            bits |= window.bits
        counts = {name: sum(window.bits >> bit & 1 for window in since) for bit, name in _BITS.items()}
        counts["throttled"] += self._throttles
        told = [window.temperature_c for window in now if window.temperature_c is not None]
        return {
            "boot_id": self.boot_id,
            "temperature_c": {"thermal_zone0 cpu-thermal": round(max(told, default=self._heat_c), 1)},
            "load_1min": 0.0,
            "memory_available_bytes": self.script.memory_bytes,
            "disk_free_bytes": self.script.disk_bytes - used_bytes,
            "throttle_bits": bits,
            "firmware_counts": counts,
        }
