"""`qaedge bench`: whole files measured on a device, predicted beside measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from qaedge import report
from qaedge.artifact import Artifact
from qaedge.cli import options
from qaedge.cli.resolve import device_of
from qaedge.device import Device
from qaedge.errors import InvalidFile, MeasurementError
from qaedge.files import decode_json
from qaedge.measurement import Measurement
from qaedge.units import format_bytes, format_seconds, parse_seconds

if TYPE_CHECKING:
    from qaedge.hil.profile import Failed

EXAMPLES = ("qaedge bench student.onnx", "qaedge bench teacher.onnx student.onnx --device local --json")


class Predicted(msgspec.Struct, frozen=True):
    """What a manifest says a file should take; `device` is empty where it does not say which."""

    latency_s: float | None = None
    device: str = ""


class Manifest(msgspec.Struct, frozen=True):
    """The part of an exported file's manifest that is compared with a measurement."""

    sha256: str = ""
    predicted: Predicted = Predicted()


class Row(msgspec.Struct, frozen=True):
    """A measured file; `p90_s` is None below 64 samples, `predicted_s` where no manifest tells."""

    file: str
    sha256: str
    size_bytes: int
    median_s: float
    p90_s: float | None
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


def run(
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="Exported networks (.onnx).")],
    device: options.Device = None,
    threads: options.Threads = None,
    wait: options.Wait = "0s",
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure whole files on a device, interleaved, so that what disturbs one disturbs all.

    Prints median, p90 and size, and the predicted latency where a manifest FILE.json lies beside
    the file.
    """
    rows, failed = measure_files(files, device_of(device, project), threads, parse_seconds(wait), quiet)
    if as_json:
        report.json_out(rows)
    elif rows:
        show(rows)
    if failed:
        raise MeasurementError(
            f"{len(failed)} of {len(files)} files were not measured: "
            f"{', '.join(failure.artifact.name for failure in failed)}.",
            "\n".join(dict.fromkeys(failure.error.hint for failure in failed if failure.error.hint)),
        )


def measure_files(
    files: Sequence[Path], device: Device, threads: int | None = None, wait_s: float = 0.0, quiet: bool = False
) -> tuple[list[Row], list[Failed]]:
    """Measure files on a device, interleaved; return what was measured, in the order given, and what was not."""
    from qaedge.hil.profile import Measured, Settings, measure, open_session

    artifacts = [Artifact.of(path, name=str(path)) for path in files]
    predictions = {artifact.name: predicted(artifact, device.name) for artifact in artifacts}
    rows: dict[str, Row] = {}
    failed: list[Failed] = []
    with open_session(device, wait_s=wait_s) as session:
        steps = measure(session, artifacts, Settings(), threads or device.threads, interleave=True)
        for step in report.progress(steps, "measuring", quiet):
            if isinstance(step.result, Measured):
                found = step.result.artifact
                rows[found.name] = _row(found, step.result.measurement, predictions[found.name])
            else:
                failed.append(step.result)
    return [rows[artifact.name] for artifact in artifacts if artifact.name in rows], failed


def predicted(artifact: Artifact, device: str) -> float | None:
    """Return the latency [s] that the manifest beside a file predicts for a device, or None.

    A manifest of another file predicts nothing; a warning says so.

    Raises InvalidFile where the manifest cannot be read, or predicts what no file can take.
    """
    path = Path(artifact.path)
    manifest = path.with_name(f"{path.name}.json")
    if not manifest.exists():
        return None
    found = decode_json(manifest, Manifest)
    if found.sha256 != artifact.sha256:
        report.warn(f"{manifest} describes another file than {path}; what it predicts is not shown.")
        return None
    latency = found.predicted.latency_s
    if latency is not None and not latency > 0:
        raise InvalidFile(manifest, "predicted.latency_s", "seconds above 0", str(latency), "Export the file again.")
    return latency if found.predicted.device in ("", device) else None


def _row(artifact: Artifact, found: Measurement, predicted_s: float | None) -> Row:
    return Row(
        file=artifact.name,
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        median_s=found.median_s,
        p90_s=found.p90_s,
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
    )


def show(rows: list[Row]) -> None:
    """Print measured files as a table; the first is what the others are compared with."""
    first = rows[0]
    with_prediction = any(row.predicted_s is not None for row in rows)
    extra = (">predicted", ">off by") if with_prediction else ()
    report.table(
        ("file", ">median", ">p90", ">against the first", *extra, ">size", "doubts"),
        [
            (
                row.file,
                f"{format_seconds(row.median_s)} ± {format_seconds(row.error_s)}",
                format_seconds(row.p90_s) if row.p90_s is not None else None,
                f"{100 * (row.median_s / first.median_s - 1):+.1f} %" if row is not first else None,
                *(_prediction(row) if with_prediction else ()),
                format_bytes(row.size_bytes),
                ", ".join(row.doubts) or None,
            )
            for row in rows
        ],
        title=f"{first.device}: {first.runtime} {first.runtime_version}, threads: {first.threads}",
    )


def _prediction(row: Row) -> tuple[str | None, str | None]:
    if row.predicted_s is None:
        return None, None
    return format_seconds(row.predicted_s), f"{100 * (row.predicted_s / row.median_s - 1):+.1f} %"
