"""What a child does: load one file, and take a round, or loop, whenever it is told to (R2 to R5, R11, R12)."""

import gc
import os
import resource
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

import canary
import inputs
import sampling
from counters import Counters
from tensors import Unfit, Unsupported

Message = Dict[str, Any]


class Work:
    """One candidate: its session is opened by the first round and kept for the later ones."""

    def __init__(self, runtime: Any, path: str, order: Message) -> None:
        """Name what is to be measured; `order` is the host's measure message, with the candidate's own in it."""
        self._runtime = runtime
        self._path = path
        self._threads = int(order["threads"])
        self._options = order["options"]
        self._inputs = order.get("inputs")
        self._settings = warmed(order["settings"], runtime, self._options)
        self._session: Any = None
        self._canary: Optional[canary.Canary] = None
        self._peak_bytes: Optional[int] = None
        self._repeats = 1
        # Before the runtime starts threads: those that are there already would not be counted.
        self._counters = Counters()

    def answer(self, message: Message) -> Message:
        """Take one round; a failure is an answer, too.

        The message holds `overheads` (known ones, by signature), what is known of the `canary` and, for a child that
        replaces one that died, `repeats`. One of the type "run" lasts `seconds`, for a look at the power.
        """
        try:
            return self._loop(float(message["seconds"])) if message["type"] == "run" else self._round(message)
        except MemoryError:
            return {"type": "failed", "kind": "memory", "text": "memory ran out"}
        except Unsupported as reason:
            # Nothing that another try would change.
            kind = "inputs" if isinstance(reason, Unfit) else "failed"
            return {"type": "failed", "kind": kind, "text": str(reason)[:2000], "again": False}
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
            self._canary = canary.beside(self._session, self._settings, clock, message["canary"])
        run = self._session
        switches, waited = _switches(), _waited_ns()
        if first:
            warm, repeats, steady, spent = sampling.warm_up(run, self._settings, clock)
            self._repeats = int(message.get("repeats") or repeats)
            found["warm"] = steady
        else:
            warm, spent = sampling.warm_again(run, self._settings, self._repeats, clock)
            if self._canary is not None:
                self._canary.learn(message["canary"])
        self._counters.begin()
        taken = sampling.take_round(run, self._settings, self._repeats, clock, self._canary, self._counters)
        for name, value in self._counters.end().items():
            found[name] = value / float(self._repeats * (len(taken.samples) + len(taken.aside)))
        found["warmup_ns"] = [int(t) for t in warm]
        found["samples_ns"] = taken.samples
        found["aside_ns"] = taken.aside
        found["disturbed"] = taken.disturbed
        found["canary"] = self._canary.known if self._canary is not None else {}
        found["repeats"] = self._repeats
        found["measuring_ns"] += spent + taken.spent_ns
        found["switches"] = _difference(switches, _switches())
        in_round = _difference(waited, _waited_ns())
        found["waited_ns"] = _share(in_round, spent + sum(taken.samples), spent + taken.spent_ns)
        found["peak_bytes"] = self._peak_bytes
        return found

    def _loop(self, seconds: float) -> Message:
        """Run for as long as was asked, and say how often; the clock is looked at once per sample."""
        clock, limit = time.perf_counter_ns, sampling.ns(seconds)
        run, repeats, runs = self._session, self._repeats, 0
        start = now = clock()
        while now < start + limit:
            sampling.sample(run, repeats, clock)
            runs += repeats
            now = clock()
        return {"type": "ran", "runs": runs, "start_ns": start, "end_ns": now, "measuring_ns": now - start}

    def _open(self, clock: Callable[[], int], overheads: Dict[str, int]) -> Message:
        before = _memory("VmRSS")
        # What is made once and shipped, such as TensorRT's engine, is no part of loading.
        prepare = getattr(self._runtime, "prepare", None)
        ready = {"prepared": prepare(self._path, self._threads, self._options)} if prepare else {}
        if self._inputs is not None:
            ready["inputs"] = inputs.read(self._inputs, self._runtime.numpy)
        start = clock()
        session = self._runtime.load(self._path, self._threads, self._options, **ready)
        loaded = clock()
        session()
        first = clock()
        session.settle()
        session()  # a runtime may plan its memory by the first run, and take it in the second
        # Before the empty model is loaded beside it, which happens in the first process with these tensors alone.
        self._peak_bytes = _difference(before, _memory("VmHWM"))
        found: Message = {"load_ns": loaded - start, "first_ns": first - loaded, "measuring_ns": 0}
        # What a runtime leaves to a delegate, and so what a call costs, hangs on it and its options.
        runtime = [getattr(self._runtime, "NAME", ""), sorted(self._options.items(), key=str)]
        tensors = [[list(t[1:]) for t in ts] for ts in (session.inputs, session.outputs)]
        found["signature"] = signature = repr([runtime, tensors])
        if getattr(session, "delegate", ""):
            found["delegate"] = session.delegate
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


def warmed(settings: Message, runtime: Any, options: Message) -> Message:
    """Return the settings with the warm-up that the runtime's processor needs: a GPU's clocks rise slowly (R4)."""
    needs = getattr(runtime, "warmup_s", None)
    if needs is None:
        return settings
    least = max(settings["warmup_s"], needs(options))
    return dict(settings, warmup_s=least, warmup_limit_s=max(settings["warmup_limit_s"], least))


def pin(cores: List[int]) -> None:
    """Keep this process on these cores; nothing where the system has no such call."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def _difference(before: Optional[int], after: Optional[int]) -> Optional[int]:
    """Return what was added, or None where either reading is absent."""
    return None if before is None or after is None else max(0, after - before)


def _share(whole: Optional[int], part_ns: int, of_ns: int) -> Optional[int]:
    """Return what falls to a part of the time: what was waited while nothing was measured is no sample's."""
    return None if whole is None else whole * part_ns // max(1, part_ns, of_ns)


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
