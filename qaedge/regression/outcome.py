"""An outcome: what a suite found of one model on one device, and of all of them together."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from qaedge.regression.compare import Comparison, Verdict, together
from qaedge.regression.limit import SLOWER, Held
from qaedge.regression.result import Result

FORMAT, VERSION = "qaedge outcomes", 1


class Outcome(msgspec.Struct, frozen=True):
    """One model on one device.

    Attributes:
        model, device, runtime: which; `runtime` as the suite says, or empty.
        result: what it took; None where it was not measured.
        comparison: against its baseline; None where it has none.
        held: its limits.
        agreement: the share of pixels with the class that the baseline gives; None where that was not asked for.
        error: why it was not measured, or not compared, and what to do.
        baseline_miou: of the baseline file, where it was scored.
    """

    model: str
    device: str
    runtime: str = ""
    result: Result | None = None
    comparison: Comparison | None = None
    held: tuple[Held, ...] = ()
    agreement: float | None = None
    error: str = ""
    baseline_miou: float | None = None

    @property
    def verdict(self) -> Verdict | None:
        """What the comparison says."""
        return self.comparison.verdict if self.comparison else None

    @property
    def broken(self) -> tuple[Held, ...]:
        """The limits that are not kept."""
        return tuple(held for held in self.held if held.kept is False)

    @property
    def open(self) -> tuple[Held, ...]:
        """The limits of which that cannot be told."""
        return tuple(held for held in self.held if held.kept is None)

    @property
    def exit_status(self) -> int:
        """0, 1 for an error, 3 for slower or a broken limit, 4 for not decided."""
        if self.broken or self.verdict is Verdict.SLOWER:
            return 3
        if self.error:
            return 1
        return 4 if self.open or self.verdict is Verdict.UNKNOWN else 0

    @property
    def name(self) -> str:
        """The model and where it was measured."""
        by = self.result.version if self.result else self.runtime
        return f"{self.model} on {self.device}" + (f" ({by})" if by else "")


class Finished(msgspec.Struct, frozen=True):
    """An outcome of a run that has not ended yet; `digest` is of all that it depends on."""

    digest: str
    outcome: Outcome


class Outcomes(msgspec.Struct, frozen=True):
    """All that a suite found; `findings` are what concerns more than one model."""

    suite: str
    outcomes: tuple[Outcome, ...]
    findings: tuple[str, ...] = ()
    commit: str = ""
    measured_at: str = ""
    format: str = FORMAT
    version: int = VERSION

    @property
    def exit_status(self) -> int:
        """The gravest: 3 for slower or a broken limit, then 1 for an error, then 4 for not decided, then 0."""
        found = {outcome.exit_status for outcome in self.outcomes}
        return next((status for status in (3, 1, 4) if status in found), 0)


def gathered(suite: str, outcomes: Sequence[Outcome], commit: str = "", measured_at: str = "") -> Outcomes:
    """Put outcomes together: comparisons are judged as many (Benjamini-Hochberg), and runtimes that changed are told.

    A limit on slowness that a held back verdict had broken is open again.
    """
    places = [place for place, outcome in enumerate(outcomes) if outcome.comparison is not None]
    judged = together([found for outcome in outcomes if (found := outcome.comparison) is not None])
    kept = list(outcomes)
    for place, comparison in zip(places, judged, strict=True):
        before = kept[place]
        if before.comparison != comparison:
            held = tuple(
                Held(each.limit, None, comparison.reason) if each.limit.startswith(SLOWER) else each
                for each in before.held
            )
            kept[place] = msgspec.structs.replace(before, comparison=comparison, held=held)
    return Outcomes(suite, tuple(kept), runtime_findings(kept), commit, measured_at)


def runtime_findings(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """Say what each change of a runtime did: "onnxruntime 1.31 -> 1.32 on pi4: 14 % slower (3 models, ...)"."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for outcome in outcomes:
        if outcome.comparison is not None and outcome.comparison.runtime_change:
            groups.setdefault((outcome.comparison.runtime_change, outcome.device), []).append(outcome.comparison)
    found = []
    for (change, device), comparisons in sorted(groups.items()):
        ratios = sorted(comparison.ratio for comparison in comparisons)
        middle = ratios[len(ratios) // 2]
        counts = [
            f"{number} {verdict.value if verdict is not Verdict.UNKNOWN else 'not decided'}"
            for verdict in Verdict
            if (number := sum(comparison.verdict is verdict for comparison in comparisons))
        ]
        models = "1 model" if len(ratios) == 1 else f"{len(ratios)} models"
        span = f", {_percent(ratios[0])} to {_percent(ratios[-1])}" if len(ratios) > 1 else ""
        found.append(f"{change} on {device}: {_percent(middle)} ({models}{span}: {', '.join(counts)})")
    return tuple(found)


def _percent(ratio: float) -> str:
    change = 100 * (ratio - 1)
    return f"{abs(change):.1f} % {'slower' if change >= 0 else 'faster'}"
