"""The project file, qaedge.toml: teacher, blocks, data, space, device, limits; where results live."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import msgspec

from qaedge.errors import InvalidFile, MissingFile, QaedgeError
from qaedge.files import decode_toml
from qaedge.units import parse_bytes, parse_percent, parse_seconds

FILE_NAME = "qaedge.toml"
LAYOUTS = ("camvid", "cityscapes", "scenes")


class TeacherConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to get the teacher.

    Attributes:
        function: `module:function` that returns an `nn.Module`; called with `arguments`.
        weights: safetensors, or a `.pt` holding a state dict; relative to the project file.
        blocks: name -> submodule path, or a slice `path[a:b]` of an `nn.Sequential`, in the
            order of the network.
    """

    function: str
    blocks: dict[str, str]
    weights: str = ""
    arguments: dict[str, int | float | str | bool] = {}


class DataConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Images and labels.

    Attributes:
        layout: `camvid`, `cityscapes` or `scenes` (generated).
        path: the folder that holds the splits; not used by `scenes`. `$NAME` is taken from the
            environment.
        height, width: what the network sees [pixels].
        classes: their names, in the order of the label ids.
        void: label ids that do not count.
        mean, std: preprocessing, `(x / 255 - mean) / std` per RGB channel; 0.5 is `x/127.5 - 1`.
        count: for `scenes`: training images; a quarter as many are for validation.
    """

    layout: str
    height: int
    width: int
    path: str = ""
    classes: tuple[str, ...] = ()
    void: tuple[int, ...] = (255,)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    train_split: str = "train"
    val_split: str = "val"
    count: int = 128

    @property
    def digest(self) -> str:
        """Sha256 of which images a network sees and how they are scaled, but not of files or of their size."""
        where = self.count if self.layout == "scenes" else self.path
        seen = (self.layout, where, self.train_split, self.val_split, self.mean, self.std)
        return hashlib.sha256(msgspec.json.encode(seen)).hexdigest()


class DistillConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Block-wise distillation: optimizer steps per candidate, and the cache of teacher features."""

    steps: int = 120
    batch: int = 8
    learning_rate: float = 1e-3  # of candidates that start from the teacher
    workers: int = 0  # 0: one per core
    cache: str = "2GiB"  # bound of the feature cache on disk
    calibration_images: int = 32
    seed: int = 0


class FinetuneConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fine-tuning of a whole network with the teacher's guidance: first in float, then on its grids."""

    epochs: int = 12
    quantized_epochs: int = 0  # of quantization-aware fine-tuning, after those in float
    quantized_learning_rate: float = 1e-4
    batch: int = 8
    learning_rate: float = 5e-4
    crop: tuple[int, int] = (256, 320)
    scales: tuple[float, float] = (1.0, 1.0)  # images are resized by a factor in between before cropping
    guidance: float = 1.0  # weight of the teacher's logits beside the labels
    block_guidance: float = 0.1  # weight of the blocks' outputs in quantization-aware fine-tuning
    freeze_batch_norm: bool = True  # statistics stay as they were distilled
    bfloat16: bool = False  # half precision inside, where the processor knows it: twice as fast
    seed: int = 0


#: The steps that a recipe may have, in the order in which they are taken; `nn.recipe` says what each does.
QUANTIZE_STEPS = ("ranges", "equalize", "biases", "rounding", "reconstruct")


class QuantizeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How candidates are quantized: the steps after rounding to the nearest, of `QUANTIZE_STEPS`.

    Attributes:
        few_bit: steps of schemes in which some layer's weights have 6 bits or fewer.
        int8: steps of the others.
        images: calibration images that rounding is learned on, at most.
        reconstruct_steps: optimizer steps of `reconstruct`, on `reconstruct_batch` images each.
    """

    few_bit: tuple[str, ...] = ("ranges", "rounding")
    int8: tuple[str, ...] = ()
    images: int = 16
    reconstruct_steps: int = 60
    reconstruct_batch: int = 2
    seed: int = 0


class LimitsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the network must keep; empty means no limit.

    Each is a quantity with a unit ("25ms", "1.2MiB") or a share of the teacher's own ("75%").
    """

    latency: str = ""
    size: str = ""


