"""The teacher's features: what goes into each block and what comes out, computed once, kept on disk.

Half precision, memory-mapped, of bounded size. Where not all images fit the bound, fewer are
kept, evenly spread over the split, and the number is said.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from qaedge.errors import DiskFull, InvalidFile, QaedgeError, TeacherError
from qaedge.files import decode_json, disk_errors, only_one, write_json
from qaedge.nn.data import Split
from qaedge.nn.teacher import Teacher, record
from qaedge.progress import Step
from qaedge.project import DataConfig

BATCH = 4
#: Held while a cache's features are in use.
LOCK = "lock"
_VALUE_BYTES = 2


class _Index(msgspec.Struct, frozen=True):
    """What a finished cache holds: image numbers of the split, and where each tensor lies."""

    images: tuple[int, ...]
    inputs: dict[str, str]
    outputs: dict[str, str]
    shapes: dict[str, tuple[int, int, int]]


class Features:
    """Inputs and outputs of every block, for some images of the training split."""

    def __init__(self, folder: Path) -> None:
        """Open a finished cache; raise MissingFile where there is none, InvalidFile where a part is gone."""
        self.folder = folder
        self.index = decode_json(folder / "index.json", _Index)
        for name, shape in self.index.shapes.items():
            wanted, path = _VALUE_BYTES * len(self) * int(np.prod(shape)), folder / f"{name}.f16"
            found = path.stat().st_size if path.exists() else 0
            if found != wanted:
                raise InvalidFile(path, "", f"{wanted} bytes", str(found), f"Delete {folder}; it is computed anew.")

    def __len__(self) -> int:
        """How many images."""
        return len(self.index.images)

    def inputs(self, block: str) -> np.memmap[Any, Any]:
        """What goes into a block: float16 [images, channels, height, width]."""
        return self._open(self.index.inputs[block])

    def outputs(self, block: str) -> np.memmap[Any, Any]:
        """What comes out of a block: float16 [images, channels, height, width]."""
        return self._open(self.index.outputs[block])

    def _open(self, name: str) -> np.memmap[Any, Any]:
        shape = (len(self), *self.index.shapes[name])
        return np.memmap(self.folder / f"{name}.f16", np.float16, "r", shape=shape)


def to_tensor(values: np.ndarray[Any, Any]) -> Tensor:
    """Return cached values as float32, in their own shape."""
    return torch.from_numpy(np.array(values)).float()  # torch widens faster than numpy does


def features_folder(cache: Path, teacher: Teacher, data: DataConfig, names: tuple[str, ...], bound_bytes: int) -> Path:
    """Where the features of a teacher on some images lie; a change of any of it is another folder.

    Images count by their names: replacing a file's content keeps the folder.
    """
    key = msgspec.json.encode((teacher.digest, data, names, bound_bytes))
    return cache / hashlib.sha256(key).hexdigest()[:12]


def drop_others(folder: Path) -> None:
    """Delete the other caches beside a cache that is about to be made, except those in use.

    Each is as large as `distill.cache` allows; where all were kept, nothing would bound the folder.
    """
    if (folder / "index.json").exists() or not folder.parent.is_dir():
        return
    for other in folder.parent.iterdir():
        if other != folder and other.is_dir() and re.fullmatch("[0-9a-f]{12}", other.name):
            with contextlib.suppress(QaedgeError), only_one(other / LOCK, "using features"):
                shutil.rmtree(other, ignore_errors=True)


def compute_features(folder: Path, teacher: Teacher, split: Split, bound_bytes: int) -> Iterator[Step]:
    """Fill a cache, unless it is there already; yield a Step per batch.

    Raises:
        QaedgeError: a bound below what a few images need.
        DiskFull: less free space than the cache needs.
        TeacherError: a value beyond what half precision holds, or a block that is given nothing but zeros or puts
            out the same numbers everywhere: no candidate could be trained on that.
        DataError: an image that cannot be read, or images that are all of one color.
    """
    if (folder / "index.json").exists():
        return
    shapes, inputs, outputs = _tensors(teacher)
    per_image = _VALUE_BYTES * sum(int(np.prod(shape)) for shape in shapes.values())
    needed = per_image * min(len(split), BATCH)
    if bound_bytes < needed:
        raise QaedgeError(
            f"distill.cache is {bound_bytes} bytes, and the features of {min(len(split), BATCH)} images, "
            f"the fewest that are of use, need {needed}.",
            f'Set it to more in the project file, such as cache = "{-(-needed // 2**20)}MiB".',
        )
    count = min(len(split), bound_bytes // per_image)
    chosen = tuple(int(i) for i in np.unique(np.linspace(0, len(split) - 1, count).astype(int)))
    split.check_varied(chosen)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if per_image * len(chosen) > free:
        raise DiskFull(
            f"The teacher's features need {per_image * len(chosen)} bytes in {folder}; {free} are free.",
            "Free some space, or set a smaller distill.cache in the project file.",
        )
    warning = ""
    if len(chosen) < len(split):
        warning = f"distill.cache holds the features of {len(chosen)} of {len(split)} images; those are used."
    ends: dict[str, tuple[Tensor, Tensor]] = {}
    with disk_errors(folder):
        files = {name: _reserved(folder / f"{name}.f16", (len(chosen), *shape)) for name, shape in shapes.items()}
        for start in range(0, len(chosen), BATCH):
            images = np.stack([split.image(i) for i in chosen[start : start + BATCH]])
            for name, (given, out) in record(teacher, split.preprocess(images), inputs).items():
                for tensor, value in ((inputs[name], given), (outputs[name], out)):
                    if not bool(value.half().isfinite().all()):
                        raise TeacherError(
                            f"What goes through the block {name!r} is not finite, or beyond half precision (65504).",
                            "Check the teacher's weights, and data.mean and data.std in the project file.",
                        )
                    kept = value.half().cpu()
                    files[tensor][start : start + len(images)] = kept.numpy()
                    low, high = kept.amin((0, 2, 3)), kept.amax((0, 2, 3))
                    if tensor in ends:
                        low, high = torch.minimum(low, ends[tensor][0]), torch.maximum(high, ends[tensor][1])
                    ends[tensor] = low, high
            yield Step(min(start + BATCH, len(chosen)), len(chosen), "teacher features", warning=warning)
            warning = ""
        for file in files.values():
            file.flush()
    _check_alive(inputs, outputs, ends, len(chosen))
    write_json(folder / "index.json", _Index(chosen, inputs, outputs, shapes))


def _check_alive(
    inputs: Mapping[str, str], outputs: Mapping[str, str], ends: Mapping[str, tuple[Tensor, Tensor]], images: int
) -> None:
    """Refuse dead blocks, the first one by its name: each of their candidates would fail, and not say why."""
    for block in outputs:
        low, high = ends[inputs[block]]
        if not bool(low.any() or high.any()):
            what = f"What goes into the block {block!r} is 0 everywhere in all {images} images"
        elif torch.equal(*ends[outputs[block]]):
            what = f"The block {block!r} puts out the same numbers everywhere in all {images} images"
        else:
            continue
        raise TeacherError(
            f"{what}: there is nothing that candidates could imitate.",
            "Check the teacher's weights (qaedge teacher check), the images, and data.mean and data.std in the "
            "project file.",
        )


def _reserved(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Map a file whose space is taken already: a disk that fills later would end the process without a word."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, _VALUE_BYTES * int(np.prod(shape)))
    return np.memmap(path, np.float16, "r+", shape=shape)


def _tensors(teacher: Teacher) -> tuple[dict[str, tuple[int, int, int]], dict[str, str], dict[str, str]]:
    """Name the tensors to keep; a block's input that is its neighbor's output is kept once.

    Two neighbors share a tensor where the recorded output of one is the recorded input of the
    other; a probe image tells.
    """
    images = torch.randn(1, *teacher.input_shape, generator=torch.Generator().manual_seed(0))
    probe = record(teacher, images, [b.name for b in teacher.blocks])
    shapes: dict[str, tuple[int, int, int]] = {}
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    before: tuple[str, Tensor] | None = None
    for number, block in enumerate(teacher.blocks):
        given, out = probe[block.name]
        shared = before is not None and before[1].shape == given.shape and torch.equal(before[1], given)
        inputs[block.name] = before[0] if shared and before is not None else f"in{number}"
        outputs[block.name] = f"out{number}"
        shapes[inputs[block.name]] = block.input_shape
        shapes[outputs[block.name]] = block.output_shape
        before = (outputs[block.name], out)
    return shapes, inputs, outputs
