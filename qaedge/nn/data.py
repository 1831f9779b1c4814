"""Images and labels of a split: CamVid layout, Cityscapes layout, generated street scenes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from qaedge.errors import DataError
from qaedge.nn.scenes import SCENE_CLASSES, scene
from qaedge.project import DataConfig

Pixels = npt.NDArray[np.uint8]
T = TypeVar("T")
SplitName = Literal["train", "val"]

#: The label of pixels that do not count, whatever the files call it.
VOID = 255
_UNKNOWN = -1
#: Drawn scenes that are kept in memory, at most: an epoch that draws them all again takes twice as long.
KEPT_BYTES = 128 * 2**20
# What Pillow raises on broken files, beyond OSError, differs by format.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)

#: Label id -> class, in the order of the official train ids (cityscapesscripts, helpers/labels.py).
CITYSCAPES_CLASSES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
_CITYSCAPES_IDS = 34


class Pair(msgspec.Struct, frozen=True):
    """An image and its label; both paths are None for a generated scene."""

    name: str
    image: Path | None = None
    label: Path | None = None


class Layout(msgspec.Struct, frozen=True):
    """What a layout finds: the pairs, the classes, and file id -> class id (-1: not known), 256 entries."""

    pairs: tuple[Pair, ...]
    classes: tuple[str, ...]
    ids: tuple[int, ...]


class Split:
    """Images and labels by index, decoded when asked for.

    Attributes:
        names: one per image.
        classes: their names; a label's id is the index, 255 is void.
    """

    def __init__(self, data: DataConfig, layout: Layout, seed: int) -> None:
        """Keep what a layout found; `seed` is that of generated scenes."""
        self.names = tuple(pair.name for pair in layout.pairs)
        self.classes = layout.classes
        self._data, self._pairs, self._seed = data, layout.pairs, seed
        self._ids = np.array(layout.ids, np.int16)
        self._scenes: dict[int, tuple[Pixels, Pixels]] = {}

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.names)

    def image(self, index: int) -> Pixels:
        """Return an image, RGB [height, width, 3], in the configured size; raise DataError."""
        path = self._pairs[index].image
        if path is None:
            return self._generated(index)[0]
        with _opened(path) as file:
            rgb = _decoded(path, lambda: file.convert("RGB"))
        size = (self._data.width, self._data.height)
        if rgb.size != size:
            rgb = rgb.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(rgb)

    def label(self, index: int) -> Pixels:
        """Return a label, class ids [height, width] with 255 for void, in the configured size; raise DataError."""
        pair = self._pairs[index]
        if pair.label is None or pair.image is None:
            return self._generated(index)[1]
        with _opened(pair.label) as file, _opened(pair.image) as image:
            if file.size != image.size:
                raise DataError(
                    f"The label {pair.label} has {file.size[0]}x{file.size[1]} pixels, "
                    f"its image {image.size[0]}x{image.size[1]}.",
                    "A label gives the class of every pixel of its image.",
                )
            if file.mode not in ("L", "P"):
                raise DataError(
                    f"The label {pair.label} holds {file.mode} pixels.",
                    "A label is an 8-bit file of class ids, one channel.",
                )
            _decoded(pair.label, file.load)
            size = (self._data.width, self._data.height)
            given = np.asarray(file if file.size == size else file.resize(size, Image.Resampling.NEAREST))
        mapped: npt.NDArray[np.int16] = self._ids[given]
        if (mapped == _UNKNOWN).any():
            known = ", ".join(f"{i} {name}" for i, name in self._known().items())
            raise DataError(
                f"The label {pair.label} holds id {given[mapped == _UNKNOWN].max()}, which is no class.",
                f"Known: {known}. Name the class in data.classes, or the id in data.void.",
            )
        label: Pixels = mapped.astype(np.uint8)
        return label

    def preprocess(
        self,
        images: UInt8[np.ndarray, "batch height width 3"],
    ) -> Float[Tensor, "batch 3 height width"]:
        """Return what the network sees: `(x / 255 - mean) / std` per channel."""
        return preprocess(images, self._data)

    def batch(
        self, indices: Sequence[int]
    ) -> tuple[Float[Tensor, "batch 3 height width"], UInt8[Tensor, "batch height width"]]:
        """Return preprocessed images and their labels; raise DataError."""
        pairs = [(self.image(i), self.label(i)) for i in indices]  # in turn: a scene is drawn once for both
        images = self.preprocess(np.stack([image for image, _ in pairs]))
        return images, torch.from_numpy(np.stack([label for _, label in pairs]))

    def check(self, labels: int = 4) -> None:
        """Look before long work: every file's header, and the whole of a few pairs; raise DataError.

        Args:
            labels: how many pairs, spread over the split, are decoded.
        """
        for pair in self._pairs:
            if pair.image is not None and pair.label is not None:
                with _opened(pair.image), _opened(pair.label):
                    pass
        for index in dict.fromkeys(np.linspace(0, len(self) - 1, min(labels, len(self))).astype(int).tolist()):
            self.image(index)
            self.label(index)

    def check_varied(self, indices: Sequence[int]) -> None:
        """Raise DataError where images, all of them, hold one color alone: no range can be read from such."""
        color: Pixels | None = None
        for index in indices:
            pixels = self.image(index)
            color = pixels[0, 0] if color is None else color
            if bool((pixels != color).any()):
                return
        if color is not None:
            first = self._pairs[indices[0]].image or self.names[indices[0]]
            raise DataError(
                f"The images that activation ranges are read from show nothing but one color, {tuple(color.tolist())}: "
                f"all {len(indices)}, such as {first}.",
                "Replace the files, or name another folder as data.path in the project file.",
            )

    def _known(self) -> dict[int, str]:
        """File id -> class, for messages."""
        return {i: self.classes[c] for i, c in enumerate(self._ids.tolist()) if c not in (_UNKNOWN, VOID)}

    def _generated(self, index: int) -> tuple[Pixels, Pixels]:
        """Return a scene, drawn once: as many are kept as KEPT_BYTES hold, and the last one anyhow."""
        index = range(len(self))[index]
        kept = self._scenes.get(index)
        if kept is None:
            kept = scene(index, self._seed, self._data.height, self._data.width)
            for pixels in kept:
                pixels.flags.writeable = False  # who asks again gets the same array
            if self._scenes and (len(self._scenes) + 1) * sum(pixels.nbytes for pixels in kept) > KEPT_BYTES:
                # The newest: in every order of indices, the others are found again.
                self._scenes.pop(next(reversed(self._scenes)), None)
            self._scenes[index] = kept
        return kept


def preprocess(
    images: UInt8[np.ndarray, "batch height width 3"],
    data: DataConfig,
) -> Float[Tensor, "batch 3 height width"]:
    """Return what a network sees: `(x / 255 - mean) / std` per RGB channel; for 0.5, `x / 127.5 - 1`."""
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (data.mean, data.std))
    if (mean == 0.5).all() and (std == 0.5).all():
        # The form in which such weights were trained; the other rounds differently in the last bit.
        return torch.from_numpy(pixels / np.float32(127.5) - np.float32(1))
    return torch.from_numpy((pixels / np.float32(255) - mean) / std)


def open_split(data: DataConfig, folder: Path | None, split: SplitName) -> Split:
    """Find the images and labels of a split; nothing is decoded yet.

    Args:
        data: layout, classes, size.
        folder: where the splits lie; None for generated scenes.
        split: which; `data.train_split` and `data.val_split` say how its folder is called.

    Raises:
        DataError: no folder, no images, an image without label, no classes.
    """
    layout = LAYOUTS[data.layout](data, folder, split)
    if not layout.pairs:
        raise DataError(
            f"No images in {folder} for the {split} split.", f"The layout {data.layout!r} wants them there."
        )
    return Split(data, layout, seed=0 if split == "train" else 1)


def _folder_of(data: DataConfig, split: SplitName) -> str:
    return data.train_split if split == "train" else data.val_split


def _existing(folder: Path | None, *parts: str) -> Path:
    if folder is None:
        raise DataError("No folder of images was given.", "Set data.path in the project file.")
    path = folder.joinpath(*parts)
    if not path.is_dir():
        raise DataError(f"No folder {path}.", "Check data.path and the names of the splits in the project file.")
    return path


def _paired(images: list[Path], name: Callable[[Path], str], label: Callable[[Path], Path]) -> tuple[Pair, ...]:
    for image in images:
        if not label(image).is_file():
            raise DataError(f"The image {image} has no label.", f"Wanted: {label(image)}.")
    return tuple(Pair(name(image), image, label(image)) for image in images)


def _camvid(data: DataConfig, folder: Path | None, split: SplitName) -> Layout:
    """`SPLIT/images/NAME.jpg` (or png) beside `SPLIT/labels/NAME.png`; ids are the classes' order."""
    images = _existing(folder, _folder_of(data, split), "images")
    labels = _existing(folder, _folder_of(data, split), "labels")
    if not 1 <= len(data.classes) < VOID:
        raise DataError(
            f"The layout 'camvid' needs 1 to {VOID - 1} classes, found {len(data.classes)}.",
            "Name them in data.classes, in the order of the label ids.",
        )
    files = sorted(path for path in images.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    ids = [i if i < len(data.classes) else _UNKNOWN for i in range(256)]
    for void in (*data.void, VOID):
        if not 0 <= void <= 255:
            raise DataError(f"The void id {void} fits no 8-bit label.", "Ids in data.void run from 0 to 255.")
        ids[void] = VOID
    return Layout(_paired(files, lambda p: p.stem, lambda p: labels / f"{p.stem}.png"), data.classes, tuple(ids))


def _cityscapes(data: DataConfig, folder: Path | None, split: SplitName) -> Layout:
    """`leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` with `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`."""
    images = _existing(folder, "leftImg8bit", _folder_of(data, split))
    labels = _existing(folder, "gtFine", _folder_of(data, split))
    names = tuple(CITYSCAPES_CLASSES.values())
    if data.classes not in ((), names):
        raise DataError(
            f"The layout 'cityscapes' has its own {len(names)} classes, found {len(data.classes)} others.",
            "Leave data.classes out.",
        )
    files = sorted(images.glob("*/*_leftImg8bit.png"))
    ids = [VOID if i < _CITYSCAPES_IDS else _UNKNOWN for i in range(256)]
    ids[VOID] = VOID
    for train_id, label_id in enumerate(CITYSCAPES_CLASSES):
        ids[label_id] = train_id

    def name(path: Path) -> str:
        return path.name.removesuffix("_leftImg8bit.png")

    pairs = _paired(files, name, lambda p: labels / p.parent.name / f"{name(p)}_gtFine_labelIds.png")
    return Layout(pairs, names, tuple(ids))


def _scenes(data: DataConfig, folder: Path | None, split: SplitName) -> Layout:
    """Scenes drawn when asked for; training and validation differ in their seed."""
    if data.classes not in ((), SCENE_CLASSES):
        raise DataError(f"The layout 'scenes' has the classes {', '.join(SCENE_CLASSES)}.", "Leave data.classes out.")
    count = data.count if split == "train" else max(1, data.count // 4)
    pairs = tuple(Pair(f"scene_{split}_{index:05d}") for index in range(count))
    return Layout(pairs, SCENE_CLASSES, (*range(len(SCENE_CLASSES)), *[_UNKNOWN] * (256 - len(SCENE_CLASSES))))


LAYOUTS: dict[str, Callable[[DataConfig, Path | None, SplitName], Layout]] = {
    "camvid": _camvid,
    "cityscapes": _cityscapes,
    "scenes": _scenes,
}


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except _BROKEN as error:
        raise _unreadable(path, error) from error


def _decoded(path: Path, decode: Callable[[], T]) -> T:
    try:
        return decode()
    except _BROKEN as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    why = "no such file" if isinstance(error, FileNotFoundError) else str(error).split("\n")[0]
    return DataError(f"Cannot read the image {path}: {why}.", "Replace the file, or take it out of the split.")
