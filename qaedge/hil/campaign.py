"""A campaign: the models of a suite measured on its devices and judged, an Outcome for each as soon as it is final.

A device that is lost for good costs its own models alone; a later run of the same command measures those.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from qaedge.artifact import Artifact
from qaedge.device import Device
from qaedge.errors import (
    AgentFailed,
    AgentKilled,
    DeviceBusy,
    DeviceLost,
    HostKeyChanged,
    HostKeyUnknown,
    LoginRefused,
    NotComparable,
    QaedgeError,
    Unreachable,
)
from qaedge.hil.contest import RETAKES, contest, gather, persistently
from qaedge.hil.profile import Settings, open_session
from qaedge.progress import Step, changed
from qaedge.regression.baseline import Saved
from qaedge.regression.compare import FIRST_ROUNDS, Comparison, Verdict, needs_more
from qaedge.regression.limit import OF_A_BASELINE, Held, hold
from qaedge.regression.noise import Noise, load_noise
from qaedge.regression.outcome import Outcome
from qaedge.regression.result import SHAKEN, Result, confirmed, judge
from qaedge.regression.suite import Model, Suite, device_for

#: How many models take turns; what is lost when a board is lost is one such group.
GROUP = 8
#: The most rounds that are held against a saved baseline, whose own do not grow.
MOST_AGAINST_SAVED = 40
#: After one of these, the device is not asked for another model in this run.
LOST = (DeviceLost, AgentKilled, AgentFailed, Unreachable, HostKeyUnknown, HostKeyChanged, LoginRefused, DeviceBusy)

Key = tuple[str, str, str]
T = TypeVar("T")


class _Drawn(msgspec.Struct, frozen=True):
    """What is known of a model so far; `more` is how many rounds it still needs."""

    result: Result | None = None
    comparison: Comparison | None = None
    error: str = ""
    more: int = 0
    spoiled: int = 0


class Scores(msgspec.Struct, frozen=True):
    """What files are worth on validation images: mIoU by file, agreement with its baseline file by model."""

    miou: Mapping[Path, float] = {}
    agreement: Mapping[str, float] = {}


class Campaign:
    """One run of a suite."""

    def __init__(
        self,
        suite: Suite,
        against: Saved | None = None,
        done: Mapping[Key, Outcome] | None = None,
        scores: Scores | None = None,
        commit: str = "",
        settings: Settings | None = None,
    ) -> None:
        """Keep what to measure, what to hold it against, and what an interrupted run has done."""
        self._suite = suite
        self._against = against
        self._done = dict(done or {})
        self._scores = scores or Scores()
        self._commit = commit
        self._settings = settings or Settings()
        self._total = sum(len(suite.models_at(*place)) for place in suite.places)
        self._count = 0
        self._told: set[str] = set()

    def run(self) -> Iterator[Step]:
        """Measure and judge; yield a Step with an Outcome for each model on each device, and others between."""
        for name, runtime in self._suite.places:
            models = self._suite.models_at(name, runtime)
            left = [model for model in models if (model.name, name, runtime) not in self._done]
            for model in models:
                if model not in left:
                    yield self._final(self._done[model.name, name, runtime])
            if left:
                yield from self._place(name, runtime, left)
            yield from self._vanished(name)

    def _place(self, name: str, runtime: str, models: Sequence[Model]) -> Iterator[Step]:
        try:
            device, noise = device_for(name, runtime), load_noise(name)
        except QaedgeError as error:
            yield from self._lost(name, runtime, models, error)
            return
        alone = [model for model in models if model.baseline is None]
        groups: list[list[Model]] = [alone[at : at + GROUP] for at in range(0, len(alone), GROUP)]
        groups += [[model] for model in models if model.baseline is not None]
        for place, group in enumerate(groups):
            try:
                if group[0].baseline is not None:
                    found = [(yield from self._pair(device, runtime, group[0], noise))]
                else:
                    found = yield from self._group(device, runtime, group, noise)
            except QaedgeError as error:
                if len(group) == 1 and not isinstance(error, LOST):
                    yield from self._lost(name, runtime, group, error)
                    continue
                yield from self._lost(name, runtime, [model for rest in groups[place:] for model in rest], error)
                return
            for outcome in found:
                yield self._final(outcome)

    def _lost(self, device: str, runtime: str, models: Sequence[Model], error: QaedgeError) -> Iterator[Step]:
        for model in models:
            yield self._final(Outcome(model.name, device, runtime, error=str(error)))

    def _final(self, outcome: Outcome) -> Step:
        self._count += 1
        return Step(min(self._count, self._total), self._total, outcome.name, outcome)

    def _vanished(self, device: str) -> Iterator[Step]:
        if self._against is None or device in self._told:
            return
        self._told.add(device)
        for name in self._against.vanished([device], [model.name for model in self._suite.models]):
            text = (
                f"The model {name!r} has disappeared: the baseline {self._against.name!r} has it on {device}, the "
                "suite has not.\n"
                f"Put it back, or save the baseline anew: --save-baseline {self._against.name}"
            )
            yield Step(self._count, self._total, name, Outcome(name, device, error=text))

    def _pair(self, device: Device, runtime: str, model: Model, noise: Noise | None) -> Generator[Step, None, Outcome]:
        assert model.baseline is not None
        pair = (_artifact(model, model.baseline), _artifact(model, model.path))
        steps = contest(
            device,
            pair,
            threads=self._suite.threads,
            threshold=model.threshold,
            noise=noise,
            wait_s=self._suite.wait_s,
            settings=self._settings,
        )
        found = yield from self._counted(steps, model.name)
        result = msgspec.structs.replace(found.contender, model=model.name, commit=self._commit)
        return self._outcome(model, device.name, runtime, result, found.comparison)

    def _group(
        self, device: Device, runtime: str, models: Sequence[Model], noise: Noise | None
    ) -> Generator[Step, None, list[Outcome]]:
        """Measure models that have no baseline file in turn, and hold them against saved results."""
        found = yield from self._settled(device, models, noise)
        slower = [model for model in models if _is_slower(found[model.name])]
        if slower:  # a session can be unlucky; two that agree are not
            again = yield from self._settled(device, slower, noise)
            for model in slower:
                first, second = found[model.name].comparison, again[model.name].comparison
                if first is None or second is None:
                    found[model.name] = again[model.name]
                    continue
                comparison = confirmed(first, second)
                found[model.name] = msgspec.structs.replace(again[model.name], comparison=comparison)
        return [
            self._outcome(model, device.name, runtime, drawn.result, drawn.comparison, drawn.error)
            for model in models
            for drawn in (found[model.name],)
        ]

    def _settled(
        self, device: Device, models: Sequence[Model], noise: Noise | None
    ) -> Generator[Step, None, dict[str, _Drawn]]:
        """Measure in a session, and in another one those whose SLOWER or FASTER is in doubt, twice at most."""
        found = yield from self._session(device, models, noise)
        for _ in range(RETAKES):
            shaken = [model for model in models if _is_shaken(found[model.name])]
            if not shaken:
                break
            found |= yield from self._session(device, shaken, noise)
        return found

    def _session(
        self, device: Device, models: Sequence[Model], noise: Noise | None
    ) -> Generator[Step, None, dict[str, _Drawn]]:
        def work(wait_s: float) -> Generator[Step, None, dict[str, _Drawn]]:
            found: dict[str, _Drawn] = {}
            with open_session(device, wait_s=wait_s) as session:
                left, rounds = list(models), dict.fromkeys((model.name for model in models), FIRST_ROUNDS)
                for turn in range(20):
                    # All that are left take as many rounds as the one that needs most: they take turns.
                    order = msgspec.structs.replace(
                        self._settings, interleaved_rounds=max(rounds[model.name] for model in left)
                    )
                    files = [_artifact(model, model.path) for model in left]
                    threads = self._suite.threads or device.threads
                    taken = yield from gather(session, files, order, threads, seed=turn, commit=self._commit)
                    for model in left:
                        found[model.name] = self._drawn(model, found.get(model.name), taken[model.name], noise)
                    left = [model for model in left if found[model.name].more]
                    rounds = {model.name: found[model.name].more for model in left}
                    if not left:
                        break
            return found

        return (yield from self._counted(persistently(device, self._suite.wait_s, work), ""))

    def _drawn(self, model: Model, before: _Drawn | None, taken: Result | QaedgeError, noise: Noise | None) -> _Drawn:
        if isinstance(taken, QaedgeError):
            return _Drawn(error=str(taken))
        spoiled = before.spoiled if before else 0
        if not taken.is_judged and spoiled < RETAKES:
            kept = before.result if before else None
            return _Drawn(kept, before.comparison if before else None, "", FIRST_ROUNDS, spoiled + 1)
        result = before.result.extended(taken) if before and before.result else taken
        comparison: Comparison | None = None
        if self._against is not None:
            try:
                known = self._against.for_model(result)
                if known is not None:
                    comparison = judge(known, result, threshold=model.threshold, noise=noise)
            except NotComparable as error:
                return _Drawn(result, None, str(error))
        more = 0
        if comparison is not None and not comparison.reason:
            # The baseline's rounds do not grow; more of ours still narrow the interval.
            ours = msgspec.structs.replace(comparison, rounds=len(result.rounds_ns))
            more = needs_more(ours, MOST_AGAINST_SAVED)
        return _Drawn(result, comparison, "", more, spoiled)

    def _outcome(
        self,
        model: Model,
        device: str,
        runtime: str,
        result: Result | None,
        comparison: Comparison | None,
        error: str = "",
    ) -> Outcome:
        agreement = self._scores.agreement.get(model.name)
        held: tuple[Held, ...] = ()
        if result is not None:
            miou = self._scores.miou.get(model.path)
            result = msgspec.structs.replace(result, miou=miou) if miou is not None else result
            # A limit on what a baseline says holds where there is one; a new model has none yet.
            limits = [each for each in model.limits if comparison is not None or each.metric not in OF_A_BASELINE]
            held = tuple(hold(limit, result, comparison, agreement) for limit in limits)
        baseline_miou = self._scores.miou.get(model.baseline) if model.baseline else None
        return Outcome(model.name, device, runtime, result, comparison, held, agreement, error, baseline_miou)

    def _counted(self, steps: Generator[Step, None, T], name: str) -> Generator[Step, None, T]:
        """Tell the suite's own count in the place of each part's."""

        def counted(step: Step) -> Step:
            what = f"{name}: {step.what}" if name else step.what
            return Step(min(self._count, self._total), self._total, what, warning=step.warning)

        return (yield from changed(steps, counted))


def _artifact(model: Model, path: Path) -> Artifact:
    return Artifact.of(path, name=model.name)


def _is_slower(drawn: _Drawn) -> bool:
    return drawn.comparison is not None and drawn.comparison.verdict is Verdict.SLOWER


def _is_shaken(drawn: _Drawn) -> bool:
    """Whether to measure again would help: the baseline's own doubts stay."""
    mine = drawn.result is not None and not SHAKEN.keys().isdisjoint(drawn.result.doubts)
    return mine and drawn.comparison is not None and bool(drawn.comparison.held_for)
