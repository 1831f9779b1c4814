"""The reference model: the same work again and again, so that what changes is the board (R14).

It is measured between any two rounds, and within a long one. What it takes then, against what it took when the session
began, is the drift of the board.
"""

import gc
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import canary
import sampling
import work
from child import Child, Died
from link import Cancelled, Link

Message = Dict[str, Any]
#: How many readings at the start of a session make its baseline.
_FIRST = 3


class Unusable(Exception):
    """The reference model cannot be measured here; the text says why."""


class Mark(NamedTuple):
    """One reading: when it was taken [s, monotonic], the time of a run [ns], and whether its moment was disturbed."""

    at_s: float
    run_ns: float
    disturbed: bool = False


class Reference:
    """The reference model in a process of its own, for one runtime, number of threads and kind of processor."""

    def __init__(
        self, runtime: Any, order: Message, cores: List[int], release: Callable[[], None], known: canary.Known
    ) -> None:
        """Start nothing yet; `order` is the first measure message, `release` closes what is the agent's.

        `known` is what the session knows of the canary, and learns.
        """
        self._runtime = runtime
        self._order = order
        self._cores = cores
        self._release = release
        self._known = known
        # The first answer may have to wait until the runtime has built what it runs.
        self._deadline_s = float(order["settings"]["deadline_s"]) + getattr(runtime, "BUILD_S", 0.0)
        self._child: Optional[Child] = None
        self._deaths = 0
        self._unusable = ""
        self.baseline_ns = 0.0
        #: Whether it was disturbed itself, and what was taken for quick then.
        self._provisional = False
        self._quick: canary.Known = {}
        self.spent_ns = 0

    def read(self, link: Link) -> Mark:
        """Return how long a run takes now; the first call of a session sets the baseline, too.

        So does one after which it turns out that the baseline was taken in a disturbed moment.

        Raises Unusable where it cannot be measured, HostGone and Cancelled.
        """
        if self._unusable:
            raise Unusable(self._unusable)
        if not self.baseline_ns or canary.is_refuted(self._quick, self._known, self._order["settings"]):
            self._set_baseline([self._once(link) for _ in range(_FIRST)])
        mark = self._once(link)
        if self._provisional and not mark.disturbed:
            self._set_baseline([mark])
        return mark

    def _set_baseline(self, marks: List[Mark]) -> None:
        """Take the median of undisturbed readings; where there are none, that of all, until there is one."""
        quiet = [mark.run_ns for mark in marks if not mark.disturbed]
        self.baseline_ns = sampling.median(quiet or [mark.run_ns for mark in marks])
        self._provisional, self._quick = not quiet, dict(self._known)

    def _once(self, link: Link) -> Mark:
        while True:
            if self._child is None:
                self._child = Child(self._work, {"RLIMIT_NOFILE": 256, "RLIMIT_FSIZE": 1 << 26}, self._release)
            start = time.monotonic()
            try:
                answer = self._child.ask(link, {"type": "reference", "canary": self._known}, self._deadline_s)
            except Cancelled:
                self.end()  # or its answer would be taken for the next one
                raise
            except Died as death:
                self._known.update({"spare_ns": 0.0} if self._known else {})  # what it waited it can no longer tell
                self._child = None
                self._deaths += 1
                if self._deaths > int(self._order["settings"]["retries"]):
                    self._unusable = death.text
                    raise Unusable(death.text) from None
                continue
            if answer["type"] == "failed":
                self.end()
                self._unusable = str(answer["text"])
                raise Unusable(self._unusable)
            self._known.update(answer["canary"])
            self.spent_ns += answer["measuring_ns"]
            return Mark((start + time.monotonic()) / 2, answer["run_ns"], answer["disturbed"])

    def _work(self) -> Callable[[Message], Message]:
        work.pin(self._cores)
        return Loop(self._runtime, self._order).answer

    def end(self) -> None:
        """End its process, if there is one."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def forget(self) -> None:
        """Close this process's line to it, in a forked child: it is the agent's alone."""
        if self._child is not None:
            self._child.forget()


class Loop:
    """In the child: one reading for each message."""

    def __init__(self, runtime: Any, order: Message) -> None:
        """Load nothing yet."""
        self._runtime = runtime
        self._order = order
        settings = work.warmed(order["settings"], runtime, order["options"])
        self._settings = dict(settings, round_samples=settings["reference_samples"], round_s=settings["reference_s"])
        self._session: Any = None
        self._canary: Optional[canary.Canary] = None
        self._repeats = 1

    def answer(self, message: Message) -> Message:
        """Return the median time of a run; a failure is an answer, too."""
        try:
            return self._read(time.perf_counter_ns, message["canary"])
        except Exception as error:  # noqa: BLE001 - a runtime raises what it likes
            return {"type": "failed", "text": "%s: %s" % (type(error).__name__, str(error)[:2000])}

    def _read(self, clock: Callable[[], int], known: canary.Known) -> Message:
        if self._session is None:
            self._session = self._runtime.load_reference(int(self._order["threads"]), self._order["options"])
            self._session()
            self._session.settle()
            gc.collect()
            gc.disable()
            _, self._repeats, _, spent = sampling.warm_up(self._session, self._settings, clock)
            self._canary = canary.beside(self._session, self._settings, clock, known)
        else:
            _, spent = sampling.warm_again(self._session, self._settings, self._repeats, clock)
            if self._canary is not None:
                self._canary.learn(known)
        taken = sampling.take_round(self._session, self._settings, self._repeats, clock, self._canary)
        # The median: one reading decides over sixteen candidates, and must bear a disturbance.
        run_ns = sampling.median([float(sample) for sample in taken.samples]) / self._repeats
        told = self._canary.known if self._canary is not None else {}
        return {
            "type": "reference",
            "run_ns": run_ns,
            "disturbed": taken.disturbed,
            "measuring_ns": spent + taken.spent_ns,
            "canary": told,
        }


class Drift:
    """How far the board was from its usual state between readings."""

    def __init__(self, marks: Sequence[Optional[Mark]], baseline_ns: float, settings: Message) -> None:
        """Keep the readings, in the order taken; None where there is no reference model (any more).

        A disturbed one tells of its moment, and not of those in which samples count; all of them, of the board.
        """
        taken = [mark for mark in marks if mark is not None]
        self._marks = [mark for mark in taken if not mark.disturbed] or taken
        # Without one at both ends nobody knows what lies beyond.
        self._known = len(marks) > 1 and marks[0] is not None and marks[-1] is not None
        self._baseline_ns = baseline_ns
        self._accept, self._limit = float(settings["drift_accept"]), float(settings["drift_limit"])

    def at(self, at_s: float) -> float:
        """Return how much slower (above 0) or faster the board was at a time between the readings; 0 if unknown."""
        if not self._known or not self._marks:
            return 0.0
        if len(self._marks) == 1:  # the other ones were disturbed
            return self._marks[0].run_ns / self._baseline_ns - 1.0
        later = next((n for n, mark in enumerate(self._marks) if n and mark.at_s >= at_s), len(self._marks) - 1)
        before, after = self._marks[later - 1], self._marks[later]
        whole = after.at_s - before.at_s
        share = min(1.0, max(0.0, (at_s - before.at_s) / whole)) if whole > 0 else 0.5
        run_ns = before.run_ns + share * (after.run_ns - before.run_ns)
        return run_ns / self._baseline_ns - 1.0

    def too_far(self, times_s: List[float]) -> bool:
        """Whether it was too far off, for any of these times, for samples to be used."""
        return any(abs(self.at(at_s)) > self._limit for at_s in times_s)

    def scale(self, at_s: float) -> float:
        """Return what a sample of that time is multiplied by; 1 where the drift is small, or too large to mend."""
        drift = self.at(at_s)
        return 1.0 / (1.0 + drift) if self._accept < abs(drift) <= self._limit else 1.0
