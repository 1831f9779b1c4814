"""Building a student: assembled, fine-tuned in float and then on its grids, each stage scored as a file."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from pathlib import Path

import msgspec
import safetensors.torch
from torch import nn

from qaedge.architecture import Architecture
from qaedge.artifact import Artifact
from qaedge.files import only_one, write_atomic, write_json
from qaedge.nn.assemble import assemble
from qaedge.nn.candidates import Choose
from qaedge.nn.data import Split
from qaedge.nn.export import write_file
from qaedge.nn.finetune import checkpoint_path, finetune
from qaedge.nn.graph import Graph
from qaedge.nn.metrics import evaluate, miou_of
from qaedge.nn.processor import knows_bfloat16, training_device
from qaedge.nn.qat import METHOD, Tuned, finetune_quantized
from qaedge.nn.quantize import QuantizedGraph
from qaedge.nn.quantized_file import quantized_bytes, save_quantized
from qaedge.nn.student import (
    REPORT,
    FileReport,
    Quantizer,
    Scores,
    StudentReport,
    file_miou,
    network_path,
    open_splits,
    student_folder,
)
from qaedge.nn.teacher import Teacher
from qaedge.nn.tflite_file import is_installed
from qaedge.nn.tracing import trace
from qaedge.nn.widths import crossed, crossings
from qaedge.progress import Step
from qaedge.project import FinetuneConfig, Workspace
from qaedge.space import SearchSpace


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
    before, artifact, network = yield from _score(student, quantizer, val, folder / "before.onnx", "before")
    recipes = quantizer.recipes
    start = safetensors.torch.save(dict(student.state_dict()))
    write_atomic(folder / "before.safetensors", start)
    kept, after, checkpoint = "before", None, None
    if config.epochs:
        checkpoint = checkpoint_path(folder, config, start)
        yield from finetune(student, teacher.module, train, config, checkpoint)
        # Under another name until it is scored: what an earlier build finished stays whole if this one is killed.
        after, tuned, tuned_network = yield from _score(student, quantizer, val, folder / "after.new.onnx", "after")
        tuned = msgspec.structs.replace(tuned, path=str(Path(tuned.path).replace(folder / "after.onnx")))
        write_atomic(folder / "after.safetensors", safetensors.torch.save(dict(student.state_dict())))
        if after.miou > before.miou:
            kept, artifact, network, recipes = "after", tuned, tuned_network, quantizer.recipes
    quantized, tuned_checkpoint, found = None, None, None
    if config.quantized_epochs and isinstance(network, QuantizedGraph):
        began = {"before": before, "after": after}[kept]
        assert began is not None
        tuned_checkpoint, found = yield from _on_grids(student, network, teacher, train, val, config, folder)
        if found.epoch:
            written = write_file(found.network, folder / "quantized.new.onnx", quantizer.form)
            miou = yield from miou_of(
                file_miou(Path(written.path), val), f"{written.form} mIoU after training on its grids"
            )
            quantized = Scores(began.float_miou, miou)
            written = msgspec.structs.replace(written, path=str(Path(written.path).replace(folder / "quantized.onnx")))
            if miou > began.miou:
                kept, artifact, network = "quantized", written, found.network
    if isinstance(network, QuantizedGraph):
        save_quantized(network, network_path(folder, kept))
    tflite = yield from _as_tflite(network, val, folder / f"{kept}.tflite")
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
        finetune=config,
        bfloat16=config.bfloat16 and knows_bfloat16(training_device()),
        tflite=tflite,
        quantized=quantized,
        quantized_epoch=found.epoch if found else 0,
        tried_miou=found.tried_miou if found else None,
        tried_epoch=found.tried_epoch if found else 0,
        recipes=recipes,
    )
    write_json(folder / REPORT, report)
    # Of other settings, or of another architecture that had this name.
    mine = tuple(path.stem for path in (checkpoint, tuned_checkpoint) if path is not None)
    for path in folder.glob("finetune-*"):
        if not path.name.startswith(mine or "/"):
            path.unlink(missing_ok=True)
    yield Step(1, 1, f"{name}: mIoU {report.miou:.4f}", report)


def _make_room(folder: Path, architecture: Architecture) -> None:
    """Write down what is built here; what another architecture of the same name left counts no more."""
    path = folder / "architecture.json"
    if path.exists() and Architecture.read(path) != architecture:
        (folder / REPORT).unlink(missing_ok=True)
    architecture.save(path)


def _score(
    network: nn.Module, quantizer: Quantizer, val: Split, path: Path, when: str
) -> Generator[Step, None, tuple[Scores, Artifact, Graph | QuantizedGraph]]:
    """Score a network in float and as a file; return the scores, the file, and what it was written from."""
    quantized = quantizer.quantize(network)
    artifact = write_file(quantized, path, quantizer.form)
    scores = Scores(
        (yield from miou_of(evaluate(network, val, batch=1), f"float mIoU {when} fine-tuning")),
        (yield from miou_of(file_miou(path, val), f"{artifact.form} mIoU {when} fine-tuning")),
    )
    return scores, artifact, quantized


def _as_tflite(network: Graph | QuantizedGraph, val: Split, path: Path) -> Generator[Step, None, FileReport | None]:
    """Write a student's TFLite file and score it; None where nothing here writes or runs one."""
    if not is_installed():
        path.unlink(missing_ok=True)
        return None
    artifact = write_file(network, path)
    miou = yield from miou_of(file_miou(path, val), f"TFLite {artifact.form} mIoU")
    return FileReport(path.name, artifact.form, artifact.size_bytes, artifact.sha256, miou)


def _on_grids(
    student: nn.Module,
    network: QuantizedGraph,
    teacher: Teacher,
    train: Split,
    val: Split,
    config: FinetuneConfig,
    folder: Path,
) -> Generator[Step, None, tuple[Path, Tuned]]:
    """Fine-tune a quantized network; return the checkpoint, and the best network."""
    settings = msgspec.structs.replace(
        config, epochs=config.quantized_epochs, learning_rate=config.quantized_learning_rate
    )
    told = msgspec.json.encode((METHOD, config.quantized_epochs, config.quantized_learning_rate, config.block_guidance))
    checkpoint = checkpoint_path(folder, settings, quantized_bytes(network) + told)
    _, height, width = teacher.input_shape
    crop = (min(config.crop[0], height), min(config.crop[1], width))
    graph = crossed(trace(student, (teacher.input_shape[0], *crop)), crossings(network.graph))
    settings = msgspec.structs.replace(settings, crop=crop)
    for step in finetune_quantized(network, graph, teacher, train, val, settings, checkpoint):
        what = f"on its grids: {step.what}" if step.result is None else step.what
        # That a processor lacks something was said of the training in float, which comes first.
        yield Step(step.done, step.total, what, warning="" if config.epochs else step.warning)
        if isinstance(step.result, Tuned):
            return checkpoint, step.result
    raise AssertionError("a training ends with what it found")
