"""Pictures of what networks see: validation images, their labels, and each network's classes in color."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qaedge.errors import DataError
from qaedge.nn.data import VOID, Pixels, Split
from qaedge.nn.metrics import Confusion, class_map
from qaedge.progress import Step

Color = tuple[int, int, int]
#: Of pixels that do not count.
VOID_COLOR: Color = (0, 0, 0)
#: Colors of Cityscapes (cityscapesscripts, helpers/labels.py), and what other data sets call such classes.
_KNOWN: dict[str, Color] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "pavement": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "sign": (220, 220, 0),
    "signsymbol": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "tree": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "pedestrian": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
    "bicyclist": (119, 11, 32),
}


class Seen(msgspec.Struct, frozen=True):
    """An image with what was made of it: pictures by what they show, and each network's mIoU on this image alone.

    The image itself is a JPEG, everything else a PNG. A network's mIoU is None where no pixel counts.
    """

    name: str
    pictures: dict[str, bytes]
    miou: dict[str, float | None]


def palette(classes: tuple[str, ...]) -> tuple[Color, ...]:
    """Return a color for each class: a known one by its name, else one of its own."""
    return tuple(_KNOWN.get(name.lower(), _hue(at, len(classes))) for at, name in enumerate(classes))


def pictures(split: Split, networks: Mapping[str, Callable[[Tensor], Any]], count: int) -> Iterator[Step]:
    """Run networks on images that are spread over a split; each Step's result is what was Seen.

    Args:
        split: images and labels.
        networks: what it is called -> preprocessed images to logits or class ids.
        count: how many images, at most.

    Raises:
        DataError: images that cannot be read, or networks whose classes are not those of the data.
    """
    chosen = dict.fromkeys(np.linspace(0, len(split) - 1, min(count, len(split)) + 2).astype(int)[1:-1].tolist())
    colors = palette(split.classes)
    for done, index in enumerate(chosen, 1):
        image, label = split.image(index), split.label(index)
        shown = {"image": _file(Image.fromarray(image), "JPEG"), "label": _colored(label, colors)}
        scores: dict[str, float | None] = {}
        for name, predict in networks.items():
            with torch.no_grad():
                called = class_map(predict(split.preprocess(image[None])), len(split.classes))
            confusion = Confusion(len(split.classes))
            confusion.add(called[0], label)
            try:
                scores[name] = confusion.miou
            except DataError:  # an image that is void all over
                scores[name] = None
            shown[name] = _colored(called[0].astype(np.uint8), colors)
        yield Step(done, len(chosen), split.names[index], Seen(split.names[index], shown, scores))


def _hue(at: int, count: int) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(at / count, 0.65, 0.55 + 0.4 * (at % 2))
    return round(255 * red), round(255 * green), round(255 * blue)


def _colored(ids: Pixels, colors: tuple[Color, ...]) -> bytes:
    """Return class ids [height, width] as a PNG with a palette."""
    table = [*colors, *[VOID_COLOR] * (256 - len(colors))]
    table[VOID] = VOID_COLOR
    picture = Image.fromarray(ids)
    picture.putpalette([channel for color in table for channel in color])
    return _file(picture, "PNG")


def _file(picture: Image.Image, kind: str) -> bytes:
    written = io.BytesIO()
    picture.save(written, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return written.getvalue()
