"""The release of a student: its file, checked against torch, and the manifest beside it."""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from qaedge.artifact import FORMATS, Artifact
from qaedge.errors import InvalidFile, MissingFile, UnsupportedOperator, UsageError
from qaedge.files import PART, claim, disk_errors, read_bytes, remove_abandoned, write_atomic
from qaedge.nn.candidates import Choose
from qaedge.nn.export import TFLITE_REASON, as_written, write_file
from qaedge.nn.manifest import Release, write_manifest
from qaedge.nn.parity import block_parity, check, mean_parity, network_parity
from qaedge.nn.part import part_of
from qaedge.nn.paths import top_modules
from qaedge.nn.quantize import QuantizedGraph
from qaedge.nn.sessions import load_file
from qaedge.nn.stored import stored_weights
from qaedge.nn.student import FileReport, Quantizer, StudentReport, load_network, open_splits, student_folder
from qaedge.nn.teacher import Teacher
from qaedge.progress import Step
from qaedge.project import Workspace
from qaedge.space import SearchSpace

#: Images on which each block of a file is compared by itself.
COMPARED_BLOCKS = 2


def export_student(
    workspace: Workspace, teacher: Teacher, space: SearchSpace, name: str, paths: Sequence[Path], choose: Choose
) -> Iterator[Step]:
    """Write a built student's files, in the formats that their names say, each with its manifest.

    A file is the one that the build scored, byte for byte: quantizing anew may give another, since
    ranges depend in their last bits on the machine and on the number of threads. Torch and the
    format's runtime are compared on the calibration images, and on each block exported by itself.
    A file and its manifest take their names last, so what lay there before survives whatever goes wrong.

    Yields:
        A Step for each image that was compared; the last one's result is a tuple of Release, as the paths.

    Raises:
        MissingFile: nothing of that name was built, or nothing in that format.
        UsageError: the project asks for another file than the one that was built and scored.
        InvalidFile: what the build left is damaged.
        ParityError: the file does not compute what torch scored.
        DataError: torch or the file puts out NaN or infinite logits.
        UnsupportedOperator: an operator that has no form in the format, or a format that is none.
        DiskFull: no space for a file.
    """
    network, architecture, report = load_network(workspace, teacher, space, name)
    train, _ = open_splits(workspace)
    quantizer = Quantizer(workspace, teacher, space, architecture, train, choose)
    folder = student_folder(workspace, space, name)
    files = [_scored_file(folder, report, quantizer, path) for path in paths]
    sizes = {kind: built.size_bytes for kind in FORMATS.values() if (built := report.file_of(kind)) is not None}
    releases: list[Release] = []
    count = len(quantizer.images)
    for path, (data, file) in zip(paths, files, strict=True):
        with _aside(path) as (new, new_manifest):
            write_atomic(new, data)
            written = msgspec.structs.replace(Artifact.of(new, name), form=file.form)
            compared, parities = as_written(network, path), []
            for image in quantizer.batches():
                parities.append(network_parity(compared, written, [image]))
                yield Step(len(releases) * count + len(parities), len(paths) * count, f"checking {path.name}")
            parity = mean_parity(parities)
            if isinstance(network, QuantizedGraph):
                inputs = torch.cat(list(itertools.islice(quantizer.batches(), COMPARED_BLOCKS)))
                worst = worst_block(network, teacher, inputs, file.form, path.suffix)
                parity = msgspec.structs.replace(parity, within_one_step=worst)
            check(parity, written)
            artifact = msgspec.structs.replace(written, path=str(path))
            reason = report.form_reason if artifact.format == "onnx" else "" if file.form == "float" else TFLITE_REASON
            preprocessing, classes = workspace.project.data, train.classes
            session = load_file(new)
            release = Release(
                artifact, path.with_name(f"{path.name}.json"), parity, file, reason, stored_weights(network, new), sizes
            )
            write_manifest(
                replace(release, manifest=new_manifest),
                session,
                report,
                architecture,
                teacher,
                preprocessing,
                classes,
            )
            with disk_errors(path):
                new.replace(path)
                new_manifest.replace(release.manifest)
        releases.append(release)
    yield Step(1, 1, name, tuple(releases))


@contextmanager
def _aside(path: Path) -> Iterator[tuple[Path, Path]]:
    """Give a file and its manifest places beside where they go; what still lies there afterwards is removed.

    That includes the places of an export that was killed.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    with folder:
        held = os.open(folder.name, os.O_RDONLY)
        try:
            claim(held)
            yield Path(folder.name) / path.name, Path(folder.name) / f"{path.name}.json"
        finally:
            os.close(held)


def _scored_file(
    folder: Path, report: StudentReport, quantizer: Quantizer, wanted_path: Path
) -> tuple[bytes, FileReport]:
    """Return the very file that the build scored; refuse it where the project asks for another by now."""
    kind = FORMATS.get(wanted_path.suffix)
    if kind is None:
        raise UnsupportedOperator(
            f"{wanted_path}: no such files are written here.", f"End the name in {' or '.join(FORMATS)}."
        )
    file = report.file_of(kind)
    if file is None:
        raise MissingFile(
            f"{report.name} has no {kind} file.",
            'Install what writes it, pip install "qaedge[tflite]", and run qaedge build again.',
        )
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
    path = folder / file.file
    data = read_bytes(path, hint="Make it with: qaedge build")
    if (found := hashlib.sha256(data).hexdigest()) != file.sha256:
        raise InvalidFile(
            path, "", f"the file that was scored ({file.sha256[:12]})", found[:12], "Run qaedge build again."
        )
    return data, file


def worst_block(
    network: QuantizedGraph, teacher: Teacher, images: Tensor, form: str, suffix: str = ".onnx"
) -> float | None:
    """Export each block of a network by itself, INT8 in and out, and compare it with torch.

    Args:
        network: the whole, as it is deployed.
        teacher: says where its blocks are.
        images: preprocessed, (batch, 3, height, width); what comes to each block is taken from them.
        form: how integers are stored.
        suffix: of the format.

    Returns:
        The least share of outputs, over blocks, that are at most one quantization step apart; None where no block
        stands alone, so that none was compared.
    """
    parts = {block.name: part_of(network, top_modules(teacher.module, block.path)) for block in teacher.blocks}
    inputs: dict[str, list[Tensor]] = {name: [] for name in parts}
    readers: dict[str, list[str]] = {}  # tensor -> the blocks that it goes into
    for name, part in parts.items():
        if part is not None:
            readers.setdefault(part.given, []).append(name)
    shares: list[float] = []

    def note(tensor: str, x: Tensor) -> None:
        for name in readers.get(tensor, ()):
            inputs[name].append(x)

    with torch.no_grad():
        for image in images:
            network.run(image[None], note)
    with tempfile.TemporaryDirectory() as folder:
        for name, part in parts.items():
            if part is None:  # its ends are not on grids of their own: the whole network's check has to do
                continue
            artifact = write_file(part.network, Path(folder) / f"{name}{suffix}", form, integer_ends=True)
            found = block_parity(part.network, artifact, inputs[name]).within_one_step
            assert found is not None
            shares.append(found)
    return min(shares, default=None)
