"""What a child does: load one file, and take a round whenever it is told to (R2 to R5, R11, R12)."""

import gc
import os
import resource
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

import sampling

Message = Dict[str, Any]


class Work:
    """One candidate: its session is opened by the first round and kept for the later ones."""

    def __init__(self, runtime: Any, path: str, order: Message) -> None:
        """Name what is to be measured; `order` is the host's measure message."""
        self._runtime = runtime
        self._path = path
        self._threads = int(order["threads"])
        self._options = order["options"]
        self._settings = order["settings"]
        self._session: Any = None
        self._repeats = 1

    def answer(self, message: Message) -> Message:
        """Take one round; a failure is an answer, too.

        The message holds `overheads` (known ones, by signature) and, for a child that replaces
        one that died, `repeats`.
        """
        try:
            return self._round(message)
        except MemoryError:
            return {"type": "failed", "kind": "memory", "text": "memory ran out"}
        except Exception as error:  # noqa: BLE001 - a runtime raises what it likes
            text = str(error) or type(error).__name__
            kind = "memory" if "alloc" in text.lower() else "failed"
            return {"type": "failed", "kind": kind, "text": text[:2000]}

    def _round(self, message: Message) -> Message:
        clock = time.perf_counter_ns
        found: Message = {"type": "round", "measuring_ns": 0}
        first = self._session is None
        if first:
            found.update(self._open(clock, message["overheads"]))
        run = self._session
        switches, waited = _switches(), _waited_ns()
        if first:
            warm, repeats, steady, spent = sampling.warm_up(run, self._settings, clock)
            self._repeats = int(message.get("repeats") or repeats)
            found["warm"] = steady
        else:
            warm, spent = sampling.warm_again(run, self._settings, self._repeats, clock)
        samples = sampling.take_round(run, self._settings, self._repeats, clock)
        found["warmup_ns"] = [int(t) for t in warm]
        found["samples_ns"] = samples
        found["repeats"] = self._repeats
        found["measuring_ns"] += spent + sum(samples)
        found["switches"] = _difference(switches, _switches())
        found["waited_ns"] = _difference(waited, _waited_ns())
        found["peak_bytes"] = _difference(self._before_bytes, _memory("VmHWM"))
        return found

    def _open(self, clock: Callable[[], int], overheads: Dict[str, int]) -> Message:
        self._before_bytes = _memory("VmRSS")
        start = clock()
        session = self._runtime.load(self._path, self._threads, self._options)
        loaded = clock()
        session()
        first = clock()
        session.settle()
        found: Message = {"load_ns": loaded - start, "first_ns": first - loaded, "measuring_ns": 0}
        found["signature"] = signature = repr([[list(t[1:]) for t in ts] for ts in (session.inputs, session.outputs)])
        overhead = overheads.get(signature)
        if overhead is None:
            sides = [self._overhead(tensors, clock) for tensors in (session.inputs, session.outputs) if tensors]
            # Each identity reads and writes its tensors; the candidate reads the one and writes the other.
            overhead = sum(median for median, _ in sides) // max(1, len(sides))
            found["measuring_ns"] = sum(spent for _, spent in sides)
        found["overhead_ns"] = overhead
        self._session = session
        gc.collect()
        gc.disable()  # a collection in the middle of a sample would be somebody else's time
        return found

    def _overhead(self, tensors: List[Any], clock: Callable[[], int]) -> Tuple[int, int]:
        """Return the median time of a call that does nothing to such tensors, and the time spent [ns]."""
        session = self._runtime.load_identity(tensors, self._threads, self._options)
        session()
        session.settle()
        target, least = sampling.ns(self._settings["sample_s"]), sampling.ns(self._settings["overhead_s"])
        estimate = sampling.median([float(sampling.sample(session, 1, clock)) for _ in range(5)])
        repeats = sampling.repeats_for(estimate, target)
        times: List[float] = []
        spent = 0
        while spent < least or len(times) < 5:
            taken = sampling.sample(session, repeats, clock)
            times.append(taken / repeats)
            spent += taken
        return max(1, int(sampling.median(times))), spent


def pin(cores: List[int]) -> None:
    """Keep this process on these cores; nothing where the system has no such call."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def _difference(before: Optional[int], after: Optional[int]) -> Optional[int]:
    """Return what was added, or None where either reading is absent."""
    return None if before is None or after is None else max(0, after - before)


def _switches() -> int:
    """Return how often another process took the core away."""
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)


def _waited_ns() -> Optional[int]:
    """Return how long this process's threads were ready and had no core [ns]; None where the kernel does not say."""
    total = 0
    try:
        for task in os.listdir("/proc/self/task"):
            with open("/proc/self/task/%s/schedstat" % task) as file:
                total += int(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return total


def _memory(key: str) -> Optional[int]:
    """Return a line of /proc/self/status [bytes]; None where there is none."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith(key + ":"):
                    return int(line.split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    return None
