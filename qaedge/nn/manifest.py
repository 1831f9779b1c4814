"""A manifest: what a deployed file is, how to feed it, where its numbers come from."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import msgspec

import qaedge
from qaedge.architecture import Architecture
from qaedge.artifact import Artifact
from qaedge.files import write_json
from qaedge.nn.data import VOID
from qaedge.nn.parity import Parity
from qaedge.nn.student import StudentReport
from qaedge.nn.teacher import Teacher
from qaedge.project import DataConfig


class Input(msgspec.Struct, frozen=True):
    """What goes in: float32, (x / 255 - mean) / std of RGB pixels, [batch, channel, height, width]."""

    name: str
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    type: str = "float32"
    color: str = "RGB"
    layout: str = "NCHW"


class Output(msgspec.Struct, frozen=True):
    """What comes out: logits per class and pixel; the largest is the class."""

    name: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    void: int
    type: str = "float32"


class Predicted(msgspec.Struct, frozen=True):
    """What search predicted for the file, before anyone measured it."""

    latency_s: float | None
    latency_error_s: float | None
    device: str
    size_bytes: int | None
    loss: float


class Manifest(msgspec.Struct, frozen=True):
    """All of it; lies beside the file as FILE.json."""

    file: str
    sha256: str
    size_bytes: int
    format: str
    scheme: str
    form: str
    form_reason: str
    input: Input
    output: Output
    ranges: str
    calibration_images: tuple[str, ...]
    architecture: dict[str, str]
    space_hash: str
    teacher: str
    miou: float
    float_miou: float
    predicted: Predicted
    parity: Parity
    versions: dict[str, str]


def write_manifest(
    artifact: Artifact,
    report: StudentReport,
    architecture: Architecture,
    teacher: Teacher,
    data: DataConfig,
    classes: tuple[str, ...],
    parity: Parity,
    path: Path,
) -> None:
    """Write the manifest of an exported student to a path; it tells the file's name, not its folder."""
    latency = next(((k, v) for k, v in architecture.costs.items() if k.startswith("latency@")), None)
    size = architecture.costs.get("size")
    scores = report.after if report.kept == "after" and report.after is not None else report.before
    manifest = Manifest(
        file=Path(artifact.path).name,
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        format=artifact.format,
        scheme=report.scheme,
        form=report.form,
        form_reason=report.form_reason,
        input=Input("input", (1, *teacher.input_shape), data.mean, data.std),
        output=Output("output", (1, len(classes), *teacher.input_shape[1:]), classes, VOID),
        ranges=f"least and greatest value over {len(report.calibration_images)} training images",
        calibration_images=report.calibration_images,
        architecture={choice.block: f"{choice.spec} {choice.scheme}" for choice in architecture.choices},
        space_hash=architecture.space_hash,
        teacher=architecture.teacher,
        miou=scores.miou,
        float_miou=scores.float_miou,
        predicted=Predicted(
            latency_s=latency[1].value if latency else None,
            latency_error_s=latency[1].error if latency else None,
            device=latency[0].removeprefix("latency@") if latency else "",
            size_bytes=round(size.value) if size else None,
            loss=architecture.loss,
        ),
        parity=parity,
        versions={
            "qaedge": qaedge.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "onnx", "onnxruntime", "numpy")},
        },
    )
    write_json(path, manifest)
