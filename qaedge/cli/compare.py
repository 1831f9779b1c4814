"""`qaedge compare`: is a contender slower than a baseline? Measured now in one session, or from saved results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from qaedge import report
from qaedge.artifact import FORMATS, Artifact
from qaedge.cli import options, outcomes
from qaedge.cli.resolve import device_of, note_fake
from qaedge.device import Device
from qaedge.errors import NotComparable, QaedgeError, UsageError
from qaedge.units import format_bytes, format_count, format_seconds, parse_seconds

if TYPE_CHECKING:
    from qaedge.regression.compare import Comparison
    from qaedge.regression.outcome import Outcome, Outcomes
    from qaedge.regression.result import Result

EXAMPLES = (
    "qaedge compare baseline.onnx contender.onnx",
    "qaedge compare baseline.onnx contender.onnx --device local --threshold 5%",
    "qaedge compare baselines/main/pi4-0123456789ab.json contender.onnx --device pi4",
)
#: How saved results end.
SAVED = ".json"


def run(
    baseline: Annotated[
        Path, typer.Argument(metavar="BASELINE", help="What is there (.onnx, .tflite), or saved results (.json).")
    ],
    contender: Annotated[
        Path, typer.Argument(metavar="CONTENDER", help="What would replace it (.onnx, .tflite), or saved results.")
    ],
    threshold: Annotated[
        str, typer.Option(metavar="SHARE", help="The least change that matters; never below 3%.")
    ] = "3%",
    data: Annotated[
        bool, typer.Option("--data", help="Score both on the project's validation images, too; needs the extra nn.")
    ] = False,
    instructions: Annotated[
        bool,
        typer.Option("--instructions", help="Compare instructions per inference, not times, where they are counted."),
    ] = False,
    device: options.Device = None,
    threads: options.Threads = None,
    wait: options.Wait = "0s",
    junit: outcomes.Junit = None,
    markdown: outcomes.Markdown = None,
    github: outcomes.Github = False,
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure two files in turn until it is clear whether the contender is slower; or compare saved results.

    Exit status 0: no; 3: slower, and slower again when all was measured anew; 4: not decided.
    """
    from qaedge.regression.compare import parse_threshold
    from qaedge.regression.outcome import gathered

    share = parse_threshold(threshold)
    saved = baseline.suffix == SAVED, contender.suffix == SAVED
    if saved == (False, True):
        raise UsageError(
            f"{contender} holds saved results, and {baseline} is a file.",
            "Give two files, two saved results, or saved results and then a file.",
        )
    if data and any(saved):
        raise UsageError("--data scores files, and saved results are none.", "Give two files.")
    if instructions and any(saved):
        raise UsageError("--instructions counts files, and saved results are none.", "Give two files.")
    written = outcomes.Written(junit, markdown, github)
    written.check()
    if saved == (True, True):
        judged = _saved(baseline, contender, share)
    else:
        described = device_of(device, project)
        note_fake([described], quiet)
        judge = _against if saved[0] else _counted if instructions else _live
        judged = [judge(described, baseline, contender, threads, share, parse_seconds(wait), quiet)]
    if data:
        judged = [_scored(judged[0], baseline, contender, project, quiet)]
    found = gathered(f"{contender} against {baseline}", judged)
    if as_json:
        report.json_out(_as_json(found))
    elif len(found.outcomes) == 1 and found.outcomes[0].comparison:
        _show(found.outcomes[0], found.outcomes[0].comparison, format_count if instructions else format_seconds)
    else:
        outcomes.show(found)
    written.write(found, quiet)
    raise typer.Exit(found.exit_status)


def _live(
    device: Device, baseline: Path, contender: Path, threads: int | None, share: float, wait_s: float, quiet: bool
) -> Outcome:
    from qaedge.hil.contest import contest
    from qaedge.regression.noise import load_noise
    from qaedge.regression.outcome import Outcome

    pair = (Artifact.of(baseline, name=str(baseline)), Artifact.of(contender, name=str(contender)))
    steps = contest(device, pair, threads=threads, threshold=share, noise=load_noise(device.name), wait_s=wait_s)
    found = report.result_of(steps, "comparing", quiet)
    result = msgspec.structs.replace(found.contender, model=str(contender))
    return Outcome(str(contender), device.name, result=result, comparison=found.comparison)


def _counted(
    device: Device, baseline: Path, contender: Path, threads: int | None, share: float, wait_s: float, quiet: bool
) -> Outcome:
    """Compare by instructions; a share of 3 %, the default for times, asks for nothing here."""
    from qaedge.hil.counting import count_contest
    from qaedge.regression.compare import LEAST_THRESHOLD
    from qaedge.regression.outcome import Outcome

    pair = (Artifact.of(baseline, name=str(baseline)), Artifact.of(contender, name=str(contender)))
    threshold = share if share != LEAST_THRESHOLD else 0.0
    steps = count_contest(device, pair, threads=threads, threshold=threshold, wait_s=wait_s)
    found = report.result_of(steps, "counting", quiet)
    result = msgspec.structs.replace(found.contender, model=str(contender))
    return Outcome(str(contender), device.name, result=result, comparison=found.comparison)


