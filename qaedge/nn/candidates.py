"""Candidates as files to be timed: each quantized and exported as it stands in the network.

Their weights are arbitrary: how long integers take to multiply does not depend on their values.
So boards can measure before, while or after the workstation distills.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from qaedge.architecture import Architecture
from qaedge.artifact import Artifact
from qaedge.candidate import Candidate, QuantScheme
from qaedge.nn.blocks import build_block
from qaedge.nn.export_onnx import write_onnx
from qaedge.nn.quantize import calibrate
from qaedge.nn.teacher import Teacher, with_blocks
from qaedge.nn.tracing import trace
from qaedge.progress import Step
from qaedge.project import Workspace
from qaedge.space import SearchSpace
from qaedge.tables import anchor_key

#: weight bits -> form and the reason for it.
Choose = Callable[[int], tuple[str, str]]


def export_candidates(
    workspace: Workspace,
    teacher: Teacher,
    space: SearchSpace,
    choose: Choose,
    keys: Container[str] | None = None,
) -> Iterator[Step]:
    """Export each candidate once, and the whole teacher in each scheme.

    Args:
        workspace: files go to its artifacts folder.
        teacher: gives the own blocks and the whole network.
        space: what to export.
        choose: the INT8 form for a number of weight bits.
        keys: only these; None for all.

    Yields:
        A Step for each, with result `(key, Artifact)`.

    Raises:
        UnsupportedOperator: a block holds an operator that cannot be exported.
        DiskFull: no space for a file.
    """
    own = {block.digest: block.module for block in teacher.blocks}
    work: list[tuple[str, Candidate | QuantScheme]] = [(c.key, c) for c in space.unique()]
    schemes = dict.fromkeys(c.scheme for c in space.unique())
    work = [(anchor_key(space, str(s)), s) for s in schemes] + work
    if keys is not None:
        work = [(key, what) for key, what in work if key in keys]
    for done, (key, what) in enumerate(work, start=1):
        if isinstance(what, Candidate):
            module = _block(what, own)
            artifact = _export(workspace.artifacts, key, module, what.input_shape, what.scheme, choose, True)
        else:
            artifact = _export(workspace.artifacts, key, teacher.module, teacher.input_shape, what, choose, False)
        yield Step(done, len(work), key, (key, artifact))


def export_network(
    workspace: Workspace, teacher: Teacher, space: SearchSpace, architecture: Architecture, choose: Choose
) -> Artifact:
    """Export a whole network to be timed, its blocks with arbitrary weights.

    Raises:
        UnsupportedOperator: an operator that cannot be exported.
        DiskFull: no space for the file.
    """
    own = {block.digest: block.module for block in teacher.blocks}
    chosen = architecture.candidates(space)
    blocks = {b.name: _block(c, own) for b, c in zip(space.blocks, chosen, strict=True) if not c.spec.is_own}
    key = "+".join(c.key for c in chosen)
    network = with_blocks(teacher, blocks).eval()
    name = hashlib.sha256(key.encode()).hexdigest()[:12]
    artifact = _export(workspace.artifacts, key, network, teacher.input_shape, chosen[0].scheme, choose, False)
    return msgspec.structs.replace(artifact, name=f"network {name}")


def _block(candidate: Candidate, own: dict[str, nn.Module]) -> nn.Module:
    if candidate.spec.is_own:
        return own[candidate.spec.layers[0].digest]
    return build_block(candidate.spec, candidate.input_shape[0]).eval()


def _export(
    folder: Path,
    key: str,
    module: nn.Module,
    input_shape: tuple[int, int, int],
    scheme: QuantScheme,
    choose: Choose,
    integer_ends: bool,
) -> Artifact:
    graph = trace(module, input_shape)
    if scheme.is_float:
        form = "float"
        path = folder / f"{_file_name(key, form)}.onnx"
        return write_onnx(graph, path, name=key)
    form = choose(scheme.weight_bits)[0]
    quantized = calibrate(graph, [_noise(input_shape)], scheme, float_tail=not integer_ends)
    path = folder / f"{_file_name(key, form)}.onnx"
    return write_onnx(quantized, path, form, name=key, integer_ends=integer_ends)


def _noise(shape: tuple[int, int, int]) -> Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


def _file_name(key: str, form: str) -> str:
    return hashlib.sha256(f"{key} {form}".encode()).hexdigest()[:20]
