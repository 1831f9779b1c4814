"""Cooling: waiting until the board is fit to measure on, and telling the host why nothing happens."""

import time
from typing import Any, Dict, List

import conditions
from link import Link
from sysfs import Readings

#: How often the board is looked at while it cools, and how often the host is told [s].
_LOOK_S, _TELL_S = 0.25, 1.0


class Cooling:
    """The waiting of one chunk: all of it together has a limit."""

    def __init__(self, link: Link, board: conditions.Board, settings: Dict[str, Any]) -> None:
        """Nothing was waited yet."""
        self._link = link
        self._board = board
        self._start_c = float(settings["temperature_start_c"])
        self._pause_c = float(settings["temperature_pause_c"])
        self._left_s = float(settings["cool_limit_s"])
        #: Whether measuring goes on although the board is too hot: the limit was reached.
        self.given_up = False

    def due(self, reading: Readings) -> bool:
        """Whether measuring has to pause."""
        hottest = conditions.temperature(reading)
        return hottest is not None and hottest >= self._pause_c

    def wait(self, reasons: List[str], least_s: float = 0.0) -> Readings:
        """Wait `least_s`, and until nothing holds the board back; return the last reading.

        Raises HostGone and Cancelled.
        """
        start = time.monotonic()
        told_at = start - _TELL_S
        while True:
            reading = self._board.read()
            hottest = conditions.temperature(reading)
            hot = hottest is not None and hottest > self._start_c
            now = time.monotonic()
            fit = not hot and not conditions.held_back(reading)
            if (fit and now >= start + least_s) or now >= start + max(self._left_s, least_s):
                self._left_s = max(0.0, self._left_s - (now - start))
                self.given_up = hot
                return reading
            if now >= told_at + _TELL_S:
                told_at = now
                why = sorted(set(reasons) | set(conditions.held_back(reading)) | ({"hot"} if hot else set()))
                self._link.send("cooling", reasons=why, temperature_c=hottest, waited_s=round(now - start, 3))
            self._link.pause(min(_LOOK_S, least_s - (now - start)) if fit else _LOOK_S)
