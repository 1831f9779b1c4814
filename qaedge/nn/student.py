"""A student: the network of an architecture, fine-tuned, quantized, scored, kept in a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from qaedge.architecture import Architecture
from qaedge.candidate import Candidate, QuantScheme
from qaedge.errors import InvalidFile, MissingFile, UsageError
from qaedge.files import decode_json
from qaedge.nn.anew import Anew, round_anew
from qaedge.nn.assemble import assemble
from qaedge.nn.candidates import Choose
from qaedge.nn.data import Split, open_split
from qaedge.nn.graph import Graph
from qaedge.nn.library import weights_path
from qaedge.nn.metrics import evaluate
from qaedge.nn.part import nodes_in
from qaedge.nn.paths import submodule, top_modules
from qaedge.nn.precision import bits_of_network
from qaedge.nn.quantize import QuantizedGraph, calibrate
from qaedge.nn.quantized_file import load_quantized
from qaedge.nn.recipe import KEPT, NEAREST, is_few_bit
from qaedge.nn.rounded import has_rounded, load_rounded, put_in
from qaedge.nn.sessions import load_file
from qaedge.nn.teacher import Teacher
from qaedge.nn.tracing import trace
from qaedge.nn.widths import widened
from qaedge.progress import Step
from qaedge.project import FinetuneConfig, QuantizeConfig, Workspace
from qaedge.space import SearchSpace
from qaedge.tables import LossRow, LossTable

REPORT = "student.json"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class Scores(msgspec.Struct, frozen=True):
    """mIoU on the validation split: in torch in float, and of the exported file on ONNX Runtime."""

    float_miou: float
    miou: float


class FileReport(msgspec.Struct, frozen=True):
    """A file of the student, and its mIoU on the validation split."""

    file: str
    form: str
    size_bytes: int
    sha256: str
    miou: float


class StudentReport(msgspec.Struct, frozen=True):
    """What a student is worth, as `student.json` keeps it.

    `kept` tells which weights are the student's, the best: those before fine-tuning, after it in float, or
    after it on the grids of the file ("quantized"; its float mIoU is that of the weights it began with).
    `file`, `form`, `size_bytes`, `sha256` are of the ONNX file, by whose mIoU that is decided; `tflite`
    is the same network as TFLite, None where that could not be written. `finetune` are the settings it
    was fine-tuned with, and `bfloat16` whether that was in half precision, which not every processor knows; an older
    build does not tell. `tried_miou` is the best of the epochs on the grids, in
    torch, and `tried_epoch` which that was, also where it was worse than before them and `quantized` is None.
    `recipes` tell how the weights of each block were rounded: as they were scored, or by the same steps "anew", where
    fine-tuning changed them; training on the grids begins with these.
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
    finetune: FinetuneConfig | None = None
    bfloat16: bool | None = None
    tflite: FileReport | None = None
    quantized: Scores | None = None
    quantized_epoch: int = 0
    tried_miou: float | None = None
    tried_epoch: int = 0
    recipes: dict[str, str] = {}

    def file_of(self, file_format: str) -> FileReport | None:
        """Return what was built in a format; None where nothing was."""
        if file_format == "onnx":
            return FileReport(self.file, self.form, self.size_bytes, self.sha256, self.miou)
        return self.tflite if file_format == "tflite" else None

    @property
    def miou(self) -> float:
        """Validation mIoU of the exported file that was kept."""
        return self.scores.miou

    @property
    def scores(self) -> Scores:
        """Those of what was kept."""
        found = {"before": self.before, "after": self.after, "quantized": self.quantized}[self.kept]
        return found or self.before


