"""`qaedge bench`: whole files measured on a device, predicted beside measured."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from qaedge import report
from qaedge.artifact import Artifact
from qaedge.cli import options, outcomes, suite
from qaedge.cli.resolve import device_of, note_fake
from qaedge.device import Device, with_runtime
from qaedge.errors import InvalidFile, MeasurementError, UsageError
from qaedge.files import decode_json
from qaedge.measurement import Measurement
from qaedge.units import format_bytes, format_count, format_joules, format_seconds, parse_seconds

if TYPE_CHECKING:
    from qaedge.hil.profile import Failed

EXAMPLES = (
    "qaedge bench student.onnx",
    "qaedge bench teacher.onnx student.onnx --device local --json",
    "qaedge bench student.onnx student.tflite --inputs image.npy",
    "qaedge bench --suite benchmarks.toml --against main",
)

#: What stands for a quantile that so few samples do not tell (R10).
NOT_ESTIMABLE = "not estimable"


class Predicted(msgspec.Struct, frozen=True):
    """What a manifest says a file should take; `device` is empty where it does not say which.

    The keys are those of `qaedge.nn.manifest.Predicted`, which needs torch.
    """

    latency_s: float | None = None
    latency_error_s: float | None = None
    device: str = ""
    size_bytes: int | None = None
    loss: float | None = None


class Manifest(msgspec.Struct, frozen=True):
    """The part of an exported file's manifest that is compared with a measurement."""

    sha256: str = ""
    predicted: Predicted = Predicted()


class Row(msgspec.Struct, frozen=True):
    """A measured file; `p90_s` is None below 64 samples, `p99_s` below 662, `predicted_s` where no manifest tells.

    `energy_j` is per inference, and None where it was not asked for, or could not be told from rest.
    `instructions` and `cycles` are per inference, too, and None where the device does not let them be counted.
    `delegate` is empty where the runtime knows no such thing.
    """

    file: str
    sha256: str
    size_bytes: int
    median_s: float
    p90_s: float | None
    p99_s: float | None
    error_s: float
    samples: int
    predicted_s: float | None
    doubts: tuple[str, ...]
    device: str
    runtime: str
    runtime_version: str
    threads: int
    load_s: float
    first_run_s: float
    peak_memory_bytes: int | None
    energy_j: float | None = None
    energy_samples: int | None = None
    instructions: float | None = None
    cycles: float | None = None
    delegate: str = ""


