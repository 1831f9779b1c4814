"""`qaedge compare`: is a contender slower than a baseline? Measured now, in one session."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from qaedge import report
from qaedge.artifact import Artifact
from qaedge.cli import options
from qaedge.cli.resolve import device_of
from qaedge.device import Device
from qaedge.errors import UsageError
from qaedge.measurement import Measurement
from qaedge.units import format_seconds, parse_percent, parse_seconds

if TYPE_CHECKING:
    from qaedge.compare import Comparison, Side

EXAMPLES = (
    "qaedge compare baseline.onnx contender.onnx",
    "qaedge compare baseline.onnx contender.onnx --device local --threshold 5%",
)


def run(
    baseline: Annotated[Path, typer.Argument(metavar="BASELINE", help="What is there (.onnx).")],
    contender: Annotated[Path, typer.Argument(metavar="CONTENDER", help="What would replace it (.onnx).")],
    threshold: Annotated[
        str, typer.Option(metavar="SHARE", help="The least change that matters; never below 3%.")
    ] = "3%",
    device: options.Device = None,
    threads: options.Threads = None,
    wait: options.Wait = "0s",
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure two files in turn until it is clear whether the contender is slower.

    Exit status 0: no; 3: slower, and slower again when all was measured anew; 4: not decided.
    """
    from qaedge.compare import Verdict

    share = parse_percent(threshold)
    if share is None:
        raise UsageError(f"The threshold {threshold!r} is not a share.", "Write it like 5%.")
    described = device_of(device, project)
    # The names differ even where a file is compared with itself.
    pair = (
        Artifact.of(baseline, name=f"{baseline} (baseline)"),
        Artifact.of(contender, name=f"{contender} (contender)"),
    )
    used, wait_s = threads or described.threads, parse_seconds(wait)
    found = _judge(described, pair, used, share, wait_s, "comparing", quiet)
    if found.verdict is Verdict.SLOWER:
        # A single session can be unlucky with memory layout or a neighbor; two agreeing are not.
        again = _judge(described, pair, used, share, wait_s, "comparing again", quiet)
        if again.verdict is not Verdict.SLOWER:
            report.note("Slower at first, and not when measured again in a fresh process: not decided.", quiet)
            found = msgspec.structs.replace(found, verdict=Verdict.UNKNOWN)
    if as_json:
        report.json_out(found)
    else:
        _show(found)
    raise typer.Exit(found.exit_status)


def _judge(
    device: Device,
    pair: tuple[Artifact, Artifact],
    threads: int,
    threshold: float,
    wait_s: float,
    title: str,
    quiet: bool,
) -> Comparison:
    """Measure both in one fresh session, in more and more rounds, until it is decided or no use."""
    from qaedge.compare import FIRST_ROUNDS, compare, needs_more
    from qaedge.hil.profile import Failed, Settings, measure, open_session

    sides: list[Side] = []
    with open_session(device, wait_s=wait_s) as session:
        rounds = FIRST_ROUNDS
        while True:
            settings = Settings(interleaved_rounds=rounds)
            steps = measure(session, pair, settings, threads, seed=len(sides), interleave=True)
            measured: dict[str, Measurement] = {}
            for step in report.progress(steps, title, quiet):
                if isinstance(step.result, Failed):
                    raise step.result.error
                measured[step.result.artifact.name] = step.result.measurement
            sides = _extended(sides, pair, measured)
            found = compare(sides[0], sides[1], threshold=threshold)
            rounds = needs_more(found)
            if not rounds:
                return found


def _extended(sides: list[Side], pair: tuple[Artifact, Artifact], measured: dict[str, Measurement]) -> list[Side]:
    """Add rounds to both sides; first run and memory are those of the first time."""
    from qaedge.compare import Side

    result = []
    for number, artifact in enumerate(pair):
        found = measured[artifact.name]
        before = sides[number] if sides else None
        result.append(
            Side(
                name=artifact.path,
                values_s=(*(before.values_s if before else ()), *found.round_medians_s),
                size_bytes=artifact.size_bytes,
                peak_memory_bytes=before.peak_memory_bytes if before else found.peak_memory_bytes,
                first_run_s=before.first_run_s if before else found.first_run_s,
                fingerprint=found.fingerprint,
            )
        )
    return result


def _show(found: Comparison) -> None:
    report.table(
        ("", "file", ">median", ">ratio", ">95 % interval"),
        [
            ("baseline", found.baseline, format_seconds(found.baseline_s), None, None),
            (
                "contender",
                found.contender,
                format_seconds(found.contender_s),
                f"{found.ratio:.3f}",
                f"{found.low:.3f} to {found.high:.3f}",
            ),
        ],
    )
    words = {
        "same": f"the same, within {100 * found.threshold:.3g} %",
        "slower": f"slower, by more than {100 * found.threshold:.3g} %",
        "faster": f"faster, by more than {100 * found.threshold:.3g} %",
        "unknown": "not decided",
    }
    report.line(f"{words[found.verdict.value]} ({found.rounds} rounds a side, p = {found.p_value:.2g})")
    if found.grown:
        report.warn(f"beside latency, the contender is larger in: {', '.join(found.grown)}")
