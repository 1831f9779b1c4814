"""Candidates as files to be timed: each quantized and exported as it stands in the network.

Their weights are arbitrary: how long integers take to multiply does not depend on their values.
So boards can measure before, while or after the workstation distills.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from qaedge.architecture import Architecture
from qaedge.artifact import Artifact
from qaedge.borders import Border, borders
from qaedge.candidate import Candidate, QuantScheme
from qaedge.layer_bits import LayerBits, joined
from qaedge.machine import usable_cores
from qaedge.nn.blocks import build_block
from qaedge.nn.export import TFLITE_REASON, write_file
from qaedge.nn.export_tflite import FORM as TFLITE_FORM
from qaedge.nn.graph import Graph
from qaedge.nn.paths import top_modules
from qaedge.nn.precision import bits_of_layers, bits_of_network, bits_of_whole
from qaedge.nn.quantize import calibrate
from qaedge.nn.teacher import Teacher, with_blocks
from qaedge.nn.tracing import trace
from qaedge.nn.widths import crossing_alone, widened
from qaedge.nn.workers import Shared, one_thread
from qaedge.probes import probes
from qaedge.progress import Step
from qaedge.project import Workspace
from qaedge.space import SearchSpace
from qaedge.tables import anchor_key

#: weight bits -> form and the reason for it.
Choose = Callable[[int], tuple[str, str]]
#: A helper first imports torch, which takes as long as this many files.
WORTH_A_HELPER = 100
#: More would hold much memory, each with torch of its own, for a task of seconds.
MOST_HELPERS = 7


def export_candidates(
    workspace: Workspace,
    teacher: Teacher,
    space: SearchSpace,
    choose: Choose,
    keys: Container[str] | None = None,
    file_format: str = "onnx",
    processes: int | None = None,
) -> Iterator[Step]:
    """Export each candidate once, the whole teacher in each scheme, the probes, and the borders.

    What holds the teacher's modules is exported first, by this process; then the others, where they are many, by
    several.

    Args:
        workspace: files go to its artifacts folder.
        teacher: gives the own blocks and the whole network.
        space: what to export.
        choose: the INT8 form for a number of weight bits.
        keys: only these; None for all.
        file_format: "onnx" or "tflite".
        processes: how many work, this one included; None: as many as there are cores and work for them.

    Yields:
        A Step for each, with result `(key, Artifact)`.

    Raises:
        UnsupportedOperator: a block holds an operator that cannot be exported.
        DiskFull: no space for a file.
        QaedgeError: a process that helps was ended, as by a system without memory.
    """
    own = {block.digest: block.module for block in teacher.blocks}
    layers = LayerBits.read(workspace, space)
    schemes = dict.fromkeys(c.scheme for c in space.unique())
    write = _Writer(workspace.artifacts, _forms(schemes, choose, file_format), file_format)
    anchors = [(anchor_key(space, str(scheme)), scheme) for scheme in schemes]
    wanted = [c for c in space.unique() if keys is None or c.key in keys]
    fresh = [(c, layers.of_candidate(c)) for c in wanted if not c.spec.is_own]

    between = {key: each for key, each in borders(space).items() if keys is None or key in keys}

    def by_this_process() -> Iterator[tuple[str, Artifact]]:
        for key, scheme in anchors:
            if keys is None or key in keys:
                known = layers.of_teacher(scheme)
                in_each = _in_each(teacher, space, known)
                places = [(tuple(top_modules(teacher.module, block.path)), scheme) for block in teacher.blocks]
                bits = joined(known)
                yield (
                    key,
                    write.export(key, teacher.module, teacher.input_shape, scheme, False, in_each, bits, places),
                )
        for key, network in probes(space).items():
            if keys is None or key in keys:
                yield key, write.export_whole(teacher, space, network, key, layers)
        for key, each in between.items():
            yield key, write.export_border(each, max(schemes, key=lambda s: (not s.is_float, s.weight_bits)))
        for candidate in wanted:
            if candidate.spec.is_own:
                module = own[candidate.spec.layers[0].digest]
                yield candidate.key, write.export_block(candidate, module, layers.of_candidate(candidate))

    total = sum(keys is None or key in keys for key in (*dict(anchors), *probes(space))) + len(between) + len(wanted)
    helpers = (
        min(usable_cores() - 1, MOST_HELPERS, len(fresh) // WORTH_A_HELPER) if processes is None else processes - 1
    )
    done = 0
    with one_thread(), Shared(write.export_fresh, fresh, helpers) as shared:
        for key, artifact in itertools.chain(by_this_process(), shared.results()):
            done += 1
            yield Step(done, total, key, (key, artifact))


def export_networks(
    workspace: Workspace,
    teacher: Teacher,
    space: SearchSpace,
    networks: Mapping[str, Sequence[Candidate]],
    choose: Choose,
    file_format: str = "onnx",
) -> Iterator[Step]:
    """Export whole networks to be timed, by the keys of their rows; as `export_candidates`, by this process alone."""
    layers = LayerBits.read(workspace, space)
    schemes = dict.fromkeys(candidate.scheme for network in networks.values() for candidate in network)
    write = _Writer(workspace.artifacts, _forms(schemes, choose, file_format), file_format)
    for done, (key, network) in enumerate(networks.items(), start=1):
        artifact = write.export_whole(teacher, space, network, key, layers)
        yield Step(done, len(networks), key, (key, artifact))


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
    forms = _forms({candidate.scheme for candidate in chosen}, choose, file_format)
    writer, layers = _Writer(workspace.artifacts, forms, file_format), LayerBits.read(workspace, space)
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


def _forms(schemes: Iterable[QuantScheme], choose: Choose, file_format: str) -> dict[QuantScheme, str]:
    """Return the form of each scheme: what crosses to other processes, where `choose` may not."""
    return {scheme: form_of(scheme, choose, file_format)[0] for scheme in schemes}


@dataclass(frozen=True)
class _Writer:
    """Writes files of one format into a folder; `forms` tells how those of each scheme are stored."""

    folder: Path
    forms: Mapping[QuantScheme, str]
    file_format: str

    def export_whole(
        self, teacher: Teacher, space: SearchSpace, chosen: Sequence[Candidate], key: str, layers: LayerBits
    ) -> Artifact:
        known = layers.of_network(chosen)
        own = {block.digest: block.module for block in teacher.blocks}
        blocks = list(zip(space.blocks, chosen, strict=True))
        places = [(tuple(top_modules(teacher.module, teacher.block(b.name).path)), c.scheme) for b, c in blocks]
        module = with_blocks(teacher, {b.name: _block(c, own) for b, c in blocks if not c.spec.is_own}).eval()

        def bits(graph: Graph, scheme: QuantScheme) -> dict[str, int]:
            return bits_of_network(graph, places, known)

        widest = max((c.scheme for c in chosen), key=lambda s: s.weight_bits)
        return self.export(key, module, teacher.input_shape, widest, False, bits, joined(known), places)

    def export_fresh(self, item: tuple[Candidate, tuple[int, ...]]) -> tuple[str, Artifact]:
        """Export a candidate that is not the teacher's own, with the bits of its layers."""
        candidate, known = item
        return candidate.key, self.export_block(candidate, _block(candidate, {}), known)

    def export_border(self, border: Border, scheme: QuantScheme) -> Artifact:
        """Export what lies between two blocks, in the form of a scheme."""
        graph, widths = crossing_alone(border.shape, border.before, border.after)
        noise, form = [_noise(border.shape)], self.forms[scheme]
        quantized = calibrate(graph, noise, scheme, float_tail=False, arbitrary=True, widths=widths)
        path = self.folder / f"{_file_name(border.key, form)}.{self.file_format}"
        return write_file(quantized, path, form, name=border.key, integer_ends=True)

    def export_block(self, candidate: Candidate, module: nn.Module, known: tuple[int, ...]) -> Artifact:
        def bits(graph: Graph, scheme: QuantScheme) -> dict[str, int]:
            return bits_of_layers(graph, scheme, known=known)

        return self.export(candidate.key, module, candidate.input_shape, candidate.scheme, True, bits, known)

    def export(
        self,
        key: str,
        module: nn.Module,
        input_shape: tuple[int, int, int],
        scheme: QuantScheme,
        integer_ends: bool,
        bits: Callable[[Graph, QuantScheme], dict[str, int]],
        known: Sequence[int] = (),
        schemes: Sequence[tuple[Sequence[str], QuantScheme]] = (),
    ) -> Artifact:
        """Write a file.

        `known` are the bits of `bits` that the scheme alone does not tell, and `schemes` those of the blocks, by their
        modules, where they may not be alike.
        """
        graph, widths = widened(trace(module, input_shape), schemes)
        form = self.forms[scheme]
        path = self.folder / f"{_file_name(key, form, known)}.{self.file_format}"
        if scheme.is_float:
            return write_file(graph, path, name=key)
        noise = [_noise(input_shape)]
        quantized = calibrate(
            graph, noise, scheme, bits(graph, scheme), not integer_ends, arbitrary=True, widths=widths
        )
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
