"""Candidates as files to be timed: each quantized and exported as it stands in the network.

Their weights are arbitrary: how long integers take to multiply does not depend on their values.
So boards can measure before, while or after the workstation distills.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import torch
from torch import Tensor, nn

from qaedge.architecture import Architecture
from qaedge.artifact import Artifact
from qaedge.candidate import Candidate, QuantScheme
from qaedge.layer_bits import LayerBits, joined
from qaedge.nn.blocks import build_block
from qaedge.nn.export import TFLITE_REASON, write_file
from qaedge.nn.export_tflite import FORM as TFLITE_FORM
from qaedge.nn.graph import Graph
from qaedge.nn.paths import top_modules
from qaedge.nn.precision import bits_of_layers, bits_of_network, bits_of_whole
from qaedge.nn.quantize import calibrate
from qaedge.nn.teacher import Teacher, with_blocks
from qaedge.nn.tracing import trace
from qaedge.probes import probes
from qaedge.progress import Step
from qaedge.project import Workspace
from qaedge.space import SearchSpace
from qaedge.tables import anchor_key

T = TypeVar("T")

#: weight bits -> form and the reason for it.
Choose = Callable[[int], tuple[str, str]]


def export_candidates(
    workspace: Workspace,
    teacher: Teacher,
    space: SearchSpace,
    choose: Choose,
    keys: Container[str] | None = None,
    file_format: str = "onnx",
) -> Iterator[Step]:
    """Export each candidate once, the whole teacher in each scheme, and the probes.

    Args:
        workspace: files go to its artifacts folder.
        teacher: gives the own blocks and the whole network.
        space: what to export.
        choose: the INT8 form for a number of weight bits.
        keys: only these; None for all.
        file_format: "onnx" or "tflite".

    Yields:
        A Step for each, with result `(key, Artifact)`.

    Raises:
        UnsupportedOperator: a block holds an operator that cannot be exported.
        DiskFull: no space for a file.
    """
    own = {block.digest: block.module for block in teacher.blocks}
    layers = LayerBits.read(workspace, space)
    write = _Writer(workspace.artifacts, choose, file_format)
    work: list[tuple[str, Candidate | QuantScheme | tuple[Candidate, ...]]] = []
    work += [(anchor_key(space, str(s)), s) for s in dict.fromkeys(c.scheme for c in space.unique())]
    work += probes(space).items()
    work += [(c.key, c) for c in space.unique()]
    if keys is not None:
        work = [(key, what) for key, what in work if key in keys]

    def export(item: tuple[str, Candidate | QuantScheme | tuple[Candidate, ...]]) -> tuple[str, Artifact]:
        key, what = item
        if isinstance(what, Candidate):
            known = layers.of_candidate(what)

            def bits(graph: Graph, scheme: QuantScheme) -> dict[str, int]:
                return bits_of_layers(graph, scheme, known=known)

            return key, write.export(key, lambda: _block(what, own), what.input_shape, what.scheme, True, bits, known)
        if isinstance(what, tuple):
            return key, write.export_whole(teacher, space, what, key, layers)
        told = layers.of_teacher(what)
        in_each = _in_each(teacher, space, told)
        return key, write.export(key, lambda: teacher.module, teacher.input_shape, what, False, in_each, joined(told))

    yield from _side_by_side(export, work)


def export_networks(
    workspace: Workspace,
    teacher: Teacher,
    space: SearchSpace,
    networks: Mapping[str, Sequence[Candidate]],
    choose: Choose,
    file_format: str = "onnx",
) -> Iterator[Step]:
    """Export whole networks to be timed, by the keys of their rows; as `export_candidates`."""
    layers = LayerBits.read(workspace, space)
    write = _Writer(workspace.artifacts, choose, file_format)

    def export(item: tuple[str, Sequence[Candidate]]) -> tuple[str, Artifact]:
        return item[0], write.export_whole(teacher, space, item[1], item[0], layers)

    yield from _side_by_side(export, list(networks.items()))


def _side_by_side(
    export: Callable[[tuple[str, T]], tuple[str, Artifact]], work: Sequence[tuple[str, T]]
) -> Iterator[Step]:
    """Export on every core, and yield a Step for each file in the order of the work."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for done, (key, artifact) in enumerate(pool.map(export, work), start=1):
                yield Step(done, len(work), key, (key, artifact))
        finally:  # after an error, or Ctrl-C, what is not begun yet need not be
            pool.shutdown(wait=True, cancel_futures=True)