def _against(
    device: Device, baseline: Path, contender: Path, threads: int | None, share: float, wait_s: float, quiet: bool
) -> Outcome:
    """Measure a file now, and hold it against saved results."""
    from qaedge.hil.campaign import Campaign
    from qaedge.regression.baseline import Saved, read_results
    from qaedge.regression.limit import Limit
    from qaedge.regression.suite import Model, Suite

    if contender.suffix not in FORMATS:
        raise UsageError(f"{contender} is neither .onnx nor .tflite.", "Give a file of a network.")
    saved = _of_model(baseline, read_results(baseline), contender)
    Saved(str(baseline), saved).check_devices([device.name])
    limit = Limit("slower_than_baseline", "<", share, f"slower_than_baseline < {100 * share:g}%")
    model = Model(saved[0].model, contender, None, (device.name,), ("",), (limit,))
    suite = Suite(str(baseline), baseline, (model,), threads, wait_s, None)
    campaign = Campaign(suite, Saved(str(baseline), saved))
    for step in report.progress(campaign.run(), "comparing", quiet):
        found: Outcome = step.result
        if found.error:
            message, _, hint = found.error.partition("\n")
            raise QaedgeError(message, hint)
        if found.comparison is None:
            raise NotComparable(f"{baseline} knows no such model.", "Save it anew with the model in it.")
        return msgspec.structs.replace(found, held=())
    raise AssertionError("a campaign ends with an outcome")


def _of_model(path: Path, results: tuple[Result, ...], contender: Path) -> tuple[Result, ...]:
    """Return the saved results of the model that a file is: the one of its name, or the only one there is."""
    names = sorted({result.model for result in results})
    wanted = contender.stem if contender.stem in names else names[0] if len(names) == 1 else ""
    if not wanted:
        raise NotComparable(
            f"{path} holds results of {', '.join(names)}, and none of {contender.stem}.",
            "Name the file as its model, or compare the whole suite: qaedge bench --suite FILE --against NAME",
        )
    return tuple(result for result in results if result.model == wanted)


def _saved(baseline: Path, contender: Path, share: float) -> list[Outcome]:
    """Compare two files of saved results, model by model."""
    from qaedge.regression.baseline import Saved, read_results
    from qaedge.regression.noise import load_noise
    from qaedge.regression.outcome import Outcome
    from qaedge.regression.result import judge

    known = Saved(str(baseline), read_results(baseline))
    found = []
    for result in read_results(contender):
        other = known.for_model(result)
        if other is not None:
            comparison = judge(other, result, threshold=share, noise=load_noise(result.device))
            found.append(Outcome(result.model, result.device, result=result, comparison=comparison))
    gone = known.vanished({r.device for r in known.results}, {outcome.model for outcome in found})
    if gone:
        raise NotComparable(
            f"{contender} holds nothing of {', '.join(gone)}, which {baseline} has: the model has disappeared.",
            "Measure it again, or save the baseline without it.",
        )
    return found


def _scored(outcome: Outcome, baseline: Path, contender: Path, project: Path | None, quiet: bool) -> Outcome:
    from qaedge.cli.accuracy import scores

    found = scores(project, (baseline, contender), {outcome.model: (contender, baseline)}, quiet)
    result = outcome.result
    return msgspec.structs.replace(
        outcome,
        result=msgspec.structs.replace(result, miou=found.miou[contender]) if result else None,
        baseline_miou=found.miou[baseline],
        agreement=found.agreement[outcome.model],
    )


def _as_json(found: Outcomes) -> object:
    """Return one comparison flat, as its figures are what is asked for; many as they are."""
    if len(found.outcomes) != 1 or found.outcomes[0].comparison is None:
        return found
    (outcome,) = found.outcomes
    return {
        **msgspec.to_builtins(outcome.comparison),
        "device": outcome.device,
        "miou": outcome.result.miou if outcome.result else None,
        "baseline_miou": outcome.baseline_miou,
        "agreement": outcome.agreement,
        "doubts": outcome.result.doubts if outcome.result else (),
        "findings": found.findings,
    }


def _show(outcome: Outcome, found: Comparison, word: Callable[[float], str]) -> None:
    from qaedge.regression.writers import words

    report.table(
        ("", "file", ">median", ">ratio", ">95 % interval"),
        [
            ("baseline", found.baseline, word(found.baseline_s), None, None),
            (
                "contender",
                found.contender,
                word(found.contender_s),
                f"{found.ratio:.3f}",
                f"{found.low:.3f} to {found.high:.3f}",
            ),
        ],
    )
    ratios = (("size", found.size_ratio), ("peak memory", found.memory_ratio), ("first run", found.first_run_ratio))
    known = [f"{what} {100 * (ratio - 1):+.1f} %" for what, ratio in ratios if ratio is not None]
    if outcome.result is not None:
        known.append(f"now {format_bytes(outcome.result.size_bytes)}")
    report.line(", ".join(known))
    if outcome.agreement is not None and outcome.result is not None and outcome.baseline_miou is not None:
        report.line(
            f"mIoU {100 * outcome.baseline_miou:.2f} and {100 * (outcome.result.miou or 0.0):.2f}; "
            f"the same class at {100 * outcome.agreement:.2f} % of all pixels"
        )
    report.line(words.behind(found))
    if outcome.result is not None and outcome.result.doubts:
        report.line(f"measured with doubts: {', '.join(outcome.result.doubts)} (docs/measuring.md says what they mean)")
    if found.runtime_change:
        report.line(f"the runtime changed, {found.runtime_change}: the difference is that, and not the file alone")
    verdicts = {
        "same": f"the same, within {100 * found.threshold:.3g} %",
        "slower": f"slower, by more than {100 * found.threshold:.3g} %",
        "faster": f"faster, by more than {100 * found.threshold:.3g} %",
        "unknown": f"not decided{': ' + found.reason if found.reason else ''}",
    }
    report.line(f"{verdicts[found.verdict.value]} ({found.rounds} rounds a side, p = {found.p_value:.2g})")
    if found.grown:
        report.warn(f"beside latency, the contender is larger in: {', '.join(found.grown)}")
