"""A chunk on a fake board: the rounds that profilers/chunks.py takes, with the same frames in the same order.

Conditions and the reference model are read between rounds (that one within long ones, too), tainted rounds are
taken again, the board is left to cool (R14): none of that is played by the script, which only says what the board does.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from statistics import median
from typing import Any

from qaedge.hil.fake.board import Board
from qaedge.hil.fake.faults import Broken, suffer, tell
from qaedge.hil.fake.line import Link
from qaedge.hil.fake.samples import Runs, is_stable

Message = dict[str, Any]
#: How often a board is looked at while it cools, and the host told; readings that make a baseline.
_LOOK_S, _TELL_S, _FIRST = 0.25, 1.0, 3
#: What a crash costs before it shows [s].
_CRASH_S = 0.01


class Reference:
    """The reference model of one session: what it takes now, against what it took at first."""

    def __init__(self, board: Board) -> None:
        """Nothing was read yet."""
        self._board = board
        self._runs: Runs | None = None
        self.baseline_ns = 0.0

    def read(self, link: Link, settings: Mapping[str, Any]) -> tuple[float, float]:
        """Return when it was read [s], and how long a run takes [ns]; the first call sets the baseline."""
        if not self.baseline_ns:
            self.baseline_ns = median(self._once(link, settings)[1] for _ in range(_FIRST))
        return self._once(link, settings)

    def _once(self, link: Link, settings: Mapping[str, Any]) -> tuple[float, float]:
        start_s = self._board.now_s
        if self._runs is None:
            self._runs = Runs(self._board, self._board.script.reference_s)
            self._runs.warm_up(settings)
        else:
            self._runs.warm_again(settings)
        samples = self._runs.take(int(settings["reference_samples"]), settings["reference_s"])
        link.catch_up(self._board.now_s - start_s)
        return (start_s + self._board.now_s) / 2, median(samples) / self._runs.repeats

    @property
    def spent_ns(self) -> int:
        """The time that it has taken in all."""
        return self._runs.spent_ns if self._runs is not None else 0


class Entry:
    """One candidate until it is final."""

    def __init__(self, number: int, sha256: str) -> None:
        """Nothing has run yet."""
        self.id = number
        self.sha256 = sha256
        self.runs: Runs | None = None
        self.retries = 0
        self.first: Message = {}
        self.before: Message = {}
        self.doubts: set[str] = set()
        self.failed = False
        self.rounds: list[list[float]] = []
        self.waited_ns = 0
        self.lie = ""


class Chunk:
    """The entries of one measure message."""

    def __init__(
        self, link: Link, board: Board, order: Message, files: Mapping[str, int], reference: Reference | None
    ) -> None:
        """Keep what is needed; `files` are the sizes of what has been sent."""
        self._link = link
        self._board = board
        self._order = order
        self._settings: Mapping[str, Any] = order["settings"]
        self._files = files
        self._reference = reference
        self._random = random.Random(order["seed"])
        self._entries = [Entry(int(item["id"]), str(item["sha256"])) for item in order["entries"]]
        self._number = board.chunks
        board.chunks += 1
        for entry in self._entries:
            if entry.sha256 not in files:
                raise Broken(f"Refused: {entry.sha256} is not here")
            board.meet(entry.sha256)
        self._cores = list(range(board.script.cores))[-int(order["threads"]) :] if order["pin"] else []
        self._measuring_ns = 0
        self._retakes = 0
        self._cool_left_s = float(self._settings["cool_limit_s"])
        self._too_hot = False
        self._referred_s, self._since = board.now_s, 0

    def measure(self) -> Message:
        """Take the rounds and send what they hold; return what `done` says."""
        spent_ns = self._reference.spent_ns if self._reference is not None else 0
        self._take_rounds()
        if self._reference is not None:
            self._measuring_ns += self._reference.spent_ns - spent_ns
        failed = sum(entry.failed for entry in self._entries)
        return {
            "measured": len(self._entries) - failed,
            "failed": failed,
            "measuring_ns": self._measuring_ns,
            "cancelled": False,
        }

    def _take_rounds(self) -> None:
        interleave = bool(self._order["interleave"])
        limit = int(self._settings["interleaved_rounds" if interleave else "rounds_max"])
        left = list(self._entries)
        before, start = self._prepare([])
        number, turn = 1, self._turn(left, [], 1, interleave)
        while left:
            taken, marks = [], [start]
            for place, entry in enumerate(turn):
                if self._is_reference_due():
                    marks.append(self._refer())
                taken.append(self._take(entry, before, number, place))
                self._since += 1
            end = self._refer()
            after = self._read()
            taints = _taints(before, after)
            drifts = {entry.id: self._drift([*marks, end], at_s) for entry, _, at_s in taken}
            if any(abs(drift) > float(self._settings["drift_limit"]) for drift in drifts.values()):
                taints.append("drifted")
            again = bool(taints) and self._retakes < int(self._settings["retakes"])
            for entry, answer, _ in taken:
                if before["boot_id"] != after["boot_id"]:
                    entry.doubts.add("changed")
                self._report(entry, answer, number, self._scale(drifts[entry.id]), taints, again)
                if again and not entry.rounds and taints != ["drifted"]:
                    entry.runs, entry.first = None, {}  # cold figures, too, are of another state
            left = [entry for entry in left if not entry.failed]
            known = [(entry, is_stable(entry.rounds, self._settings)) for entry in left]
            final = {e.id: ok for e, ok in known if not again and (number == limit or (ok and not interleave))}
            for entry in left:
                if entry.id in final:
                    self._conclude(entry, after, final[entry.id])
            left = [entry for entry in left if entry.id not in final]
            self._link.send("round", number=number, of=limit, left=len(left), tainted=taints if again else [])
            if not left:
                return
            if again:
                self._retakes += 1
                turn = [entry for entry in turn if entry in left]
            else:
                number += 1
                turn = self._turn(left, turn, number, interleave)
            hot = _temperature(after) >= float(self._settings["temperature_pause_c"])
            if again or hot or self._too_hot:
                before, start = self._prepare(taints if again else [])
            else:
                before, start = after, end

    def _prepare(self, taints: list[str]) -> tuple[Message, tuple[float, float] | None]:
        self._cool(taints, float(self._settings["drift_pause_s"]) if taints else 0.0)
        start = self._refer()
        return self._read(), start

    def _cool(self, reasons: list[str], least_s: float) -> None:
        """Wait until nothing holds the board back, or the chunk's limit is reached; tell the host."""
        start_s = self._board.now_s
        told_s = start_s - _TELL_S
        while True:
            reading = self._read()
            hottest, now_s = _temperature(reading), self._board.now_s
            hot = hottest > float(self._settings["temperature_start_c"])
            fit = not hot and not _held_back(reading)
            waited_s = now_s - start_s
            if (fit and waited_s >= least_s) or waited_s >= max(self._cool_left_s, least_s):
                self._cool_left_s = max(0.0, self._cool_left_s - waited_s)
                self._too_hot = hot
                return
            if now_s >= told_s + _TELL_S:
                told_s = now_s
                why = sorted(set(reasons) | set(_held_back(reading)) | ({"hot"} if hot else set()))
                self._link.send("cooling", reasons=why, temperature_c=hottest, waited_s=round(waited_s, 3))
            # At least a step that the clock can tell: the end of a wait must come.
            self._link.spend(max(1e-6, min(_LOOK_S, least_s - waited_s)) if fit else _LOOK_S)

    def _read(self) -> Message:
        return self._board.read(sum(self._files.values()))

    def _is_reference_due(self) -> bool:
        late = self._board.now_s >= self._referred_s + float(self._settings["reference_every_s"])
        return self._reference is not None and (late or self._since >= int(self._settings["chunk"]))

    def _refer(self) -> tuple[float, float] | None:
        if self._reference is None:
            return None
        found = self._reference.read(self._link, self._settings)
        self._referred_s, self._since = self._board.now_s, 0
        return found

    def _drift(self, marks: list[tuple[float, float] | None], at_s: float) -> float:
        """Return how much slower (above 0) the board was at a time between readings of the reference model."""
        if self._reference is None:
            return 0.0
        known = [mark for mark in marks if mark is not None]
        later = next((n for n, (mark_s, _) in enumerate(known) if n and mark_s >= at_s), len(known) - 1)
        start, end = known[later - 1], known[later]
        share = min(1.0, max(0.0, (at_s - start[0]) / (end[0] - start[0]))) if end[0] > start[0] else 0.5
        return (start[1] + share * (end[1] - start[1])) / self._reference.baseline_ns - 1.0

    def _scale(self, drift: float) -> float:
        accepted, limit = float(self._settings["drift_accept"]), float(self._settings["drift_limit"])
        return 1.0 / (1.0 + drift) if accepted < abs(drift) <= limit else 1.0

    def _turn(self, left: list[Entry], last: list[Entry], number: int, interleave: bool) -> list[Entry]:
        if interleave and number % 2 == 0:
            return [entry for entry in reversed(last) if entry in left]
        turn = list(left)
        self._random.shuffle(turn)
        return turn

    def _take(self, entry: Entry, reading: Message, number: int, place: int) -> tuple[Entry, Message, float]:
        """Return a candidate's part of a round and when it was [s]; what fails is tried again while retries last."""
        if not entry.rounds:
            entry.before = reading
        event = self._board.event("turn", chunk=self._number, number=number, turn=place, sha256=entry.sha256)
        entry.lie = suffer(event, self._link, self._board) or entry.lie
        while True:
            start_s = self._board.now_s
            answer = self._round(entry, start_s)
            middle_s = (start_s + self._board.now_s) / 2
            if "samples_ns" in answer:
                return entry, answer, middle_s
            entry.runs = None
            if entry.retries >= int(self._settings["retries"]):
                return entry, answer, start_s
            entry.retries += 1

    def _round(self, entry: Entry, start_s: float) -> Message:
        deadline_s = float(self._settings["deadline_s"])
        does = self._board.does(entry.sha256)
        if does == "hang":
            self._link.spend(deadline_s)
            return {"kind": "timeout", "text": f"no answer within {deadline_s:g} s"}
        if does != "run":
            self._link.spend(_CRASH_S)
            return {
                "crash": {"kind": "crashed", "text": "it was ended by SIGSEGV"},
                "refuse": {"kind": "failed", "text": "the fake runtime does not know it"},
                "memory": {"kind": "memory", "text": "memory ran out"},
            }[does]
        found: Message = {}
        latency_s = self._board.latency_s(entry.sha256, self._files[entry.sha256])
        if entry.runs is None:
            load_ns, _ = self._board.run(self._board.script.load_s, 1)
            first_ns, _ = self._board.run(latency_s, 2)  # the first run allocates, too
            entry.runs = Runs(self._board, latency_s)
            found |= {"load_ns": load_ns, "first_ns": first_ns}
            found["overhead_ns"] = round(self._board.script.overhead_s * 1e9)
            found["warmup_ns"], found["warm"] = entry.runs.warm_up(self._settings)
        else:
            found["warmup_ns"] = entry.runs.warm_again(self._settings)
        found["samples_ns"] = entry.runs.take(int(self._settings["round_samples"]), self._settings["round_s"])
        found["repeats"] = entry.runs.repeats
        found["waited_ns"], entry.runs.waited_ns = entry.runs.waited_ns, 0
        self._measuring_ns += entry.runs.spent_ns
        entry.runs.spent_ns = 0
        self._link.catch_up(self._board.now_s - start_s)
        if self._board.now_s - start_s > deadline_s:
            return {"kind": "timeout", "text": f"no answer within {deadline_s:g} s"}
        return found

    def _report(self, entry: Entry, answer: Message, number: int, scale: float, taints: list[str], again: bool) -> None:
        if "samples_ns" not in answer:
            entry.failed = True
            self._link.send("failed", id=entry.id, kind=answer["kind"], text=answer["text"], retries=entry.retries)
            return
        if not entry.first:
            entry.first = answer
        if not again:
            entry.rounds.append([sample * scale for sample in answer["samples_ns"]])
            entry.waited_ns += answer["waited_ns"]
            entry.doubts.update(taints)
            entry.doubts.update(["hot"] if self._too_hot else [])
        told = {
            "id": entry.id,
            "number": number,
            "repeats": answer["repeats"],
            "warmup_ns": answer["warmup_ns"],
            "samples_ns": answer["samples_ns"],
            "aside_ns": [],  # a fake board's core is nobody else's (R17)
            "scale": scale,
            "tainted": taints if again else [],
        }
        tell(self._link, entry.lie, "samples", told)

    def _conclude(self, entry: Entry, after: Message, stable: bool) -> None:
        doubts = sorted(entry.doubts) + ([] if stable else ["unstable"]) + (["retried"] if entry.retries else [])
        told = {
            "id": entry.id,
            **{key: entry.first[key] for key in ("load_ns", "first_ns", "overhead_ns", "warm")},
            "retries": entry.retries,
            "doubts": doubts,
            "aside": [],
            "before": entry.before,
            "after": after,
            "during": _rises(entry.before, after),
            "switches": 0,
            "waited_ns": entry.waited_ns,
            "peak_bytes": self._files[entry.sha256],
            "cores": self._cores,
            "reference_ns": self._reference.baseline_ns if self._reference is not None else None,
        }
        tell(self._link, entry.lie, "measured", told)


def _temperature(reading: Message) -> float:
    return float(max(reading["temperature_c"].values()))


def _held_back(reading: Message) -> list[str]:
    bits = int(reading["throttle_bits"])
    return (["throttled"] if bits & ~1 else []) + (["under-voltage"] if bits & 1 else [])


def _rises(before: Message, after: Message) -> Message:
    counts = before["firmware_counts"]
    rises = {name: value - counts[name] for name, value in after["firmware_counts"].items() if value > counts[name]}
    return {"firmware_counts": rises} if rises else {}


def _taints(before: Message, after: Message) -> list[str]:
    """Return why nothing measured between two readings is good, though it may have ended before the second."""
    found = {*_held_back(before), *_held_back(after)}
    risen = set(_rises(before, after).get("firmware_counts", {}))
    found |= {"under-voltage"} & risen
    return sorted(found | ({"throttled"} if risen - {"under-voltage"} else set()))
