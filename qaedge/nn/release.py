"""The release of a student: its file, checked against torch, and the manifest beside it."""

from __future__ import annotations

from pathlib import Path

from qaedge.artifact import Artifact
from qaedge.nn.candidates import Choose
from qaedge.nn.export_onnx import write_onnx
from qaedge.nn.manifest import write_manifest
from qaedge.nn.parity import Parity, check, network_parity
from qaedge.nn.quantize import QuantizedGraph
from qaedge.nn.student import Quantizer, StudentReport, load_student, open_splits
from qaedge.nn.teacher import Teacher
from qaedge.project import Workspace
from qaedge.space import SearchSpace

#: Images on which torch and the file are compared.
COMPARED = 8


def export_student(
    workspace: Workspace, teacher: Teacher, space: SearchSpace, name: str, path: Path, choose: Choose
) -> tuple[Artifact, Path, Parity, StudentReport]:
    """Write a built student's file and manifest; return both, how alike torch and the file are, and its report.

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
        try:
            check(parity, artifact)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    beside = write_manifest(artifact, report, architecture, teacher, workspace.project.data, train.classes, parity)
    return artifact, beside, parity, report
