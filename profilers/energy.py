"""Energy of an inference (R16): what the board takes while a candidate loops, without what it takes at rest.

Power is read here, from the board's own sensor, or by the host, from a meter at the supply; the
host is told when what begins and ends.
"""

import time
from typing import Any, Callable, Dict, List, Optional, Tuple

import conditions
from child import Child
from link import Link

Message = Dict[str, Any]


class Energy:
    """The energy part of one chunk: rest is measured once, before the first candidate."""

    def __init__(self, link: Link, board: conditions.Board, order: Message) -> None:
        """Find the sensor, where the board is to be its own meter; raises jetson.NoPower."""
        self._link = link
        self._settings = order["settings"]
        self._watts: Optional[Callable[[], Optional[float]]] = None
        if order["meter"] == "board":
            self._watts = board.power().watts
        self._rest: Optional[Message] = None

    def measure(self, entry: int, child: Child) -> Message:
        """Let a child loop; return seconds and runs, and of idle and busy `_w`, `_error_w` and `_samples`.

        With a meter at the host only seconds and runs. Raises child.Died, HostGone and Cancelled.
        """
        if self._rest is None:
            self._rest = self._idle()
        seconds = float(self._settings["energy_s"])
        self._link.send("energy", id=entry, phase="busy", begins=True)
        readings: List[Tuple[int, float]] = []
        deadline_s = seconds + float(self._settings["deadline_s"])
        answer = child.ask(
            self._link,
            {"type": "run", "seconds": seconds},
            deadline_s,
            between=lambda: self._sample(readings),
            every_s=float(self._settings["energy_interval_s"]),
        )
        self._link.send("energy", id=entry, phase="busy", begins=False)
        if answer["type"] != "ran":
            return answer
        found: Message = {"runs": answer["runs"], "seconds": answer["measuring_ns"] * 1e-9}
        if self._watts is not None:
            during = [watts for at, watts in readings if answer["start_ns"] <= at <= answer["end_ns"]]
            found.update(self._rest, **_summary("busy", during))
        return dict(found, type="ran", measuring_ns=answer["measuring_ns"])

    def _idle(self) -> Message:
        self._link.send("energy", id=None, phase="idle", begins=True)
        readings: List[Tuple[int, float]] = []
        until = time.monotonic() + float(self._settings["energy_idle_s"])
        while time.monotonic() < until:
            self._sample(readings)
            self._link.pause(float(self._settings["energy_interval_s"]))
        self._link.send("energy", id=None, phase="idle", begins=False)
        if self._watts is None:
            return {}
        return _summary("idle", [watts for _, watts in readings])

    def _sample(self, readings: List[Tuple[int, float]]) -> None:
        watts = self._watts() if self._watts is not None else None
        if watts is not None:
            readings.append((time.perf_counter_ns(), watts))


def _summary(name: str, watts: List[float]) -> Message:
    """Return mean, its standard error [W] and the number of readings; nothing of too few.

    The mean, not the median: energy adds up.
    """
    count = len(watts)
    if count < 2:
        return {}
    mean = sum(watts) / count
    spread = sum((value - mean) ** 2 for value in watts) / (count - 1)
    return {name + "_w": mean, name + "_error_w": (spread / count) ** 0.5, name + "_samples": count}