class Project(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole qaedge.toml."""

    teacher: TeacherConfig
    data: DataConfig
    space: str
    device: str = "local"
    results: str = "results"
    limits: LimitsConfig = LimitsConfig()
    distill: DistillConfig = DistillConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    quantize: QuantizeConfig = QuantizeConfig()


class Workspace:
    """A project and the folder it lives in: where each file of it is."""

    def __init__(self, root: Path, project: Project, file: Path | None = None) -> None:
        """Keep both, and what the project file is called in messages; nothing is created yet."""
        self.root = root
        self.project = project
        self.file = file or root / FILE_NAME

    @staticmethod
    def open(path: Path | None = None) -> Workspace:
        """Read and check the project file: the one given, or ./qaedge.toml.

        Raises MissingFile, or InvalidFile with file, key, expected and found.
        """
        file = path or Path(FILE_NAME)
        project = decode_toml(file, Project, hint="Write one with: qaedge init")
        _check(file, project)
        return Workspace(file.resolve().parent, project, file)

    def path(self, text: str) -> Path:
        """Resolve a path of the project file: `$NAME` and `~` expanded, relative to the file's folder."""
        expanded = os.path.expandvars(text)
        if "$" in expanded:
            raise QaedgeError(
                f"{self._named(text)} names an environment variable that is not set.",
                "Set it, or write the path out in the project file.",
            )
        try:
            return self.root / Path(expanded).expanduser()
        except RuntimeError as error:
            raise QaedgeError(
                f"{self._named(text)} names a home folder that is not known.",
                "Write the path out in the project file.",
            ) from error

    def _named(self, text: str) -> str:
        """Say where a path is written: file, key, and the path itself."""
        project = self.project
        keys = {
            "space": project.space,
            "results": project.results,
            "data.path": project.data.path,
            "teacher.weights": project.teacher.weights,
        }
        key = next((key for key, value in keys.items() if value == text), None)
        return f"{self.file}: {key}: the path {text!r}" if key else f"The path {text!r}"

    @property
    def space_file(self) -> Path:
        """The space, as its author wrote it."""
        return self.path(self.project.space)

    @property
    def weights_file(self) -> Path | None:
        """The teacher's weights; None where the project names none. Raises MissingFile where they are not there."""
        if not self.project.teacher.weights:
            return None
        path = self.path(self.project.teacher.weights)
        if not path.exists():
            named = path.relative_to(self.root) if path.is_relative_to(self.root) else path
            raise MissingFile(
                f"{named} is not there yet: run `qaedge teacher train`.",
                "Or name a file that is there, as teacher.weights in the project file.",
            )
        return path

    @property
    def is_trained(self) -> bool:
        """Whether the teacher's weights are named, and there."""
        named = self.project.teacher.weights
        return bool(named) and self.path(named).exists()

    @property
    def results(self) -> Path:
        """Everything that qaedge writes for this project."""
        return self.path(self.project.results)

    @property
    def space_json(self) -> Path:
        """The space resolved against the teacher."""
        return self.results / "space.json"

    @property
    def activations_json(self) -> Path:
        """What lies in memory inside the teacher's own blocks, beside the space; see `search.activations.own_key`."""
        return self.results / "space.activations.json"

    def loss_file(self, origin: str) -> Path:
        """The loss table of a teacher; `origin` is `SearchSpace.origin`."""
        return self.results / origin / "loss.jsonl"

    def weights_folder(self, origin: str) -> Path:
        """Distilled weights, a safetensors file for each (block, candidate)."""
        return self.results / origin / "weights"

    def latency_file(self, device: str) -> Path:
        """The latency table of a device."""
        return self.results / device / "latency.jsonl"

    def size_file(self, device: str) -> Path:
        """Sizes of files as a device wants them, of what was not measured there."""
        return self.results / device / "sizes.jsonl"

    @property
    def artifacts(self) -> Path:
        """Exported candidates, named by their content."""
        return self.results / "artifacts"

    @property
    def cache(self) -> Path:
        """The teacher's features; may be deleted at any time."""
        return self.results / "cache"


def _check(file: Path, project: Project) -> None:
    data, teacher = project.data, project.teacher
    for key, wanted in (
        ("space", "the path of the space file"),
        ("results", "the folder for everything that qaedge writes"),
        ("device", "the name of a device, as `qaedge devices` lists them"),
    ):
        names = getattr(project, key).split(",") if key == "device" else [getattr(project, key)]
        if not all(name.strip() for name in names):
            raise InvalidFile(file, key, wanted, repr(getattr(project, key)))
    if data.layout not in LAYOUTS:
        raise InvalidFile(file, "data.layout", f"one of {', '.join(LAYOUTS)}", repr(data.layout))
    if data.layout != "scenes" and not data.path:
        raise InvalidFile(file, "data.path", f"the folder of the {data.layout} images", "nothing")
    for key in ("height", "width", "count"):
        if getattr(data, key) < 1:
            raise InvalidFile(file, f"data.{key}", "a number from 1", str(getattr(data, key)))
    if not all(math.isfinite(value) and value > 0 for value in data.std):
        raise InvalidFile(file, "data.std", "numbers above 0", str(list(data.std)))
    if not all(map(math.isfinite, data.mean)):
        raise InvalidFile(file, "data.mean", "numbers", str(list(data.mean)))
    if ":" not in teacher.function:
        raise InvalidFile(file, "teacher.function", "module:function", repr(teacher.function))
    if not teacher.blocks:
        raise InvalidFile(file, "teacher.blocks", "at least one block", "none")
    for section, least, keys in (
        ("distill", 1, ("steps", "batch", "calibration_images")),
        ("distill", 0, ("workers", "seed")),
        ("quantize", 1, ("images", "reconstruct_steps", "reconstruct_batch")),
        ("quantize", 0, ("seed",)),
        ("finetune", 1, ("batch",)),
        ("finetune", 0, ("epochs", "quantized_epochs", "guidance", "block_guidance", "seed")),
    ):
        for key in keys:
            value = getattr(getattr(project, section), key)
            if not (math.isfinite(value) and value >= least):
                raise InvalidFile(file, f"{section}.{key}", f"a number from {least}", str(value))
    for section, key in (
        ("distill", "learning_rate"),
        ("finetune", "learning_rate"),
        ("finetune", "quantized_learning_rate"),
    ):
        rate = getattr(getattr(project, section), key)
        if not (math.isfinite(rate) and rate > 0):
            raise InvalidFile(file, f"{section}.{key}", "a number above 0", str(rate))
    for key in ("few_bit", "int8"):
        steps = getattr(project.quantize, key)
        if [step for step in QUANTIZE_STEPS if step in steps] != list(steps):
            wanted = f"steps of {', '.join(QUANTIZE_STEPS)}, in that order, each once"
            raise InvalidFile(file, f"quantize.{key}", wanted, str(list(steps)))
    if min(project.finetune.crop) < 1:
        raise InvalidFile(file, "finetune.crop", "numbers from 1", str(list(project.finetune.crop)))
    low, high = project.finetune.scales
    if not (0 < low <= high and math.isfinite(high)):
        wanted = "two numbers above 0, the lesser one first"
        raise InvalidFile(file, "finetune.scales", wanted, str(list(project.finetune.scales)))
    for section, key, parse in (
        ("limits", "latency", parse_seconds),
        ("limits", "size", parse_bytes),
        ("distill", "cache", parse_bytes),
    ):
        text = getattr(getattr(project, section), key)
        share_allowed = section == "limits"
        if text:
            share = parse_percent(text) if share_allowed else None
            try:
                value = parse(text) if share is None else share
            except QaedgeError as error:
                raise InvalidFile(file, f"{section}.{key}", "a quantity with a unit", repr(text), error.hint) from error
            if not value > 0:
                raise InvalidFile(file, f"{section}.{key}", "more than 0", repr(text))
