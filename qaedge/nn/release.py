"""The release of a student: its file, checked against torch, and the manifest beside it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
from torch import Tensor, nn

from qaedge.architecture import Architecture
from qaedge.artifact import Artifact
from qaedge.errors import InvalidFile, UsageError
from qaedge.files import disk_errors, read_bytes, write_atomic
from qaedge.nn.candidates import Choose
from qaedge.nn.export_onnx import write_onnx
from qaedge.nn.manifest import write_manifest
from qaedge.nn.parity import Parity, block_parity, check, network_parity
from qaedge.nn.quantize import QuantizedGraph, calibrate
from qaedge.nn.student import Quantizer, StudentReport, load_student, open_splits, student_folder
from qaedge.nn.teacher import Teacher, cut, record
from qaedge.nn.tracing import trace
from qaedge.project import Workspace
from qaedge.space import SearchSpace

#: Images on which torch and the file are compared: whole, and block by block.
COMPARED, COMPARED_BLOCKS = 8, 2


def export_student(
    workspace: Workspace, teacher: Teacher, space: SearchSpace, name: str, path: Path, choose: Choose
) -> tuple[Artifact, Path, Parity, StudentReport]:
    """Write a built student's file and manifest; return both, how alike torch and the file are, and its report.

    The file is the one that the build scored, byte for byte: quantizing anew may give another,
    since ranges depend in their last bits on the machine and on the number of threads. Torch and
    ONNX Runtime are compared on the whole file, and on each block exported by itself. Both files
    take their names last, so what lay there before survives whatever goes wrong.

    Raises:
        MissingFile: nothing of that name was built.
        UsageError: the project asks for another file than the one that was built and scored.
        InvalidFile: what the build left is damaged.
        ParityError: the file does not compute what torch scored.
        DataError: torch or the file puts out NaN or infinite logits.
        UnsupportedOperator: an operator that has no form in the format.
        DiskFull: no space for the file.
    """
    student, architecture, report = load_student(workspace, teacher, space, name)
    train, val = open_splits(workspace)
    quantizer = Quantizer(workspace, teacher, space, architecture, train, choose)
    data = _scored_file(student_folder(workspace, space, name), report, quantizer)
    network = quantizer.quantize(student)
    with _aside(path) as (new, new_manifest):
        write_atomic(new, data)
        written = msgspec.structs.replace(Artifact.of(new, name), format="onnx", form=report.form)
        parity = Parity(0)
        if isinstance(network, QuantizedGraph):
            images = (val.preprocess(val.image(i)[None]) for i in range(min(COMPARED, len(val))))
            parity = network_parity(network, written, images)
            inputs = val.preprocess(np.stack([val.image(i) for i in range(min(COMPARED_BLOCKS, len(val)))]))
            worst = worst_block(student, teacher, space, architecture, inputs, quantizer.form)
            parity = msgspec.structs.replace(parity, within_one_step=worst)
            check(parity, written)
        artifact = msgspec.structs.replace(written, path=str(path))
        preprocessing, classes = workspace.project.data, train.classes
        write_manifest(artifact, report, architecture, teacher, preprocessing, classes, parity, new_manifest)
        beside = path.with_name(f"{path.name}.json")
        with disk_errors(path):
            new.replace(path)
            new_manifest.replace(beside)
    return artifact, beside, parity, report


@contextmanager
def _aside(path: Path) -> Iterator[tuple[Path, Path]]:
    """Give a file and its manifest places beside where they go; what still lies there afterwards is removed."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.")
    with folder:
        yield Path(folder.name) / path.name, Path(folder.name) / f"{path.name}.json"


def _scored_file(folder: Path, report: StudentReport, quantizer: Quantizer) -> bytes:
    """Return the very file that the build scored; refuse it where the project asks for another by now."""
    before, now = report.calibration_images, quantizer.images
    changed = [
        f"{what} {then}, now {wanted}"
        for what, then, wanted in (
            ("scheme", report.scheme, str(quantizer.scheme)),
            ("form", report.form, quantizer.form),
            ("calibration images", len(before), len(now)),
        )
        if then != wanted
    ]
    if changed or before != now:
        raise UsageError(
            f"Settings have changed since {report.name} was built: {', '.join(changed) or 'other calibration images'}.",
            "Its mIoU is that of another file. Run qaedge build again, for the same device, then export.",
        )
    path = folder / report.file
    data = read_bytes(path, hint="Make it with: qaedge build")
    if (found := hashlib.sha256(data).hexdigest()) != report.sha256:
        raise InvalidFile(
            path, "", f"the file that was scored ({report.sha256[:12]})", found[:12], "Run qaedge build again."
        )
    return data


def worst_block(
    student: nn.Module,
    teacher: Teacher,
    space: SearchSpace,
    architecture: Architecture,
    images: Tensor,
    form: str,
) -> float:
    """Export each block of a student by itself, INT8 in and out, and compare it with torch.

    Args:
        student: the network, in eval mode.
        teacher: says where its blocks are.
        space: names the blocks.
        architecture: the scheme of each.
        images: preprocessed, (batch, 3, height, width); also what the blocks are calibrated on.
        form: how integers are stored.

    Returns:
        The least share of outputs, over blocks, that are at most one quantization step apart.
    """
    whole = cut(student, {block.name: block.path for block in teacher.blocks}, teacher.input_shape, "student")
    shares = [1.0]
    with tempfile.TemporaryDirectory() as folder:
        for block, candidate in zip(whole.blocks, architecture.candidates(space), strict=True):
            given, _ = record(whole, images, [block.name])[block.name]
            singles = [given[i : i + 1] for i in range(len(given))]
            graph = trace(block.module, block.input_shape)
            quantized = calibrate(graph, singles, candidate.scheme, float_tail=False).freeze()
            artifact = write_onnx(quantized, Path(folder) / f"{block.name}.onnx", form, integer_ends=True)
            shares.append(block_parity(quantized, artifact, singles).within_one_step or 0.0)
    return min(shares)