def run(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILES...", help="Networks (.onnx, .tflite).", show_default=False)
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--inputs",
            metavar="FILE",
            help="Arrays to measure with, .npz by the inputs' names or .npy.  [default: random numbers]",
            show_default=False,
        ),
    ] = None,
    no_xnnpack: options.NoXnnpack = False,
    listed: suite.File = None,
    save_baseline: suite.Save = "",
    against: suite.Against = "",
    base: suite.Base = "",
    check: suite.Check = False,
    junit: outcomes.Junit = None,
    markdown: outcomes.Markdown = None,
    github: outcomes.Github = False,
    history: outcomes.History = None,
    device: options.Device = None,
    threads: options.Threads = None,
    runtime: options.Runtime = "",
    energy: options.Energy = False,
    meter: options.Meter = "",
    wait: options.Wait = "0s",
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure whole files on a device, interleaved, so that what disturbs one disturbs all.

    Prints median, p90, p99 and size, the predicted latency where a manifest FILE.json lies beside the file,
    and instructions and cycles per inference where the device counts them. With --suite, what a file lists is
    measured and judged instead (exit status as of `compare`).
    """
    if listed is not None:
        alone = dict(files=files, device=device, threads=threads, runtime=runtime, inputs=inputs, energy=energy)
        suite.without_a_suite(**alone, meter=meter, no_xnnpack=no_xnnpack, project=project)
        written = outcomes.Written(junit, markdown, github, history)
        wait_s = parse_seconds(wait)
        suite.run_suite(listed, save_baseline, against, base, check, written, wait_s, as_json, quiet)
    reports = dict(junit=junit, markdown=markdown, github=github, history=history)
    suite.only_with_a_suite(save_baseline=save_baseline, against=against, base=base, check=check, **reports)
    if not files:
        raise UsageError("No files were given.", "Give networks (.onnx, .tflite), or --suite FILE.")
    described, command = with_runtime(device_of(device, project), runtime), options.words(meter, "--meter")
    if no_xnnpack:
        described = msgspec.structs.replace(described, tflite_xnnpack=False)
    note_fake([described], quiet)
    rows, failed = measure_files(files, described, threads, parse_seconds(wait), quiet, energy, command, inputs)
    if as_json:
        report.json_out(rows)
    elif rows:
        show(rows)
    if len(files) == 1 and failed:
        raise failed[0].error
    if failed:
        raise MeasurementError(
            f"{len(failed)} of {len(files)} files were not measured: "
            f"{', '.join(failure.artifact.name for failure in failed)}.",
            "\n".join(dict.fromkeys(failure.error.hint for failure in failed if failure.error.hint)),
        )


def measure_files(
    files: Sequence[Path],
    device: Device,
    threads: int | None = None,
    wait_s: float = 0.0,
    quiet: bool = False,
    energy: bool = False,
    meter: tuple[str, ...] = (),
    inputs: Path | None = None,
) -> tuple[list[Row], list[Failed]]:
    """Measure files on a device, interleaved; return what was measured, in the order given, and what was not.

    `energy`, or a `meter`'s command, asks for energy per inference, too. `inputs` is a file of arrays that
    they get instead of random numbers.
    """
    from qaedge.hil.given import read_inputs
    from qaedge.hil.profile import Measured, Settings, measure, open_session

    artifacts = [Artifact.of(path, name=str(path)) for path in files]
    predictions = {artifact.name: predicted(artifact, device.name) for artifact in artifacts}
    given = read_inputs(inputs) if inputs is not None else None
    rows: dict[str, Row] = {}
    failed: list[Failed] = []
    with open_session(device, wait_s=wait_s) as session:
        settings = Settings(energy=energy or bool(meter), meter=meter)
        steps = measure(session, artifacts, settings, threads or device.threads, interleave=True, inputs=given)
        if len(artifacts) == 1:  # what went wrong with it is the command's own error, and need not be said twice
            steps = (msgspec.structs.replace(step, warning="") for step in steps)
        for step in report.progress(steps, "measuring", quiet):
            if isinstance(step.result, Measured):
                found = step.result.artifact
                rows[found.name] = _row(found, step.result.measurement, predictions[found.name])
            else:
                failed.append(step.result)
    return [rows[artifact.name] for artifact in artifacts if artifact.name in rows], failed


def predicted(artifact: Artifact, device: str) -> float | None:
    """Return the latency [s] that the manifest beside a file predicts for a device, or None.

    A manifest of another file, or one with keys that are missing or not known, predicts nothing; a
    warning says so.

    Raises InvalidFile where the manifest cannot be read, or predicts what no file can take.
    """
    path = Path(artifact.path)
    manifest = path.with_name(f"{path.name}.json")
    if not manifest.exists():
        return None
    found = decode_json(manifest, Manifest)
    if unread := _unread(decode_json(manifest, dict[str, Any])):
        report.warn(f"{manifest}: {unread} What it predicts is not shown.")
        return None
    if found.sha256 != artifact.sha256:
        report.warn(f"{manifest} describes another file than {path}; what it predicts is not shown.")
        return None
    latency = found.predicted.latency_s
    if latency is not None and not latency > 0:
        raise InvalidFile(manifest, "predicted.latency_s", "seconds above 0", str(latency), "Export the file again.")
    return latency if found.predicted.device in ("", device) else None


def _unread(manifest: dict[str, Any]) -> str:
    """Say which key keeps a manifest from predicting; "" where none does. A prediction of nothing is none."""
    for key in Manifest.__struct_fields__:
        if key not in manifest:
            close = difflib.get_close_matches(key, manifest, 1)
            return f"{key}: expected a value, found {f'only {close[0]!r}' if close else 'nothing'}."
    known = Predicted.__struct_fields__
    for key in manifest["predicted"]:
        if key not in known:
            return f"predicted.{key}: expected a known key ({', '.join(known)}), found {key!r}."
    if "latency_s" not in manifest["predicted"]:
        return "predicted.latency_s: expected seconds, or null where nothing was predicted, found nothing."
    return ""


def _row(artifact: Artifact, found: Measurement, predicted_s: float | None) -> Row:
    return Row(
        file=artifact.name,
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        median_s=found.median_s,
        p90_s=found.p90_s,
        p99_s=found.p99_s,
        error_s=found.error_s,
        samples=len(found.samples_s),
        predicted_s=predicted_s,
        doubts=found.doubts,
        device=found.device,
        runtime=found.runtime,
        runtime_version=found.runtime_version,
        threads=found.threads,
        load_s=found.load_s,
        first_run_s=found.first_run_s,
        peak_memory_bytes=found.peak_memory_bytes,
        energy_j=found.energy_j,
        energy_samples=found.energy_samples,
        instructions=found.instructions,
        cycles=found.cycles,
        delegate=str(found.conditions.get("delegate", "")),
    )


def show(rows: list[Row]) -> None:
    """Print measured files as a table; the first is what the others are compared with."""
    first = rows[0]
    with_prediction = any(row.predicted_s is not None for row in rows)
    with_energy = any(row.energy_j is not None for row in rows)
    extra: tuple[str, ...] = (">predicted", ">off by") if with_prediction else ()
    extra += (">energy",) if with_energy else ()
    counted = [name for name in ("instructions", "cycles") if any(getattr(row, name) is not None for row in rows)]
    extra += tuple(f">{name}" for name in counted)
    several = len({(row.runtime, row.runtime_version) for row in rows}) > 1
    report.table(
        (
            "file",
            ">median",
            ">p90",
            ">p99",
            ">against the first",
            *extra,
            ">size",
            *(["runtime"] if several else []),
            "doubts",
        ),
        [
            (
                row.file,
                f"{format_seconds(row.median_s)} ± {format_seconds(row.error_s)}",
                *(format_seconds(v) if v is not None else NOT_ESTIMABLE for v in (row.p90_s, row.p99_s)),
                f"{100 * (row.median_s / first.median_s - 1):+.1f} %" if row is not first else None,
                *(_prediction(row) if with_prediction else ()),
                *((format_joules(row.energy_j) if row.energy_j is not None else None,) if with_energy else ()),
                *(_count(getattr(row, name)) for name in counted),
                format_bytes(row.size_bytes),
                *([_version(row)] if several else []),
                ", ".join(row.doubts) or None,
            )
            for row in rows
        ],
        title=f"{first.device}: {'each with its runtime' if several else _version(first)}, threads: {first.threads}",
    )
    for row in rows:  # too long for a column
        if row.delegate:
            report.line(f"delegate{f' of {row.file}' if len(rows) > 1 else ''}: {row.delegate}")


def _version(row: Row) -> str:
    # TFLite's version names the package, which is one of two.
    return row.runtime_version if " " in row.runtime_version else f"{row.runtime} {row.runtime_version}"


def _count(value: float | None) -> str | None:
    return format_count(value) if value is not None else None


def _prediction(row: Row) -> tuple[str | None, str | None]:
    if row.predicted_s is None:
        return None, None
    return format_seconds(row.predicted_s), f"{100 * (row.predicted_s / row.median_s - 1):+.1f} %"
