"""Pictures of images, labels and networks, and what each network is worth on one image."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from qaedge.nn.data import open_split
from qaedge.nn.pictures import palette, pictures
from qaedge.nn.scenes import SCENE_CLASSES
from qaedge.project import DataConfig


def test_networks_are_drawn_in_the_colors_of_their_classes():
    split = open_split(DataConfig("scenes", 32, 48, count=40), None, "val")
    labels = iter([split.label(i) for i in (2, 4, 6)])

    def perfect(images):
        assert images.shape == (1, 3, 32, 48)
        return next(labels)[None].astype(np.int64)

    def sky(images):
        return np.zeros((1, 32, 48), np.int64)

    seen = [step.result for step in pictures(split, {"perfect": perfect, "sky": sky}, 3)]
    assert [each.name for each in seen] == [split.names[i] for i in (2, 4, 6)]
    first = seen[0]
    assert list(first.pictures) == ["image", "label", "perfect", "sky"]
    assert first.pictures["image"].startswith(b"\xff\xd8") and first.pictures["sky"].startswith(b"\x89PNG")
    assert first.pictures["perfect"] == first.pictures["label"]
    assert first.miou["perfect"] == 1 > first.miou["sky"]
    drawn = np.asarray(Image.open(io.BytesIO(first.pictures["label"])).convert("RGB"))
    colors = np.array(palette(SCENE_CLASSES), np.uint8)
    assert (drawn == colors[split.label(2)]).all()


@pytest.mark.parametrize("classes", [SCENE_CLASSES, ("a", "b", "c", "d", "e"), ("Sky", "sky2", "Road")])
def test_each_class_has_a_color_of_its_own(classes):
    assert len(set(palette(classes))) == len(classes)
