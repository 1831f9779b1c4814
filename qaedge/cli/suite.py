"""`qaedge bench --suite`: the models of a suite, measured and judged, and what an interrupted run has done."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from qaedge import report
from qaedge.cli.outcomes import Written, commit_here, show
from qaedge.cli.resolve import note_fake
from qaedge.errors import QaedgeError, UsageError
from qaedge.files import only_one, read_bytes

if TYPE_CHECKING:
    from qaedge.cli.base import Taken
    from qaedge.device import Device
    from qaedge.hil.campaign import Campaign, Key, Scores
    from qaedge.regression.baseline import Saved
    from qaedge.regression.outcome import Outcome, Outcomes
    from qaedge.regression.suite import Suite

_RUN = "qaedge suite run"

File = Annotated[
    Path | None,
    typer.Option("--suite", metavar="FILE", help="Measure what this file lists, and judge it.", show_default=False),
]
Save = Annotated[
    str,
    typer.Option("--save-baseline", metavar="NAME", help="Of a suite: keep the results.", show_default=False),
]
Against = Annotated[
    str,
    typer.Option(
        "--against", metavar="NAME", help="Of a suite: compare with results that were kept.", show_default=False
    ),
]
Base = Annotated[
    str,
    typer.Option(
        "--base",
        metavar="REF",
        help="Of a suite: measure files that differ from this git branch's, or commit's, in turn with those.",
        show_default=False,
    ),
]
Check = Annotated[
    bool, typer.Option("--check", help="Of a suite: look the devices over first, as `device check` does.")
]


def run_suite(
    path: Path,
    save: str,
    against: str,
    base: str,
    check: bool,
    written: Written,
    wait_s: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure a suite, judge it, write what was asked for, and end with its exit status.

    A run that was interrupted, or lost a device, goes on with what it had not finished.
    """
    from qaedge.cli.base import with_base
    from qaedge.regression.baseline import FOLDER, check_name, read_saved
    from qaedge.regression.suite import device_for, needs_baseline, read_suite

    written.check()
    suite = read_suite(path)
    if save:
        check_name(save)
    if wait_s:
        suite = msgspec.structs.replace(suite, wait_s=wait_s)
    folder = path.parent / FOLDER
    saved = read_saved(folder, against) if against else None
    with contextlib.ExitStack() as stack:
        equal: tuple[str, ...] = ()
        if base:
            taken = stack.enter_context(with_base(suite, base))
            suite, equal = taken.suite, taken.equal
            _tell_base(taken, base, quiet)
        if saved:  # a model with a baseline file of its own asks for no saved results
            saved.check_devices(name for model in suite.models if model.baseline is None for name in model.devices)
        unheld = [model.name for model in suite.models if needs_baseline(model) and model.name not in equal]
        if unheld and not against and not save:
            report.warn(
                f"no baseline is given, so limits against one are not judged: {', '.join(unheld)}. Add --against NAME."
            )
        devices = {name: device_for(name, runtime) for name, runtime in suite.places}
        note_fake(devices.values(), quiet)
        if check:
            _look_over(devices.values())
        found = _judged(suite, saved, quiet)
    if as_json:
        report.json_out(found)
    else:
        show(found)
    written.write(found, quiet)
    if save:
        _save(folder, save, suite, found, quiet)
    raise typer.Exit(found.exit_status)


def _tell_base(taken: Taken, base: str, quiet: bool) -> None:
    """Say which models are held against the base, and which are not."""
    said = (("differs", taken.differing), ("the same", taken.equal), ("not there", taken.new))
    parts = [f"{word}: {', '.join(names)}" for word, names in said if names]
    report.note(f"beside {base}: {'; '.join(parts) or 'every model names its own baseline'}", quiet)


def _look_over(devices: Iterable[Device]) -> None:
    """Warn of what would make a device's times not true."""
    from qaedge.hil.doctor import BAD, PAGE, examine

    for device in devices:
        for found in examine(device):
            if found.verdict == BAD:
                text = " ".join(f"{found.what}: {found.found}. {found.advice}".split())
                report.warn(f"{device.name}: {text} See {PAGE}, {found.see!r}.")


