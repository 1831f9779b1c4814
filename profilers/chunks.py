"""A chunk: some candidates measured together, in rounds of random order, until each is known well enough (R6, R7).

Between two rounds conditions and the reference model are read and results are sent (R14); in a long
round the reference model is read between candidates, too. While a candidate is timed, the agent does
nothing but beat every two seconds (R13).
"""

import os
import random
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import canary
import conditions
import inputs
import sampling
import work
from child import Child, Died
from cooling import Cooling
from energy import Energy
from entry import Entry
from link import Link
from reference import Drift, Mark, Reference, Unusable
from uploads import Refused, Uploads

Message = Dict[str, Any]


class Taken(NamedTuple):
    """One candidate's part of a round: what its child answered, and when [s, monotonic]."""

    entry: Entry
    answer: Message
    at_s: float


class Chunk:
    """The entries of one measure message."""

    def __init__(
        self,
        link: Link,
        runtime: Any,
        uploads: Uploads,
        order: Message,
        board: conditions.Board,
        release: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        runtimes: Optional[Dict[str, Any]] = None,
    ) -> None:
        """Keep what is needed; `release` closes in a child what belongs to the agent, `clock` counts seconds.

        `runtime` is what runs a candidate that names none of `runtimes` for itself.
        """
        self._link = link
        self._order = order
        self._settings = order["settings"]
        self._board = board
        self._release = release
        self._clock = clock
        self._random = random.Random(order["seed"])
        self._entries: List[Entry] = []
        self._measuring_ns = 0
        self._retakes = 0
        self._cooling = Cooling(link, board, self._settings)
        self._energy = Energy(link, board, order) if order["energy"] else None
        self._reference: Optional[Reference] = None
        self._unreferenced = ""
        self._known: canary.Known = {}
        # When the reference model was last read, and how many candidates took their turn since.
        self._referred_at, self._since = clock(), 0
        self.cores: List[int] = []
        for item in order["entries"]:
            path = uploads.path(item["sha256"])
            if not os.path.exists(path):
                raise Refused("hash", "%s is not here" % item["sha256"])
            mine = (runtimes or {})[item["runtime"]] if "runtime" in item else runtime
            given = inputs.described(item.get("inputs"), uploads)
            own = dict(order, options=item.get("options", order.get("options")), inputs=given)
            self._entries.append(Entry(int(item["id"]), path, mine, own))
        # A runtime that builds something before it loads a file says how long that may take.
        self._build_s = max([float(getattr(entry.runtime, "BUILD_S", 0.0)) for entry in self._entries] or [0.0])
        if order["pin"] and hasattr(os, "sched_getaffinity"):
            self.cores = conditions.choose_cores(int(order["threads"]), sorted(os.sched_getaffinity(0)))

    def measure(
        self, overheads: Dict[str, int], reference: Optional[Reference], known: Optional[canary.Known] = None
    ) -> None:
        """Take the rounds, send what they hold, and say when all is done; children end in any case.

        `overheads`, and what is `known` of the canary, are the session's, and learn.
        """
        self._reference = reference
        self._known = {} if known is None else known
        spent_ns = reference.spent_ns if reference is not None else 0
        try:
            self._take_rounds(overheads)
        finally:
            for entry in self._entries:
                entry.end()
        if reference is not None:
            self._measuring_ns += reference.spent_ns - spent_ns
        failed = sum(entry.failure is not None for entry in self._entries)
        self._link.send(
            "done",
            measured=len(self._entries) - failed,
            failed=failed,
            measuring_ns=self._measuring_ns,
            cancelled=False,
        )

    def _take_rounds(self, overheads: Dict[str, int]) -> None:
        interleave = bool(self._order["interleave"])
        limit = int(self._settings["interleaved_rounds" if interleave else "rounds_max"])
        left = list(self._entries)
        before, start = self._prepare([])
        number, turn = 1, self._turn(left, [], 1, interleave)
        while left:
            taken, marks = self._take_turns(turn, before, overheads)
            end = self._refer()
            self._link.pause(self._board.wait_s)  # or a flag that rose in a short round would show in the next one
            after = self._board.read()
            baseline_ns = self._reference.baseline_ns if self._reference is not None else 0.0
            drift = Drift([start, *marks, end], baseline_ns, self._settings)
            taints = conditions.taints(before, after)
            if drift.too_far([one.at_s for one in taken]):
                taints.append("drifted")
            if any(self._is_refuted(one.answer) for one in taken):
                taints.append("disturbed")
            again = bool(taints) and self._retakes < int(self._settings["retakes"])
            for entry, answer, at_s in taken:
                entry.doubts.update(conditions.doubts(before, after))
                self._report(entry, answer, number, drift.scale(at_s), taints, again)
                if again and not entry.rounds and taints != ["drifted"]:
                    entry.start_again()
            left = [entry for entry in left if entry.failure is None]
            for entry in left:
                entry.refute(self._known)
            final = [] if again else self._final(left, number == limit, interleave)
            disturbed = any([self._conclude(entry, after, stable) for entry, stable in final])
            left = [entry for entry in left if entry not in [one for one, _ in final]]
            self._link.send("round", number=number, of=limit, left=len(left), tainted=taints if again else [])
            if not left:
                return
            if again:
                self._retakes += 1
                turn = [entry for entry in turn if entry in left]
            else:
                number += 1
                turn = self._turn(left, turn, number, interleave)
            if again or disturbed or self._cooling.due(after) or self._cooling.given_up:
                before, start = self._prepare(taints if again else [])
            else:
                before, start = after, end

    def _prepare(self, taints: List[str]) -> Tuple[Message, Optional[Mark]]:
        """Wait until the board is fit to measure on; return what it is like then."""
        self._cooling.wait(taints, float(self._settings["drift_pause_s"]) if taints else 0.0)
        start = self._refer()
        self._link.pause(self._board.wait_s)
        return self._board.read(), start

    def _take_turns(
        self, turn: List[Entry], reading: Message, overheads: Dict[str, int]
    ) -> Tuple[List[Taken], List[Optional[Mark]]]:
        """Return what each candidate took, and what the reference model took between them, where that was due."""
        taken: List[Taken] = []
        marks: List[Optional[Mark]] = []
        for entry in turn:
            if self._is_reference_due():
                marks.append(self._refer())
            taken.append(self._take(entry, reading, overheads))
            self._since += 1
        return taken, marks

    def _is_reference_due(self) -> bool:
        """Whether drift would be seen too late: a chunk's number of candidates, or a minute, since the last reading."""
        late = self._clock() >= self._referred_at + float(self._settings["reference_every_s"])
        return self._reference is not None and (late or self._since >= int(self._settings["chunk"]))

    def _is_refuted(self, answer: Message) -> bool:
        """Whether a moment was taken for quiet, and by now is known not to have been (R17)."""
        return canary.is_refuted(answer.get("canary", {}), self._known, self._settings)

    def _refer(self) -> Optional[Mark]:
        """Return a reading of the reference model; None where there is none."""
        if self._reference is None:
            return None
        try:
            mark = self._reference.read(self._link)
            self._referred_at, self._since = self._clock(), 0
            return mark
        except Unusable as reason:
            self._unreferenced = str(reason)[:2000]
            self._reference = None
            return None

    def _turn(self, left: List[Entry], last: List[Entry], number: int, interleave: bool) -> List[Entry]:
        """Return who is measured in which order: at random; interleaved, there and back (ABBA)."""
        if interleave and number % 2 == 0:
            return [entry for entry in reversed(last) if entry in left]
        turn = list(left)
        self._random.shuffle(turn)
        return turn

    def _take(self, entry: Entry, reading: Message, overheads: Dict[str, int]) -> Taken:
        """Return the answer of the entry's child to one round; a dead child is replaced while retries last."""
        if not entry.rounds:
            entry.before = reading
        while True:
            message: Message = {"type": "round", "overheads": {}, "repeats": entry.repeats, "canary": self._known}
            deadline_s = float(self._settings["deadline_s"])
            if entry.child is None:
                entry.child = self._start(entry)
                message["overheads"] = overheads
                deadline_s += self._build_s
            start = self._clock()
            try:
                answer: Message = entry.child.ask(self._link, message, deadline_s)
            except Died as death:
                answer = {"type": "failed", "kind": death.kind, "text": death.text}
                self._known.update({"spare_ns": 0.0} if self._known else {})  # what it waited it can no longer tell
            if answer["type"] == "round":
                self._measuring_ns += answer["measuring_ns"]
                self._known.update(answer["canary"])
                if "signature" in answer:
                    overheads[answer["signature"]] = answer["overhead_ns"]
                return Taken(entry, answer, (start + self._clock()) / 2)
            entry.end()
            if not answer.get("again", True) or entry.retries >= int(self._settings["retries"]):
                return Taken(entry, answer, start)
            entry.retries += 1

    def _start(self, entry: Entry) -> Child:
        others = [other.child for other in self._entries if other.child is not None]

        def begin() -> Callable[[Message], Message]:
            work.pin(self.cores)
            return work.Work(entry.runtime, entry.path, entry.order).answer

        def close() -> None:
            self._release()
            for other in others:
                other.forget()

        return Child(begin, self._limits(), close)

    def _limits(self) -> Dict[str, int]:
        """Return what a child may use: generous for a candidate, an end for one that runs away."""
        settings = self._settings
        rounds = max(int(settings["rounds_max"]), int(settings["interleaved_rounds"])) + int(settings["retakes"])
        seconds = settings["deadline_s"] * (rounds + 1) + (settings["energy_s"] if self._energy is not None else 0)
        seconds += self._build_s
        limits = {
            "RLIMIT_CPU": int(seconds * int(self._order["threads"])) + 1,
            "RLIMIT_NOFILE": 256,
            "RLIMIT_FSIZE": 1 << 26,
        }
        memory = int(settings["memory_limit_bytes"]) or self._board.memory_bytes
        if memory:
            limits["RLIMIT_DATA"] = memory
        return limits

    def _report(self, entry: Entry, answer: Message, number: int, scale: float, taints: List[str], again: bool) -> None:
        if answer["type"] == "failed":
            self._fail(entry, answer)
            return
        if not entry.first:
            entry.first = answer
        if not again:
            entry.add(answer, scale)
            entry.doubts.update(taints)
            entry.doubts.update(["hot"] if self._cooling.given_up else [])
            entry.doubts.update(["unreferenced"] if self._unreferenced else [])
        self._link.send(
            "samples",
            id=entry.id,
            number=number,
            repeats=answer["repeats"],
            warmup_ns=answer["warmup_ns"],
            samples_ns=answer["samples_ns"],
            aside_ns=answer["aside_ns"],
            scale=scale,
            tainted=taints if again else [],
        )

    def _fail(self, entry: Entry, answer: Message) -> None:
        entry.failure = answer
        entry.end()
        text = str(answer["text"])[:2000]
        self._link.send("failed", id=entry.id, kind=answer["kind"], text=text, retries=entry.retries)

    def _final(self, left: List[Entry], last: bool, interleave: bool) -> List[Tuple[Entry, bool]]:
        """Return who needs no more rounds, and whether each is known well enough."""
        known = [(entry, sampling.is_stable(entry.quiet, self._settings)) for entry in left]
        return [(entry, stable) for entry, stable in known if last or (stable and not interleave)]

    def _conclude(self, entry: Entry, reading: Message, stable: bool) -> bool:
        """Say that an entry is final; return whether that took so long that the board is another one now."""
        entry.doubts.update(conditions.doubts(entry.before, reading))  # while it cooled, too
        result = entry.result(reading, stable)
        if self._energy is not None:
            before = self._cooling.wait([])  # the loop before this one has heated the board
            try:
                found = self._energy.measure(entry.id, entry.child)
            except Died as death:
                found = {"type": "failed", "kind": death.kind, "text": death.text}
            if found.pop("type") == "failed":
                self._fail(entry, found)
                return True
            self._measuring_ns += found.pop("measuring_ns")
            result["energy"] = found
            self._link.pause(self._board.wait_s)
            held = conditions.taints(before, self._board.read()) + (["hot"] if self._cooling.given_up else [])
            result["doubts"] = sorted({*result["doubts"], *held})
        entry.end()
        if self._unreferenced:
            result["during"]["unreferenced"] = self._unreferenced
        reference_ns = self._reference.baseline_ns if self._reference is not None else None
        self._link.send("measured", cores=self.cores, reference_ns=reference_ns, **result)
        return self._energy is not None
