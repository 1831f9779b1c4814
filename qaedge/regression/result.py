"""A result: what one file took on one device, small enough for git, and judged against another one."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Iterator
from typing import Any

import msgspec

from qaedge.artifact import Artifact
from qaedge.fingerprint import OF_THE_RUNTIME, differences, fingerprint_of
from qaedge.measurement import SPOILED, Measurement
from qaedge.regression.compare import Comparison, Side, Verdict, compare, held_back
from qaedge.regression.noise import Noise

#: What may differ between a baseline and what is held against it: a baseline outlives many starts of a board, and
#: another version of a runtime is a finding of its own.
PASSING = frozenset({"boot_id", "runtime_version"})
#: Doubts after which the time is not the file's; "changed" mixes two states of a device.
NOT_JUDGED = SPOILED | {"changed"}
#: Doubts of a device that did other work, too, and what each means: by that alone a file may differ from itself.
SHAKEN = {
    "disturbed": "too few moments were quiet on its core",
    "drifted": "its reference model took over 5 % more or less than at first",
    "waited": "another process had the core for more than 5 % of the time",
}
#: Rounds that agree to this (their coefficient of variation) show nothing of another process: files measured in turn
#: lost as much time to it.
QUIET = 0.02
#: In such doubt, a file is slower or faster where the whole interval says so by more than this.
BEYOND_DOUBT = 0.5
#: What no file on any board goes beyond: an hour, 2^50 bytes, and what counters hold.
LONGEST_NS, LARGEST_BYTES, MOST_INSTRUCTIONS = 3600 * 10**9, 2**50, 1e18
#: How far the reference model of two sessions may be apart; from the one on, times are scaled, beyond the other the
#: board is not what it was (R14).
SCALED, MOVED = 0.02, 0.05


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file took.

    Attributes:
        model: what the file is called, in every run the same.
        device, runtime, runtime_version, threads: where, and by what.
        fingerprint: what must agree before it is held against another.
        sha256, size_bytes: which file.
        rounds_ns: the median of each round [ns].
        samples: how many samples are behind them.
        p90_ns, p99_ns: of those samples; None where they are too few.
        load_ns, first_run_ns, peak_memory_bytes: cold figures.
        reference_ns: what the reference model took in that session.
        measured_at: when.
        commit: of what, where that is known.
        doubts: reasons to distrust it.
        miou: of the file on validation images, where it was scored.
        instructions: per inference, where they are counted.
    """

    model: str
    device: str
    runtime: str
    runtime_version: str
    threads: int
    fingerprint: dict[str, Any]
    sha256: str
    size_bytes: int
    rounds_ns: tuple[int, ...]
    samples: int
    p90_ns: int | None = None
    p99_ns: int | None = None
    load_ns: int = 0
    first_run_ns: int | None = None
    peak_memory_bytes: int | None = None
    reference_ns: int | None = None
    measured_at: str = ""
    commit: str = ""
    doubts: tuple[str, ...] = ()
    miou: float | None = None
    instructions: float | None = None

    @staticmethod
    def of(model: str, artifact: Artifact, found: Measurement, commit: str = "") -> Result:
        """Summarize a measurement."""
        return Result(
            model=model,
            device=found.device,
            runtime=found.runtime,
            runtime_version=found.runtime_version,
            threads=found.threads,
            fingerprint=fingerprint_of(found),
            sha256=artifact.sha256,
            size_bytes=artifact.size_bytes,
            rounds_ns=tuple(round(value * 1e9) for value in found.round_medians_s),
            samples=len(found.samples_s),
            p90_ns=_ns(found.p90_s),
            p99_ns=_ns(found.p99_s),
            load_ns=round(found.load_s * 1e9),
            first_run_ns=_ns(found.first_run_s),
            peak_memory_bytes=found.peak_memory_bytes,
            reference_ns=_ns(found.reference_s),
            measured_at=found.started_at,
            commit=commit,
            doubts=found.doubts,
            instructions=found.instructions,
        )

    @property
    def median_s(self) -> float:
        """The median over rounds [s]."""
        return statistics.median(self.rounds_ns) * 1e-9

    @property
    def version(self) -> str:
        """The runtime in words; TFLite's version names the package, which is one of two."""
        return self.runtime_version if " " in self.runtime_version else f"{self.runtime} {self.runtime_version}"

    @property
    def cv(self) -> float:
        """The coefficient of variation of the rounds: how far they are apart, as a share; infinite of a single one."""
        if len(self.rounds_ns) < 2:
            return math.inf
        return statistics.stdev(self.rounds_ns) / statistics.mean(self.rounds_ns)

    @property
    def is_judged(self) -> bool:
        """Whether its time is the file's."""
        return NOT_JUDGED.isdisjoint(self.doubts)

    def extended(self, more: Result) -> Result:
        """Return it with the rounds of a later part; cold figures and quantiles stay those of the first."""
        return msgspec.structs.replace(
            self,
            rounds_ns=(*self.rounds_ns, *more.rounds_ns),
            samples=self.samples + more.samples,
            doubts=tuple(sorted({*self.doubts, *more.doubts})),
        )

    def side(self, name: str = "", without: frozenset[str] = frozenset(), scale: float = 1.0) -> Side:
        """Return it as one side of a comparison, less some fields of its fingerprint."""
        return Side(
            name=name or self.model,
            values_s=tuple(value * 1e-9 * scale for value in self.rounds_ns),
            size_bytes=self.size_bytes,
            peak_memory_bytes=(self.peak_memory_bytes,) if self.peak_memory_bytes else (),
            first_run_s=(self.first_run_ns * 1e-9,) if self.first_run_ns else (),
            fingerprint={key: value for key, value in self.fingerprint.items() if key not in without},
        )