def _judged(suite: Suite, saved: Saved | None, quiet: bool) -> Outcomes:
    """Measure and judge, with what a run that did not end has finished."""
    from qaedge.hil.campaign import Campaign
    from qaedge.regression.outcome import gathered

    path = suite.path
    scores = _scores(suite, quiet)
    commit = commit_here(path.parent)
    partial = path.parent / "results" / "suites" / f"{path.stem}.jsonl"
    with only_one(partial.with_suffix(".lock"), f"measuring {path}"):
        digest = _digest(suite, saved)
        done = _done(partial, digest)
        if done:
            report.note(f"{len(done)} outcomes are kept from a run that did not end", quiet)
        outcomes = list(_measure(Campaign(suite, saved, done, scores, commit), partial, digest, done, quiet))
        if not any(outcome.error for outcome in outcomes):
            partial.unlink(missing_ok=True)
    return gathered(suite.name, outcomes, commit, datetime.now(timezone.utc).isoformat(timespec="seconds"))


def _measure(
    campaign: Campaign, partial: Path, digest: str, done: dict[Key, Outcome], quiet: bool
) -> Iterator[Outcome]:
    """Yield each outcome when it is on disk; one that is an error is not kept, so that a rerun tries it again."""
    from qaedge.regression.outcome import Finished
    from qaedge.store import Store

    store = Store(partial, Finished, _RUN)
    for step in report.progress(campaign.run(), "measuring", quiet):
        outcome: Outcome = step.result
        if (outcome.model, outcome.device, outcome.runtime) not in done and not outcome.error:
            store.append(Finished(digest, outcome))
        yield outcome


def _done(partial: Path, digest: str) -> dict[Key, Outcome]:
    """Return what a run of the same suite, files and baseline finished before it was interrupted."""
    from qaedge.regression.outcome import Finished
    from qaedge.store import Store

    if not partial.exists():
        return {}
    rows = [row for row in Store(partial, Finished, _RUN).rows() if row.digest == digest]
    if not rows:  # of another suite, or of files that have changed since
        partial.unlink()
    return {(row.outcome.model, row.outcome.device, row.outcome.runtime): row.outcome for row in rows}


def _digest(suite: Suite, saved: Saved | None) -> str:
    from qaedge.regression.suite import device_for

    parts = [read_bytes(suite.path)]
    # Another number of threads, or other cores, are another measurement.
    parts += [msgspec.json.encode(device_for(name, runtime)) for name, runtime in suite.places]
    for model in suite.models:
        parts.append(read_bytes(model.path))
        parts.append(read_bytes(model.baseline) if model.baseline else b"")
    parts.append(msgspec.json.encode(saved.results) if saved else b"")
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _scores(suite: Suite, quiet: bool) -> Scores | None:
    if not suite.needs_data:
        return None
    from qaedge.cli.accuracy import scores

    pairs = {model.name: (model.path, model.baseline) for model in suite.models if model.baseline}
    files = [path for model in suite.models for path in (model.path, model.baseline) if path]
    return scores(suite.project, files, pairs, quiet)


def _save(folder: Path, name: str, suite: Suite, found: Outcomes, quiet: bool) -> None:
    """Keep the results, unless some are missing or not to be judged: a baseline with holes hides what is in them."""
    from qaedge.regression.baseline import save_baseline
    from qaedge.regression.result import not_judged

    names = {model.name for model in suite.models}
    mine = [outcome for outcome in found.outcomes if outcome.model in names]
    wrong = [o.name for o in mine if o.result is None or not_judged(o.result)]
    if wrong:
        verb = "were" if len(wrong) > 1 else "was"
        raise QaedgeError(
            f"The baseline {name!r} was not saved: {', '.join(wrong)} {verb} not measured as it should be.",
            "Mend that, and run the same command again.",
        )
    for file in save_baseline(folder, name, [o.result for o in mine if o.result is not None]):
        report.note(f"saved {file}", quiet)


def only_with_a_suite(**flags: object) -> None:
    """Raise UsageError where a flag was given that works on suites alone."""
    given = [f"--{name.replace('_', '-')}" for name, value in flags.items() if value]
    if given:
        raise UsageError(f"{', '.join(given)} {'are' if len(given) > 1 else 'is'} for suites.", "Add --suite FILE.")


def without_a_suite(**flags: object) -> None:
    """Raise UsageError where something was given that a suite says itself."""
    given = [f"--{name.replace('_', '-')}" if name != "files" else "FILES" for name, value in flags.items() if value]
    if given:
        verb = "are" if len(given) > 1 else "is"
        raise UsageError(f"{', '.join(given)} {verb} not for suites.", "Write it into the suite's file.")
