"""An entry: one candidate of a chunk, its process, its rounds so far, and what went wrong."""

from typing import Any, Dict, List, Set

import canary
import conditions
import sampling

Message = Dict[str, Any]
#: What is added up over rounds, and what is a value of each.
_ADDED, _COUNTED = ("switches", "waited_ns"), ("instructions", "cycles")


class Entry:
    """What the agent knows of a candidate until it is final."""

    def __init__(self, number: int, path: str, runtime: Any, order: Message) -> None:
        """Nothing is started yet; `order` is the measure message, with what is this candidate's own in it."""
        self.id = number
        self.path = path
        self.runtime = runtime
        self.order = order
        self.child: Any = None
        self.repeats = 0
        self.retries = 0
        self.first: Message = {}
        self.before: Message = {}
        self.doubts: Set[str] = set()
        self.failure: Any = None
        #: The samples of each round that counts, scaled as the board's drift asks [ns].
        self.rounds: List[List[float]] = []
        #: Of each of these rounds: whether it was disturbed, by what was taken for quick then, and what else was told.
        self._disturbed: List[bool] = []
        self._canaries: List[canary.Known] = []
        self._told: List[Message] = []

    def end(self) -> None:
        """End the child, if there is one."""
        if self.child is not None:
            self.child.end()
            self.child = None

    def add(self, answer: Message, scale: float) -> None:
        """Take a round that counts."""
        self.rounds.append([sample * scale for sample in answer["samples_ns"]])
        self.repeats = answer["repeats"]
        self._disturbed.append(bool(answer["disturbed"]))
        self._canaries.append(answer["canary"])
        self._told.append({key: answer[key] for key in (*_ADDED, *_COUNTED, "peak_bytes") if key in answer})

    def refute(self, known: canary.Known) -> None:
        """Take those rounds for disturbed whose quiet moments are known by now not to have been quiet (R17)."""
        for place, then in enumerate(self._canaries):
            if canary.is_refuted(then, known, self.order["settings"]):
                self._disturbed[place] = True

    def start_again(self) -> None:
        """Forget the cold figures, too: they were taken in a round that does not count, and before any that does."""
        self.end()
        self.first = {}
        self.repeats = 0

    @property
    def aside(self) -> List[int]:
        """The places of rounds that are set aside: disturbed ones, where enough others are there (R17).

        Files that are compared keep all: their rounds are pairs.
        """
        disturbed = [place for place, is_disturbed in enumerate(self._disturbed) if is_disturbed]
        others = len(self.rounds) - len(disturbed)
        return disturbed if others >= int(self.order["settings"]["rounds_min"]) and not self.order["interleave"] else []

    @property
    def quiet(self) -> List[List[float]]:
        """The rounds that were not disturbed."""
        return [samples for samples, is_disturbed in zip(self.rounds, self._disturbed) if not is_disturbed]  # noqa: B905

    def result(self, after: Message, stable: bool) -> Message:
        """Return what the host is told when it is final."""
        aside = self.aside
        if any(self._disturbed) and not aside:
            self.doubts.add("disturbed")
        rounds = [told for place, told in enumerate(self._told) if place not in aside]
        counts = {key: [told[key] for told in rounds if key in told] for key in _COUNTED}
        doubts = sorted(self.doubts) + ([] if stable else ["unstable"]) + (["retried"] if self.retries else [])
        counted = {key: sampling.median(values) for key, values in counts.items() if values}
        added = {key: None if None in (v := [t[key] for t in rounds]) else sum(v) for key in _ADDED}
        told = {"delegate": self.first["delegate"]} if "delegate" in self.first else {}
        return {
            "id": self.id,
            "load_ns": self.first["load_ns"],
            "first_ns": self.first["first_ns"],
            "overhead_ns": self.first["overhead_ns"],
            "warm": self.first["warm"],
            "retries": self.retries,
            "doubts": doubts,
            "aside": aside,
            "before": conditions.told(self.before),
            "after": conditions.told(after),
            "during": conditions.between(self.before, after),
            **added,
            "peak_bytes": rounds[-1]["peak_bytes"],
            **counted,
            **told,
        }
