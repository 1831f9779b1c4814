"""An entry: one candidate of a chunk, its process, its rounds so far, and what went wrong."""

from typing import Any, Dict, List, Set

import conditions
import sampling

Message = Dict[str, Any]


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
        self._disturbed: List[bool] = []
        self._sums: Dict[str, Any] = {"switches": 0, "waited_ns": 0, "peak_bytes": 0}
        self._counted: Dict[str, List[float]] = {"instructions": [], "cycles": []}

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
        for key in ("switches", "waited_ns"):
            known = self._sums[key] is not None and answer[key] is not None
            self._sums[key] = self._sums[key] + answer[key] if known else None
        self._sums["peak_bytes"] = answer["peak_bytes"]
        for key, values in self._counted.items():
            if key in answer:
                values.append(answer[key])

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
    def counting(self) -> List[List[float]]:
        """The rounds that are not set aside."""
        aside = self.aside
        return [samples for place, samples in enumerate(self.rounds) if place not in aside]

    def result(self, after: Message, stable: bool) -> Message:
        """Return what the host is told when it is final."""
        if any(self._disturbed) and not self.aside:
            self.doubts.add("disturbed")
        doubts = sorted(self.doubts) + ([] if stable else ["unstable"]) + (["retried"] if self.retries else [])
        counted = {key: sampling.median(values) for key, values in self._counted.items() if values}
        told = {"delegate": self.first["delegate"]} if "delegate" in self.first else {}
        return {
            "id": self.id,
            "load_ns": self.first["load_ns"],
            "first_ns": self.first["first_ns"],
            "overhead_ns": self.first["overhead_ns"],
            "warm": self.first["warm"],
            "retries": self.retries,
            "doubts": doubts,
            "aside": self.aside,
            "before": conditions.told(self.before),
            "after": conditions.told(after),
            "during": conditions.between(self.before, after),
            **self._sums,
            **counted,
            **told,
        }