def absurd(result: Result) -> Iterator[tuple[str, str, float]]:
    """Yield each value that nothing takes: its key, what is expected there, and what was found.

    A file that was edited or merged may hold any number; an agent's own are checked when they arrive.
    """
    if not result.rounds_ns:
        yield "rounds_ns", "at least one round", 0
    times: dict[str, int | None] = {f"rounds_ns[{number}]": value for number, value in enumerate(result.rounds_ns)}
    times |= {key: getattr(result, key) for key in ("p90_ns", "p99_ns", "first_run_ns", "reference_ns")}
    for key, value in times.items():
        if value is not None and not 0 < value <= LONGEST_NS:
            yield key, f"nanoseconds from 1 to {LONGEST_NS}", value
    if not 0 <= result.load_ns <= LONGEST_NS:
        yield "load_ns", f"nanoseconds from 0 to {LONGEST_NS}", result.load_ns
    for key in ("size_bytes", "peak_memory_bytes"):
        value = getattr(result, key)
        if value is not None and not 0 <= value <= LARGEST_BYTES:
            yield key, f"bytes from 0 to {LARGEST_BYTES}", value
    if result.samples < len(result.rounds_ns):
        yield "samples", f"at least one in each of {len(result.rounds_ns)} rounds", result.samples
    if result.threads < 1:
        yield "threads", "at least 1", result.threads
    if result.miou is not None and not 0 <= result.miou <= 1:
        yield "miou", "a share from 0 to 1", result.miou
    if result.instructions is not None and not 0 < result.instructions <= MOST_INSTRUCTIONS:
        yield "instructions", f"a count above 0, at most {MOST_INSTRUCTIONS:g}", result.instructions


def fingerprint_key(fingerprint: dict[str, Any]) -> str:
    """Return a short name for a state of a device, the same after each start and for each version of a runtime."""
    lasting = {key: value for key, value in fingerprint.items() if key not in PASSING and value not in ("", [], {})}
    return hashlib.sha256(msgspec.json.encode(lasting, order="deterministic")).hexdigest()[:12]


