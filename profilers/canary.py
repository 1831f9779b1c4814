"""The canary: a short loop of fixed work beside each sample, which tells whether the core was its own then (R17).

What shares a core unseen, such as the other thread of the same core on a machine that others rent, too, slows this
loop as it slows a network; so does a clock that is low. A sample between two quick loops counts. What comes and goes
within a sample is not seen: the longer a sample, the less this tells.
"""

import itertools
import math
from typing import Any, Callable, Dict, Optional

Clock = Callable[[], int]
Settings = Dict[str, Any]
#: What the agent keeps of a canary from process to process: turns of the loop, the quickest reading [ns], and how much
#: time is left to spare [ns].
Known = Dict[str, float]

#: The first turns warm what the loop needs: a network has emptied the caches.
_WARM_SHARE = 4
#: How much slower the quickest reading is taken to be where a whole round saw none near it: clocks may have come down.
_YIELD = 1.02
#: At most this share of what a round may take goes to waiting.
_DEADLINE_SHARE = 0.25
#: Where nothing is known yet: readings that tell the length of the loop, and the turns that are tried first.
_FIRST, _FIRST_TURNS = 5, 64
#: How long is looked for what is quick, at most [s]; it is known for sure where this share of readings was not quick.
_LOOK_S, _SLOW_SHARE = 0.2, 0.1
_SEEN = 100


def beside(run: Any, settings: Settings, clock: Clock, known: Optional[Known] = None) -> "Optional[Canary]":
    """Return the canary for samples of `run`; None where none is wanted, or a GPU works, which shares no core."""
    if not settings["quiet_share"] or hasattr(run, "timed") or getattr(run, "on_gpu", False):
        return None
    return Canary(settings, clock, known)


def is_refuted(then: Known, now: Known, settings: Settings) -> bool:
    """Whether what was taken for quick is known to be disturbed now."""
    quickest = "quickest_ns"
    return then.get(quickest, 0.0) > now.get(quickest, math.inf) * (1.0 + float(settings["canary_within"]))


class Canary:
    """In the process that measures."""

    def __init__(self, settings: Settings, clock: Clock, known: Optional[Known] = None) -> None:
        """Find out how many turns last `canary_s`, unless that is known from other processes."""
        self._within = 1.0 + float(settings["canary_within"])
        self._clock = clock
        self._share = float(settings["quiet_share"])
        self._most_ns = min(float(settings["quiet_s"]), _DEADLINE_SHARE * float(settings["deadline_s"])) * 1e9
        self._turns, self._quickest_ns, self._spare_ns = 0, math.inf, self._most_ns
        self.learn(known or {})
        self._last_ns = math.inf
        if not self._turns:
            self._turns = self._turns_for(float(settings["canary_s"]))
            self._look()
        #: After a network the loop may be slower for what the network did: wide vectors lower some clocks for a moment.
        #: The quickest of those readings; 0 before the first, which nothing excuses.
        self._after_ns = 0.0

    def learn(self, known: Known) -> None:
        """Take what other processes of the session have found out since."""
        self._turns = int(known.get("turns", self._turns))
        self._quickest_ns = float(known.get("quickest_ns", self._quickest_ns))
        self._spare_ns = min(self._most_ns, float(known.get("spare_ns", self._spare_ns)))

    @property
    def known(self) -> Known:
        """What the next process may start from."""
        return {"turns": self._turns, "quickest_ns": self._quickest_ns, "spare_ns": self._spare_ns}

    @property
    def can_wait(self) -> bool:
        """Whether there is time to spare."""
        return self._spare_ns > 0

    def begin(self) -> None:
        """Say that a round begins: what was read last is of long ago."""
        self._last_ns = self._read()

    def wait(self) -> bool:
        """Loop until the core is quiet, or no time is left to spare; return whether it is quiet."""
        start = self._clock()
        until = start + self._spare_ns
        now = start
        while not self._is_quick(self._last_ns, self._quickest_ns) and now < until:
            self._last_ns = self._read()
            now = self._clock()
        self._spare_ns -= now - start
        return self._is_quick(self._last_ns, self._quickest_ns)

    def was_quiet(self, took_ns: int, before: bool) -> bool:
        """Return, right after a sample, whether its moment was quiet: `before` says whether it was when it began.

        What was measured earns time to spare; what was not costs it.
        """
        self._last_ns = self._read()
        quiet = before and self._is_quick(self._last_ns, max(self._quickest_ns, self._after_ns))
        self._after_ns = min(self._after_ns, self._last_ns) if self._after_ns else self._last_ns
        self._spare_ns += self._share * took_ns if quiet else -took_ns
        self._spare_ns = min(self._most_ns, max(0.0, self._spare_ns))
        return quiet

    def yield_some(self) -> None:
        """Say that a whole round was not quick: what is quick here may have changed."""
        self._quickest_ns *= _YIELD

    def _look(self) -> None:
        """Find the quickest reading; both kinds of moments, where there are two, are seen soon."""
        readings = []
        until = self._clock() + round(_LOOK_S * 1e9)
        while self._clock() < until:
            readings.append(self._read())
            slow = sum(not self._is_quick(taken, self._quickest_ns) for taken in readings[-_SEEN:])
            if len(readings) >= _SEEN and _SLOW_SHARE * _SEEN <= slow <= (1 - _SLOW_SHARE) * _SEEN:
                return

    def _is_quick(self, taken_ns: float, quickest_ns: float) -> bool:
        return taken_ns <= self._within * quickest_ns

    def _read(self) -> float:
        """Return what the loop takes [ns]."""
        self._loop(self._turns // _WARM_SHARE)
        taken = float(max(1, self._loop(self._turns)))
        self._quickest_ns = min(self._quickest_ns, taken)
        return taken

    def _loop(self, turns: int) -> int:
        # The interpreter's own work: many short operations feel a neighbor more than a long wait for memory does.
        total = 0
        each = itertools.repeat(3, turns)
        start = self._clock()
        for step in each:
            total += step
        return self._clock() - start

    def _turns_for(self, seconds: float) -> int:
        turns = _FIRST_TURNS
        while min(self._loop(turns) for _ in range(_FIRST)) < seconds * 1e9 and turns < 1 << 20:
            turns *= 2
        return turns