def student_folder(workspace: Workspace, space: SearchSpace, name: str) -> Path:
    """Where a student and what it took lies; raise UsageError for a name that is none of a folder."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name of a student.",
            "Letters, digits, dot, dash and underscore, with no dot in front; build takes one with --name.",
        )
    return workspace.results / space.origin / "students" / name


def load_report(folder: Path) -> StudentReport:
    """Read what a build found; raise MissingFile where nothing was built."""
    return decode_json(folder / REPORT, StudentReport, hint="Make it with: qaedge build")


def is_built(folder: Path, architecture: Architecture, config: FinetuneConfig) -> bool:
    """Whether a folder holds a student of this very architecture, fine-tuned with these settings."""
    try:
        return (
            Architecture.read(folder / "architecture.json") == architecture and load_report(folder).finetune == config
        )
    except (MissingFile, InvalidFile):  # or what is there is cut short: building it anew mends that
        return False


def network_path(folder: Path, stage: str) -> Path:
    """Where a quantized network lies, as it was after a stage of the build."""
    return folder / f"{stage}.network.safetensors"


def load_network(
    workspace: Workspace, teacher: Teacher, space: SearchSpace, name: str
) -> tuple[Graph | QuantizedGraph, Architecture, StudentReport]:
    """Return a built student as what was kept of it computes: in float, or on its grids, frozen.

    Raises:
        MissingFile: nothing of that name was built.
        UsageError: a name that is none.
        InvalidFile: its files are damaged, or of another space.
    """
    folder = student_folder(workspace, space, name)
    report = load_report(folder)
    architecture = Architecture.load(folder / "architecture.json", space)
    student = assemble(workspace, teacher, space, architecture)
    if not QuantScheme.parse(report.scheme).is_float:
        graph = trace(student, teacher.input_shape)
        return load_quantized(graph, network_path(folder, report.kept)), architecture, report
    path = folder / f"{report.kept}.safetensors"
    try:
        student.load_state_dict(safetensors.torch.load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InvalidFile(
            path, "", f"the weights of {name}", str(error).splitlines()[0], "Run qaedge build again."
        ) from error
    return trace(student.eval(), teacher.input_shape), architecture, report


class _Place(msgspec.Struct, frozen=True):
    """A block of a student: where its distilled weights lie, its path in the network, and what was chosen for it.

    `row` tells how it was scored; None where it was not.
    """

    block: str
    weights: Path
    path: str
    candidate: Candidate
    row: LossRow | None

    @property
    def bits(self) -> tuple[int, ...]:
        """The bits of its layers as they were scored, where its scheme alone does not tell them."""
        return self.row.layer_bits if self.row is not None and self.candidate.scheme.keeps_sensitive else ()

    def rounded(self, network: nn.Module) -> QuantizedGraph | None:
        """Return the block as it was scored; None where it has other weights by now, or was rounded to the nearest.

        Raises MissingFile where the rounded weights are gone, and InvalidFile where they are damaged.
        """
        if not has_rounded(self.weights, self.candidate.scheme):
            if self.row is not None and self.row.rounded:
                raise MissingFile(
                    f"The rounded weights of {self.candidate.spec} ({self.candidate.scheme}) are not in "
                    f"{self.weights.parent} any more.",
                    "Run: qaedge distill",
                )
            return None
        if self.candidate.spec.is_own:
            module = submodule(network, self.path)
        else:
            module = next(iter(top_modules(network, self.path).values()))
        graph = trace(module, self.candidate.input_shape)
        return load_rounded(self.weights, self.candidate.scheme, graph)

    def steps(self, config: QuantizeConfig) -> tuple[str, ...]:
        """Return the steps that a block takes whose rounded weights are not there: those it was scored with."""
        if self.row is not None:
            return tuple(self.row.recipe.split("+")[1:])
        return config.few_bit if is_few_bit(self.candidate.scheme) else config.int8

    def told(self, config: QuantizeConfig, anew: bool) -> str:
        """Return the recipe of a block as a report tells it."""
        steps = self.steps(config)
        return "+".join((NEAREST, *steps)) + (", anew" if anew and steps else "")


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
        """Choose images, scheme and form; nothing is computed yet. Raises UsageError for a mix with float.

        `recipes` tells, after `quantize`, how each block was rounded: as it was scored, or by those steps anew.
        """
        self.recipes: dict[str, str] = {}
        schemes = {block.name: c.scheme for block, c in zip(space.blocks, architecture.candidates(space), strict=True)}
        kinds = {s.is_float for s in schemes.values()}
        if len(kinds) > 1:
            raise UsageError(
                "The architecture mixes float and integer blocks; such a network cannot be exported.",
                "Give the blocks of the space integer schemes only, or fp32 only.",
            )
        self.input_shape = teacher.input_shape
        losses = LossTable(LossTable.store(workspace.loss_file(space.origin)).rows())
        self._places = [
            _Place(
                block.name,
                weights_path(workspace, space, block.name, candidate.spec),
                teacher.block(block.name).path,
                candidate,
                losses.row(block.name, candidate) if losses.has(block.name, candidate) else None,
            )
            for block, candidate in zip(space.blocks, architecture.candidates(space), strict=True)
        ]
        self._config = workspace.project.quantize
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
        """Return a network's graph, quantized unless the scheme is float.

        Raises:
            DataError: calibration images that are all of one color, or cannot be read.
            TeacherError: activations without a range; see `observe`.
        """
        graph = trace(network, self.input_shape)
        if self.scheme.is_float:
            return graph
        self._train.check_varied(self._chosen)
        self.recipes = {place.block: NEAREST for place in self._places}
        rounded = [place.rounded(network) for place in self._places]
        if any(rounded) or any(place.steps(self._config) for place in self._places):
            return self._round(network, graph, rounded)
        graph, widths = widened(graph, self._schemes(network))
        bits = self._bits(network, graph)
        return calibrate(graph, self.batches(), self.scheme, bits, widths=widths).freeze()

    def batches(self) -> Iterator[Tensor]:
        """Yield the calibration images, preprocessed, one by one: (1, 3, height, width)."""
        for i in self._chosen:
            yield self._train.preprocess(self._train.image(i)[None])

    def _bits(self, network: nn.Module, graph: Graph) -> dict[str, int]:
        """Return node -> bits of its weights: of each block as it was scored, whatever its weights are by now."""
        return bits_of_network(graph, self._schemes(network), [place.bits for place in self._places])

    def _schemes(self, network: nn.Module) -> list[tuple[tuple[str, ...], QuantScheme]]:
        """Return the modules of each block, and its scheme."""
        return [(tuple(top_modules(network, place.path)), place.candidate.scheme) for place in self._places]

    def _round(self, network: nn.Module, graph: Graph, rounded: Sequence[QuantizedGraph | None]) -> QuantizedGraph:
        """Quantize a network some of whose blocks are rounded with care.

        A block has the numbers it was scored with (`rounded`), as long as its weights are still those that they were
        made from; else it is rounded anew, as a part of the network.
        """
        graph, widths = widened(graph, self._schemes(network))
        bits = self._bits(network, graph)
        values = {name: value.detach() for name, value in graph.values.items()}
        scales: dict[str, Tensor] = {}
        anew: list[Anew] = []
        for place, found in zip(self._places, rounded, strict=True):
            modules = tuple(top_modules(network, place.path))
            nodes = [node for node in nodes_in(graph, modules) if node.weight]
            if found is not None:
                put_in(values, scales, bits, nodes, found)
            elif steps := place.steps(self._config):
                anew.append(Anew(modules, frozenset(node.name for node in nodes), steps))
            self.recipes[place.block] = place.told(self._config, found is None)
        filled = Graph(graph.input_shape, graph.nodes, graph.output, values)
        keep = KEPT // max(1, len(self._chosen))
        return round_anew(filled, self.scheme, bits, scales, anew, self.batches, self._config, keep, widths).freeze()


def open_splits(workspace: Workspace) -> tuple[Split, Split]:
    """Return the training and the validation split of a project; raise DataError."""
    data = workspace.project.data
    folder = workspace.path(data.path) if data.path else None
    return open_split(data, folder, "train"), open_split(data, folder, "val")


def file_miou(path: Path, split: Split) -> Iterator[Step]:
    """Run an exported file over a split; the last Step's result is the Confusion."""
    session = load_file(path)
    yield from evaluate(lambda images: session.run(images), split, batch=1)
