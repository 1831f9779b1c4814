"""A student: the network of an architecture, fine-tuned, quantized, scored, kept in a folder."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import msgspec
import numpy as np
import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from qaedge.architecture import Architecture
from qaedge.artifact import Artifact
from qaedge.candidate import QuantScheme
from qaedge.errors import InvalidFile, UsageError
from qaedge.files import decode_json, only_one, write_atomic, write_json
from qaedge.nn.assemble import assemble
from qaedge.nn.candidates import Choose
from qaedge.nn.data import Split, open_split
from qaedge.nn.export_onnx import write_onnx
from qaedge.nn.finetune import checkpoint_path, finetune
from qaedge.nn.graph import Graph
from qaedge.nn.metrics import Confusion, evaluate
from qaedge.nn.onnx_session import OnnxSession
from qaedge.nn.paths import top_modules
from qaedge.nn.quantize import QuantizedGraph, calibrate
from qaedge.nn.teacher import Teacher
from qaedge.nn.tracing import trace
from qaedge.progress import Step
from qaedge.project import Workspace
from qaedge.space import SearchSpace

REPORT = "student.json"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class Scores(msgspec.Struct, frozen=True):
    """mIoU on the validation split: in torch in float, and of the exported file on ONNX Runtime."""

    float_miou: float
    miou: float


class StudentReport(msgspec.Struct, frozen=True):
    """What a student is worth, as `student.json` keeps it.

    `kept` tells whether the weights before or after fine-tuning are the student's: the better.
    """

    name: str
    before: Scores
    after: Scores | None
    kept: str
    epochs: int
    scheme: str
    form: str
    form_reason: str
    file: str
    size_bytes: int
    sha256: str
    calibration_images: tuple[str, ...]
    seconds: float

    @property
    def miou(self) -> float:
        """Validation mIoU of the exported file that was kept."""
        return self.after.miou if self.after is not None and self.kept == "after" else self.before.miou


def student_folder(workspace: Workspace, space: SearchSpace, name: str) -> Path:
    """Where a student and what it took lies; raise UsageError for a name that is none of a folder."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name of a student.",
            "Letters, digits, dot, dash and underscore, with no dot in front; build takes one with --name.",
        )
    return workspace.results / space.origin / "students" / name


def build_student(
    workspace: Workspace,
    teacher: Teacher,
    space: SearchSpace,
    architecture: Architecture,
    name: str,
    choose: Choose,
    epochs: int | None = None,
) -> Iterator[Step]:
    """Assemble, score, fine-tune, score again, and keep the better; the last Step has the report.

    The teacher itself (every block its own) is built the same way: that is the baseline.

    Args:
        workspace: the project.
        teacher: guides the fine-tuning.
        space: what the architecture was chosen from.
        architecture: a candidate per block.
        name: of the student's folder.
        choose: weight bits -> the form of the INT8 file, and why.
        epochs: of fine-tuning, where it is not the project's number.

    Raises:
        MissingFile: a block that was not distilled.
        UsageError: an architecture that mixes float and integer blocks, or a name that is none.
        TeacherError, DataError, DiskFull: see `finetune`.
        QaedgeError: another process builds a student of this name.
    """
    folder = student_folder(workspace, space, name)
    with only_one(folder / "build.lock", f"building {name}"):
        yield from _build(workspace, teacher, space, architecture, name, choose, epochs)


def _build(
    workspace: Workspace,
    teacher: Teacher,
    space: SearchSpace,
    architecture: Architecture,
    name: str,
    choose: Choose,
    epochs: int | None,
) -> Iterator[Step]:
    started = time.perf_counter()
    folder = student_folder(workspace, space, name)
    config = workspace.project.finetune
    if epochs is not None:
        config = msgspec.structs.replace(config, epochs=epochs)
    train, val = open_splits(workspace)
    train.check()
    val.check()
    student = assemble(workspace, teacher, space, architecture)
    _make_room(folder, architecture)
    quantizer = Quantizer(workspace, teacher, space, architecture, train, choose)
    before, artifact = yield from _score(student, quantizer, val, folder / "before.onnx", "before")
    start = safetensors.torch.save(dict(student.state_dict()))
    write_atomic(folder / "before.safetensors", start)
    kept, after, checkpoint = "before", None, None
    if config.epochs:
        checkpoint = checkpoint_path(folder, config, start)
        yield from finetune(student, teacher.module, train, config, checkpoint)
        (folder / REPORT).unlink(missing_ok=True)  # it would tell of weights that are about to change
        after, tuned = yield from _score(student, quantizer, val, folder / "after.onnx", "after")
        write_atomic(folder / "after.safetensors", safetensors.torch.save(dict(student.state_dict())))
        if after.miou > before.miou:
            kept, artifact = "after", tuned
    report = StudentReport(
        name=name,
        before=before,
        after=after,
        kept=kept,
        epochs=config.epochs,
        scheme=str(quantizer.scheme),
        form=artifact.form,
        form_reason=quantizer.reason,
        file=Path(artifact.path).name,
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
        calibration_images=quantizer.images,
        seconds=time.perf_counter() - started,
    )
    write_json(folder / REPORT, report)
    for path in set(folder.glob("finetune-*.pt")) - {checkpoint}:
        path.unlink(missing_ok=True)  # of other settings, or of another architecture that had this name
    yield Step(1, 1, f"{name}: mIoU {report.miou:.4f}", report)


