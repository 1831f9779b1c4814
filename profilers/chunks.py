"""A chunk: some candidates measured together, in rounds of random order, until each is known well enough (R6, R7).

Between two rounds conditions are read and results are sent; while a candidate is timed, the agent
does nothing but beat every two seconds (R13). A reference model that is measured with every chunk
(R14) is one more entry here.
"""

import os
import random
from typing import Any, Callable, Dict, List, Set

import conditions
import sampling
import work
from child import Child, Died
from link import Link
from uploads import Refused, Uploads

Message = Dict[str, Any]


class Entry:
    """One candidate of the chunk: its child, its rounds so far, and what went wrong."""

    def __init__(self, number: int, path: str) -> None:
        """Nothing is started yet."""
        self.id = number
        self.path = path
        self.child: Any = None
        self.rounds: List[List[int]] = []
        self.repeats = 0
        self.retries = 0
        self.first: Message = {}
        self.before: Message = {}
        self.doubts: Set[str] = set()
        self.failure: Any = None
        self.sums: Dict[str, Any] = {"switches": 0, "waited_ns": 0, "peak_bytes": 0}

    def end(self) -> None:
        """End the child, if there is one."""
        if self.child is not None:
            self.child.end()
            self.child = None


class Chunk:
    """The entries of one measure message."""

    def __init__(self, link: Link, runtime: Any, uploads: Uploads, order: Message, release: Callable[[], None]) -> None:
        """Keep what is needed; `release` closes in a child what belongs to the agent."""
        self._link = link
        self._runtime = runtime
        self._order = order
        self._settings = order["settings"]
        self._release = release
        self._random = random.Random(order["seed"])
        self._entries: List[Entry] = []
        self._measuring_ns = 0
        self._root = "/"
        self.cores: List[int] = []
        for item in order["entries"]:
            path = uploads.path(item["sha256"])
            if not os.path.exists(path):
                raise Refused("hash", "%s is not here" % item["sha256"])
            self._entries.append(Entry(int(item["id"]), path))
        if order["pin"] and hasattr(os, "sched_getaffinity"):
            self.cores = conditions.choose_cores(int(order["threads"]), sorted(os.sched_getaffinity(0)))

    def measure(self, overheads: Dict[str, int]) -> None:
        """Take the rounds, send what they hold, and say when all is done; children end in any case."""
        interleave = bool(self._order["interleave"])
        limit = int(self._settings["interleaved_rounds" if interleave else "rounds_max"])
        left = list(self._entries)
        turn: List[Entry] = []
        try:
            reading = conditions.read(self._root)
            for number in range(1, limit + 1):
                turn = self._turn(left, turn, number, interleave)
                answers = [(entry, self._take(entry, reading, overheads)) for entry in turn]
                before, reading = reading, conditions.read(self._root)
                doubts = conditions.doubts(before, reading)
                for entry, answer in answers:
                    entry.doubts.update(doubts)
                    self._report(entry, answer, number)
                    stable = sampling.is_stable(entry.rounds, self._settings)
                    if entry.failure is None and (number == limit or (stable and not interleave)):
                        self._conclude(entry, reading, stable)
                        left.remove(entry)
                    elif entry.failure is not None:
                        left.remove(entry)
                self._link.send("round", number=number, of=limit, left=len(left))
                if not left:
                    break
        finally:
            for entry in self._entries:
                entry.end()
        failed = sum(entry.failure is not None for entry in self._entries)
        self._link.send(
            "done",
            measured=len(self._entries) - failed,
            failed=failed,
            measuring_ns=self._measuring_ns,
            cancelled=False,
        )

    def _turn(self, left: List[Entry], last: List[Entry], number: int, interleave: bool) -> List[Entry]:
        """Return who is measured in which order: at random; interleaved, there and back (ABBA)."""
        if interleave and number % 2 == 0:
            return [entry for entry in reversed(last) if entry in left]
        turn = list(left)
        self._random.shuffle(turn)
        return turn

    def _take(self, entry: Entry, reading: Message, overheads: Dict[str, int]) -> Message:
        """Return the answer of the entry's child to one round; a dead child is replaced while retries last."""
        if not entry.before:
            entry.before = reading
        while True:
            message: Message = {"type": "round", "overheads": {}, "repeats": entry.repeats}
            if entry.child is None:
                entry.child = self._start(entry)
                message["overheads"] = overheads
            try:
                answer: Message = entry.child.ask(self._link, message, float(self._settings["deadline_s"]))
            except Died as death:
                answer = {"type": "failed", "kind": death.kind, "text": death.text}
            if answer["type"] == "round":
                self._measuring_ns += answer["measuring_ns"]
                if "signature" in answer:
                    overheads[answer["signature"]] = answer["overhead_ns"]
                return answer
            entry.end()
            if entry.retries >= int(self._settings["retries"]):
                return answer
            entry.retries += 1

    def _start(self, entry: Entry) -> Child:
        others = [other.child for other in self._entries if other.child is not None]

        def begin() -> Callable[[Message], Message]:
            work.pin(self.cores)
            return work.Work(self._runtime, entry.path, self._order).answer

        def close() -> None:
            self._release()
            for other in others:
                os.close(other.descriptor)

        return Child(begin, self._limits(), close)

    def _limits(self) -> Dict[str, int]:
        """Return what a child may use: generous for a candidate, an end for one that runs away."""
        settings = self._settings
        rounds = max(int(settings["rounds_max"]), int(settings["interleaved_rounds"]))
        limits = {
            "RLIMIT_CPU": int(settings["deadline_s"] * int(self._order["threads"]) * (rounds + 1)) + 1,
            "RLIMIT_NOFILE": 256,
            "RLIMIT_FSIZE": 1 << 26,
        }
        memory = int(settings["memory_limit_bytes"]) or conditions.facts(self._root).get("memory_bytes", 0)
        if memory:
            limits["RLIMIT_DATA"] = memory
        return limits

    def _report(self, entry: Entry, answer: Message, number: int) -> None:
        if answer["type"] == "failed":
            entry.failure = answer
            self._link.send(
                "failed", id=entry.id, kind=answer["kind"], text=str(answer["text"])[:2000], retries=entry.retries
            )
            return
        entry.rounds.append(answer["samples_ns"])
        entry.repeats = answer["repeats"]
        if not entry.first:
            entry.first = answer
        for key in ("switches", "waited_ns"):
            known = entry.sums[key] is not None and answer[key] is not None
            entry.sums[key] = entry.sums[key] + answer[key] if known else None
        entry.sums["peak_bytes"] = answer["peak_bytes"]
        self._link.send(
            "samples",
            id=entry.id,
            number=number,
            repeats=answer["repeats"],
            warmup_ns=answer["warmup_ns"],
            samples_ns=answer["samples_ns"],
        )

    def _conclude(self, entry: Entry, reading: Message, stable: bool) -> None:
        entry.end()
        doubts = sorted(entry.doubts) + ([] if stable else ["unstable"]) + (["retried"] if entry.retries else [])
        self._link.send(
            "measured",
            id=entry.id,
            load_ns=entry.first["load_ns"],
            first_ns=entry.first["first_ns"],
            overhead_ns=entry.first["overhead_ns"],
            warm=entry.first["warm"],
            retries=entry.retries,
            doubts=doubts,
            before=entry.before,
            after=reading,
            cores=self.cores,
            **entry.sums,
        )
