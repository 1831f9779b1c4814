"""The release of a student: its file, checked against torch, and the manifest beside it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import numpy as np
from torch import Tensor, nn

from qaedge.architecture import Architecture
from qaedge.artifact import Artifact
from qaedge.nn.candidates import Choose
from qaedge.nn.export_onnx import write_onnx
from qaedge.nn.manifest import write_manifest
from qaedge.nn.parity import Parity, block_parity, check, network_parity
from qaedge.nn.quantize import QuantizedGraph, calibrate
from qaedge.nn.student import Quantizer, StudentReport, load_student, open_splits
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

    Torch and ONNX Runtime are compared on the whole file, and on each block exported by itself.

    Raises:
        MissingFile: nothing of that name was built.
        ParityError: the file does not compute what torch scored; it is removed again.
        UnsupportedOperator: an operator that has no form in the format.
        DiskFull: no space for the file.
    """
    student, architecture, report = load_student(workspace, teacher, space, name)
    train, val = open_splits(workspace)
    quantizer = Quantizer(workspace, teacher, space, architecture, train, choose)
    network = quantizer.quantize(student)
    artifact = write_onnx(network, path, quantizer.form if quantizer.form != "float" else "u8s8", name=name)
    parity = Parity(0)
    if isinstance(network, QuantizedGraph):
        images = (val.preprocess(val.image(i)[None]) for i in range(min(COMPARED, len(val))))
        parity = network_parity(network, artifact, images)
        inputs = val.preprocess(np.stack([val.image(i) for i in range(min(COMPARED_BLOCKS, len(val)))]))
        worst = worst_block(student, teacher, space, architecture, inputs, quantizer.form)
        parity = msgspec.structs.replace(parity, within_one_step=worst)
        try:
            check(parity, artifact)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    beside = write_manifest(artifact, report, architecture, teacher, workspace.project.data, train.classes, parity)
    return artifact, beside, parity, report


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