def _make_room(folder: Path, architecture: Architecture) -> None:
    """Write down what is built here; what another architecture of the same name left counts no more."""
    path = folder / "architecture.json"
    if path.exists() and decode_json(path, Architecture) != architecture:
        (folder / REPORT).unlink(missing_ok=True)
    architecture.save(path)


def load_report(folder: Path) -> StudentReport:
    """Read what a build found; raise MissingFile where nothing was built."""
    return decode_json(folder / REPORT, StudentReport, hint="Make it with: qaedge build")


def load_student(
    workspace: Workspace, teacher: Teacher, space: SearchSpace, name: str
) -> tuple[nn.Module, Architecture, StudentReport]:
    """Return a built student with the weights that were kept.

    Raises:
        MissingFile: nothing of that name was built.
        UsageError: a name that is none.
        InvalidFile: its files are damaged, or of another space.
    """
    folder = student_folder(workspace, space, name)
    report = load_report(folder)
    architecture = Architecture.load(folder / "architecture.json", space)
    student = assemble(workspace, teacher, space, architecture)
    path = folder / f"{report.kept}.safetensors"
    try:
        student.load_state_dict(safetensors.torch.load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InvalidFile(
            path, "", f"the weights of {name}", str(error).splitlines()[0], "Run qaedge build again."
        ) from error
    return student.eval(), architecture, report


class Quantizer:
    """How the networks of a project are quantized: the same images and ranges for each of them."""

    def __init__(
        self,
        workspace: Workspace,
        teacher: Teacher,
        space: SearchSpace,
        architecture: Architecture,
        train: Split,
        choose: Choose,
    ) -> None:
        """Choose images, scheme and form; nothing is computed yet. Raises UsageError for a mix with float."""
        schemes = {block.name: c.scheme for block, c in zip(space.blocks, architecture.candidates(space), strict=True)}
        kinds = {s.is_float for s in schemes.values()}
        if len(kinds) > 1:
            raise UsageError(
                "The architecture mixes float and integer blocks; such a network cannot be exported.",
                "Give the blocks of the space integer schemes only, or fp32 only.",
            )
        self.input_shape = teacher.input_shape
        self.places = {
            place: schemes[name] for name in schemes for place in top_modules(teacher.module, teacher.block(name).path)
        }
        widest = max(schemes.values(), key=lambda s: (s.weight_bits, s.activation_bits))
        self.scheme: QuantScheme = widest
        self.form, self.reason = ("float", "") if widest.is_float else choose(widest.weight_bits)
        count = min(workspace.project.distill.calibration_images, len(train))
        self._train = train
        self._chosen = [int(i) for i in np.linspace(0, len(train) - 1, count)]

    @property
    def images(self) -> tuple[str, ...]:
        """The names of the calibration images."""
        return tuple(self._train.names[i] for i in self._chosen)

    def quantize(self, network: nn.Module) -> Graph | QuantizedGraph:
        """Return a network's graph, quantized unless the scheme is float."""
        graph = trace(network, self.input_shape)
        if self.scheme.is_float:
            return graph
        bits = {node.name: self._bits(node.where) for node in graph.nodes if node.weight}
        batches = (self._train.preprocess(self._train.image(i)[None]) for i in self._chosen)
        return calibrate(graph, batches, self.scheme, bits).freeze()

    def _bits(self, where: str) -> int:
        """The bits of the block that holds a module; what lies outside every block has the widest."""
        for place, scheme in self.places.items():
            if where == place or where.startswith(f"{place}."):
                return scheme.weight_bits
        return self.scheme.weight_bits


def open_splits(workspace: Workspace) -> tuple[Split, Split]:
    """Return the training and the validation split of a project; raise DataError."""
    data = workspace.project.data
    folder = workspace.path(data.path) if data.path else None
    return open_split(data, folder, "train"), open_split(data, folder, "val")


def file_miou(path: Path, split: Split) -> Iterator[Step]:
    """Run an exported ONNX file over a split; the last Step's result is the Confusion."""
    session = OnnxSession(path)
    yield from evaluate(lambda images: session.run(images), split, batch=1)


def _score(
    network: nn.Module, quantizer: Quantizer, val: Split, path: Path, when: str
) -> Generator[Step, None, tuple[Scores, Artifact]]:
    """Score a network in float and as a file; return the scores and the file."""
    quantized = quantizer.quantize(network)
    artifact = write_onnx(quantized, path, quantizer.form if quantizer.form != "float" else "u8s8")
    found: list[float] = []
    for what, steps in (
        (f"float mIoU {when} fine-tuning", evaluate(network, val, batch=1)),
        (f"{artifact.form} mIoU {when} fine-tuning", file_miou(path, val)),
    ):
        for step in steps:
            if isinstance(step.result, Confusion):
                found.append(step.result.miou)
            yield Step(step.done, step.total, what)
    return Scores(*found), artifact