def judge(baseline: Result, contender: Result, *, threshold: float = 0.0, noise: Noise | None = None) -> Comparison:
    """Hold a result against one of another session.

    Where the reference model of the two sessions differs by 2 to 5 %, times are scaled by it; beyond, the board
    is not what it was, and nothing is decided. Of two versions of a runtime, the reference model says nothing.

    Raises NotComparable where their fingerprints differ in more than what a baseline outlives.
    """
    change = ""
    if (baseline.runtime, baseline.runtime_version) != (contender.runtime, contender.runtime_version):
        change = f"{baseline.version} -> {contender.version}"
    moved = 0.0
    if not change and baseline.reference_ns and contender.reference_ns:
        moved = contender.reference_ns / baseline.reference_ns - 1
    scale = 1 / (1 + moved) if SCALED < abs(moved) <= MOVED else 1.0
    without = PASSING if baseline.runtime == contender.runtime else PASSING | {"runtime"}
    found = compare(
        baseline.side(f"{baseline.model} (baseline)", without),
        contender.side(f"{contender.model} (now)", without, scale),
        threshold=threshold,
        noise_floor=noise.floor_across if noise else 0.0,
        paired=False,
    )
    found = told(found, contender, noise)
    found = msgspec.structs.replace(found, runtime_change=change, baseline=baseline.model, contender=contender.model)
    if spoiled := not_judged(baseline, contender):
        return held_back(found, spoiled)
    if abs(moved) > MOVED:
        word = "longer" if moved > 0 else "less long"
        return held_back(found, f"the board: its reference model takes {100 * abs(moved):.0f} % {word} than it did")
    return believed(found, baseline, contender)


def told(found: Comparison, contender: Result, noise: Noise | None) -> Comparison:
    """Return a comparison with the samples behind it, and what is known of false alarms."""
    doubt = ""
    if noise and noise.fingerprint:
        fields = {*noise.fingerprint, *contender.fingerprint} - PASSING - OF_THE_RUNTIME
        doubt = "; ".join(
            f"{one.field} was {one.word(one.wanted)} and is {one.word(one.found)}"
            for one in differences(contender.fingerprint, noise.fingerprint, fields)
        )
    return msgspec.structs.replace(
        found,
        samples=contender.samples,
        noise_doubt=doubt,
        false_slower=noise.false_slower if noise else None,
        aa_comparisons=noise.comparisons if noise else None,
    )


def not_judged(*results: Result) -> str:
    """Say why the times of some of these are not the files'; nothing where they are."""
    doubts = sorted({doubt for result in results for doubt in result.doubts} & NOT_JUDGED)
    return f"measured while the device was {' and '.join(doubts)}" if doubts else ""


def believed(found: Comparison, *results: Result, in_turn: bool = False) -> Comparison:
    """Hold a SLOWER or FASTER back that may be the work of others on the device; `held_for` is not empty then.

    What differs by more than such work explains stands: the whole interval beyond 50 %, or the threshold. So do files
    that were measured `in_turn` and waited for their core, or shared it, in rounds that agree to 2 % all the same.
    """
    counted = set(SHAKEN)
    if in_turn and all(result.cv <= QUIET for result in results):
        counted -= {"waited", "disturbed"}
    doubts = tuple(sorted({doubt for result in results for doubt in result.doubts} & counted))
    if not doubts or found.verdict not in (Verdict.SLOWER, Verdict.FASTER):
        return found
    beyond = 1 + max(BEYOND_DOUBT, found.threshold)
    if found.low > beyond or found.high < 1 / beyond:
        return found
    reason = (
        f"{100 * (found.ratio - 1):+.1f} %, in doubt: the device did other work while this was measured "
        f"({'; '.join(f'{doubt}: {SHAKEN[doubt]}' for doubt in doubts)}). End what else runs there, and compare again"
    )
    return msgspec.structs.replace(held_back(found, reason), held_for=doubts)


def confirmed(first: Comparison, second: Comparison) -> Comparison:
    """Return what two sessions say together: slower only where both do."""
    if first.verdict is not Verdict.SLOWER or second.verdict is Verdict.SLOWER:
        return second if first.verdict is Verdict.SLOWER else first
    return held_back(second, second.reason or "slower at first, and not when measured again in a fresh process")


def _ns(value: float | None) -> int | None:
    return round(value * 1e9) if value is not None else None
