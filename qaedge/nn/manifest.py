"""A manifest: what a deployed file is, how to feed it, where its numbers come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from qaedge.architecture import Architecture
from qaedge.artifact import Artifact
from qaedge.files import write_json
from qaedge.machine import Machine, this_machine, versions
from qaedge.nn.data import VOID
from qaedge.nn.parity import Parity
from qaedge.nn.sessions import Session
from qaedge.nn.stored import StoredWeights, loading
from qaedge.nn.student import FileReport, StudentReport
from qaedge.nn.teacher import Teacher
from qaedge.nn.tflite_session import TfliteSession
from qaedge.project import DataConfig

#: format -> what wrote such a file, and runs it here.
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "tflite": ("ai-edge-litert",)}


class Input(msgspec.Struct, frozen=True):
    """What goes in: (x / 255 - mean) / std of RGB pixels.

    A file that takes integers is given `round(value / scale) + zero_point`; scale and zero point are
    None for one that takes float.
    """

    name: str
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    type: str = "float32"
    color: str = "RGB"
    layout: str = "NCHW"
    scale: float | None = None
    zero_point: int | None = None


class Output(msgspec.Struct, frozen=True):
    """What comes out: logits per class and pixel, as float or integers; the largest is the class."""

    name: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    void: int
    type: str = "float32"
    layout: str = "NCHW"
    scale: float | None = None
    zero_point: int | None = None


class Predicted(msgspec.Struct, frozen=True):
    """What search predicted for the file, before anyone measured it."""

    latency_s: float | None
    latency_error_s: float | None
    device: str
    size_bytes: int | None
    loss: float


class Manifest(msgspec.Struct, frozen=True):
    """All of it; lies beside the file as FILE.json.

    `weights` tells how many bits the weights of how many layers have, and in which type they lie; `loading` what to do
    with them when the file is loaded, nothing for most files; `smallest_bytes` the size of the smallest file that
    holds this network, for each format that it was built in. `machine` and `versions` are what wrote and checked it.
    """

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
    machine: Machine
    weights: tuple[StoredWeights, ...] = ()
    loading: str = ""
    smallest_bytes: dict[str, int] = {}


@dataclass(frozen=True)
class Release:
    """A file that was written and checked, its manifest, how alike torch and the file are, and what it holds."""

    artifact: Artifact
    manifest: Path
    parity: Parity
    file: FileReport
    form_reason: str
    weights: tuple[StoredWeights, ...]
    smallest_bytes: dict[str, int]


def write_manifest(
    release: Release,
    session: Session,
    report: StudentReport,
    architecture: Architecture,
    teacher: Teacher,
    data: DataConfig,
    classes: tuple[str, ...],
) -> None:
    """Write the manifest of an exported student; it tells the file's name, not its folder."""
    artifact = release.artifact
    # What was predicted is of the format that was searched; of another file of the network nothing was.
    costs = architecture.costs if artifact.format == architecture.file_format else {}
    latency = next(((k, v) for k, v in costs.items() if k.startswith("latency@")), None)
    size = costs.get("size")
    manifest = Manifest(
        file=Path(artifact.path).name,
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        format=artifact.format,
        scheme=", ".join(dict.fromkeys(choice.scheme for choice in architecture.choices)),
        form=release.file.form,
        form_reason=release.form_reason,
        input=_input(session, teacher, data),
        output=_output(session, teacher, classes),
        ranges=_ranges(report, release.file.form),
        calibration_images=report.calibration_images,
        architecture={choice.block: f"{choice.spec} {choice.scheme}" for choice in architecture.choices},
        space_hash=architecture.space_hash,
        teacher=architecture.teacher,
        miou=release.file.miou,
        float_miou=report.scores.float_miou,
        predicted=Predicted(
            latency_s=latency[1].value if latency else None,
            latency_error_s=latency[1].error if latency else None,
            device=latency[0].removeprefix("latency@") if latency else "",
            size_bytes=round(size.value) if size else None,
            loss=architecture.loss,
        ),
        parity=release.parity,
        versions=versions("torch", *PACKAGES[artifact.format], "numpy"),
        machine=this_machine(),
        weights=release.weights,
        loading=loading(release.weights),
        smallest_bytes=release.smallest_bytes,
    )
    write_json(release.manifest, manifest)


def _input(session: Session, teacher: Teacher, data: DataConfig) -> Input:
    channels, height, width = teacher.input_shape
    given = Input(session.name, (1, channels, height, width), data.mean, data.std)
    if not isinstance(session, TfliteSession):
        return given
    scale, zero = session.input_grid or (None, None)
    return msgspec.structs.replace(
        given, shape=(1, height, width, channels), layout="NHWC", type=session.dtype, scale=scale, zero_point=zero
    )


def _output(session: Session, teacher: Teacher, classes: tuple[str, ...]) -> Output:
    _, height, width = teacher.input_shape
    given = Output("output", (1, len(classes), height, width), classes, VOID)
    if not isinstance(session, TfliteSession):
        return given
    scale, zero = session.output_grid or (None, None)
    return msgspec.structs.replace(
        given,
        shape=(1, height, width, len(classes)),
        layout="NHWC",
        type="float32" if scale is None else "int8",
        scale=scale,
        zero_point=zero,
    )


def _ranges(report: StudentReport, form: str) -> str:
    """Say where the ranges of activations come from."""
    if form == "float":
        return "none: the file is in float"
    images = f"over {len(report.calibration_images)} training images"
    learned = ", then fine-tuned with the weights" if report.kept == "quantized" else ""
    if any("ranges" in recipe for recipe in report.recipes.values()):
        return f"least squared error {images}{learned}"
    return f"least and greatest value {images}{learned}"