def export_network(
    workspace: Workspace,
    teacher: Teacher,
    space: SearchSpace,
    architecture: Architecture,
    choose: Choose,
    file_format: str = "onnx",
) -> Artifact:
    """Export a whole network to be timed, its blocks with arbitrary weights.

    Raises:
        UnsupportedOperator: an operator that cannot be exported.
        DiskFull: no space for the file.
    """
    chosen = architecture.candidates(space)
    key = "+".join(c.key for c in chosen)
    name = hashlib.sha256(key.encode()).hexdigest()[:12]
    writer, layers = _Writer(workspace.artifacts, choose, file_format), LayerBits.read(workspace, space)
    artifact = writer.export_whole(teacher, space, chosen, key, layers)
    return msgspec.structs.replace(artifact, name=f"network {name}")


def form_of(scheme: QuantScheme, choose: Choose, file_format: str) -> tuple[str, str]:
    """Return how a scheme's numbers are stored in a file of a format, and why so."""
    if scheme.is_float:
        return "float", ""
    return choose(scheme.weight_bits) if file_format == "onnx" else (TFLITE_FORM, TFLITE_REASON)


def _block(candidate: Candidate, own: dict[str, nn.Module]) -> nn.Module:
    if candidate.spec.is_own:
        return own[candidate.spec.layers[0].digest]
    return build_block(candidate.spec, candidate.input_shape[0]).eval()


class _Writer:
    """Writes files of one format into a folder; several threads may share one."""

    def __init__(self, folder: Path, choose: Choose, file_format: str) -> None:
        self.folder, self.choose, self.file_format = folder, choose, file_format
        # Drawing weights seeds torch's one generator, and tracing patches its functions: one thread at a time.
        self._alone = threading.Lock()

    def export_whole(
        self, teacher: Teacher, space: SearchSpace, chosen: Sequence[Candidate], key: str, layers: LayerBits
    ) -> Artifact:
        known = layers.of_network(chosen)
        own = {block.digest: block.module for block in teacher.blocks}

        def build() -> nn.Module:
            pairs = zip(space.blocks, chosen, strict=True)
            return with_blocks(teacher, {b.name: _block(c, own) for b, c in pairs if not c.spec.is_own}).eval()

        def bits(graph: Graph, scheme: QuantScheme) -> dict[str, int]:
            pairs = zip(space.blocks, chosen, strict=True)
            places = [(top_modules(teacher.module, teacher.block(b.name).path), c.scheme) for b, c in pairs]
            return bits_of_network(graph, places, known)

        widest = max((c.scheme for c in chosen), key=lambda s: s.weight_bits)
        return self.export(key, build, teacher.input_shape, widest, False, bits, joined(known))

    def export(
        self,
        key: str,
        build: Callable[[], nn.Module],
        input_shape: tuple[int, int, int],
        scheme: QuantScheme,
        integer_ends: bool,
        bits: Callable[[Graph, QuantScheme], dict[str, int]],
        known: Sequence[int] = (),
    ) -> Artifact:
        """Write a file; `known` are the bits of `bits` that the scheme alone does not tell."""
        with self._alone:
            graph = trace(build(), input_shape)
        form, _ = form_of(scheme, self.choose, self.file_format)
        path = self.folder / f"{_file_name(key, form, known)}.{self.file_format}"
        if scheme.is_float:
            return write_file(graph, path, name=key)
        noise = [_noise(input_shape)]
        quantized = calibrate(graph, noise, scheme, bits(graph, scheme), not integer_ends, arbitrary=True)
        return write_file(quantized, path, form, name=key, integer_ends=integer_ends)


def _in_each(
    teacher: Teacher, space: SearchSpace, known: Sequence[Sequence[int]]
) -> Callable[[Graph, QuantScheme], dict[str, int]]:
    """Return what tells the bits of the teacher with each of its blocks in one scheme; `known` by block."""
    places = [tuple(top_modules(teacher.module, teacher.block(block.name).path)) for block in space.blocks]
    return lambda graph, scheme: bits_of_whole(graph, places, scheme, known)


def _noise(shape: tuple[int, int, int]) -> Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


def _file_name(key: str, form: str, known: Sequence[int] = ()) -> str:
    told = f"{key} {form} {'.'.join(map(str, known))}".rstrip()
    return hashlib.sha256(told.encode()).hexdigest()[:20]
