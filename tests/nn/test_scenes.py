"""Generated street scenes."""

import numpy as np
import pytest

from qaedge.errors import DataError
from qaedge.nn.scenes import SCENE_CLASSES, scene


def test_scene_is_the_same_each_time() -> None:
    first, second = scene(3, 7, 128, 192), scene(3, 7, 128, 192)
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])


@pytest.mark.parametrize("other", [(4, 7), (3, 8)])
def test_scenes_differ_by_index_and_seed(other: tuple[int, int]) -> None:
    image, label = scene(3, 7, 96, 128)
    image2, label2 = scene(*other, 96, 128)
    assert (image != image2).mean() > 0.9
    assert (label != label2).mean() > 0.05


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (128, 192), (200, 64)])
def test_scene_shapes_and_ids(size: tuple[int, int]) -> None:
    for index in range(10):
        image, label = scene(index, 0, *size)
        assert image.shape == (*size, 3) and label.shape == size
        assert image.dtype == label.dtype == np.uint8
        assert label.max() < len(SCENE_CLASSES)


def test_every_class_is_common_enough_to_learn() -> None:
    labels = np.stack([scene(index, 0, 128, 192)[1] for index in range(48)])
    shares = np.bincount(labels.ravel(), minlength=len(SCENE_CLASSES)) / labels.size
    assert shares.min() > 0.005
    assert shares.max() < 0.5, "a network that always says the most common class would look good"


def test_color_alone_does_not_tell_the_class() -> None:
    pairs = [scene(index, 0, 64, 96) for index in range(40)]
    means = {c: [image[label == c].mean(0) for image, label in pairs if (label == c).any()] for c in (1, 2, 3, 4)}
    for values in means.values():
        assert np.std(values, axis=0).min() > 8


def test_scene_refuses_a_tiny_size() -> None:
    with pytest.raises(DataError, match="16x64"):
        scene(0, 0, 16, 64)
