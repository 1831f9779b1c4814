"""Splits of images and labels, from generated trees and on the real one."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from qaedge.errors import DataError
from qaedge.nn import data as data_module
from qaedge.nn.data import CITYSCAPES_CLASSES, Pixels, open_split, preprocess
from qaedge.nn.scenes import SCENE_CLASSES, scene
from qaedge.project import DataConfig

CONFIG = DataConfig("camvid", 8, 12, classes=("a", "b", "c"), void=(3,))


@pytest.fixture
def camvid(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Two training pairs, jpg and png."""
    for folder in ("train/images", "train/labels"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("one.jpg", "two.png"):
        image = Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8))
        image.save(tmp_path / "train/images" / name)
        label = np.tile(np.array([0, 1, 2, 3], np.uint8), (8, 3))
        Image.fromarray(label).save(tmp_path / "train/labels" / f"{name[:3]}.png")
    return tmp_path


def test_camvid_layout(camvid: Path) -> None:
    split = open_split(CONFIG, camvid, "train")
    split.check()
    assert split.names == ("one", "two") and len(split) == 2
    assert split.image(1).shape == (8, 12, 3)
    assert np.array_equal(split.image(1), np.asarray(Image.open(camvid / "train/images/two.png")))
    assert split.label(0)[0, :4].tolist() == [0, 1, 2, 255]
    images, labels = split.batch([1, 0])
    assert images.shape == (2, 3, 8, 12) and images.dtype == torch.float32
    assert labels.shape == (2, 8, 12) and labels.dtype == torch.uint8


def test_split_folders_can_be_named(camvid: Path) -> None:
    config = msgspec.structs.replace(CONFIG, val_split="train")
    assert open_split(config, camvid, "val").names == ("one", "two")


def test_images_are_resized_and_labels_keep_ids(camvid: Path) -> None:
    split = open_split(msgspec.structs.replace(CONFIG, height=16, width=24), camvid, "train")
    image = Image.open(camvid / "train/images/two.png").resize((24, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(split.image(1), np.asarray(image))
    assert split.label(1).shape == (16, 24)
    assert set(split.label(1).flat) == {0, 1, 2, 255}


def test_palette_labels_are_ids_not_colors(camvid: Path) -> None:
    path = camvid / "train/labels/one.png"
    label = Image.open(path).convert("P")
    label.putdata([1] * 96)
    label.putpalette([7, 7, 7, 200, 0, 0])
    label.save(path)
    assert (open_split(CONFIG, camvid, "train").label(0) == 1).all()


def broken_image(root: Path) -> None:
    path = root / "train/images/one.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)).save(path, quality=100)
    path.write_bytes(path.read_bytes()[:-60])


def no_image(root: Path) -> None:
    (root / "train/images/one.jpg").write_bytes(b"not an image")


def broken_label(root: Path) -> None:
    path = root / "train/labels/one.png"
    path.write_bytes(path.read_bytes()[:50])


def small_label(root: Path) -> None:
    Image.fromarray(np.zeros((4, 12), np.uint8)).save(root / "train/labels/one.png")


def color_label(root: Path) -> None:
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(root / "train/labels/one.png")


def unknown_id(root: Path) -> None:
    Image.fromarray(np.full((8, 12), 9, np.uint8)).save(root / "train/labels/one.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken_image, r"Cannot read the image .*one\.jpg: .*truncated"),
        (no_image, r"Cannot read the image .*one\.jpg"),
        (broken_label, r"Cannot read the image .*labels/one\.png"),
        (small_label, r"labels/one\.png has 12x4 pixels, its image 12x8"),
        (color_label, r"labels/one\.png holds RGB pixels"),
        (unknown_id, r"labels/one\.png holds id 9, which is no class.\nKnown: 0 a, 1 b, 2 c"),
    ],
)
def test_bad_files_are_named(camvid: Path, damage, message: str) -> None:
    damage(camvid)
    split = open_split(CONFIG, camvid, "train")
    with pytest.raises(DataError, match=message):
        split.check()
    with pytest.raises(DataError, match=message):
        split.batch([0])


def test_images_of_one_color_are_no_calibration_data(camvid: Path) -> None:
    Image.new("RGB", (12, 8)).save(camvid / "train/images/one.jpg")
    split = open_split(CONFIG, camvid, "train")
    split.check_varied([0, 1])  # a black image among others is none of our business
    with pytest.raises(DataError, match=r"one color, \(0, 0, 0\): all 1, such as .*one\.jpg"):
        split.check_varied([0])
    Image.new("RGB", (12, 8), (9, 9, 9)).save(camvid / "train/images/two.png")
    split.check_varied([0, 1])
    Image.new("RGB", (12, 8)).save(camvid / "train/images/two.png")
    with pytest.raises(DataError, match="all 2, such as") as caught:
        split.check_varied([0, 1])
    assert "data.path" in caught.value.hint


def test_an_image_without_label(camvid: Path) -> None:
    (camvid / "train/labels/two.png").unlink()
    with pytest.raises(DataError, match=r"two\.png has no label.\nWanted: .*labels/two\.png"):
        open_split(CONFIG, camvid, "train")


def test_missing_folders_and_images(camvid: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No folder .*val/images"):
        open_split(CONFIG, camvid, "val")
    with pytest.raises(DataError, match=r"data\.path"):
        open_split(CONFIG, None, "train")
    for path in (camvid / "train/images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="No images"):
        open_split(CONFIG, camvid, "train")


def test_camvid_needs_classes_and_void_that_fit(camvid: Path) -> None:
    with pytest.raises(DataError, match="found 0"):
        open_split(msgspec.structs.replace(CONFIG, classes=()), camvid, "train")
    with pytest.raises(DataError, match="void id 256"):
        open_split(msgspec.structs.replace(CONFIG, void=(256,)), camvid, "train")


def test_cityscapes_layout(tmp_path: Path) -> None:
    stem = "ulm_000001_000019"
    for folder in ("leftImg8bit/train/ulm", "gtFine/train/ulm"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(np.zeros((2, 34, 3), np.uint8)).save(tmp_path / f"leftImg8bit/train/ulm/{stem}_leftImg8bit.png")
    ids = np.tile(np.arange(34, dtype=np.uint8), (2, 1))
    label = tmp_path / f"gtFine/train/ulm/{stem}_gtFine_labelIds.png"
    Image.fromarray(ids).save(label)
    config = DataConfig("cityscapes", 2, 34, path="x")
    split = open_split(config, tmp_path, "train")
    assert split.names == (stem,) and len(split.classes) == 19
    row = split.label(0)[0]
    counted = {i: split.classes[c] for i, c in enumerate(row) if c != 255}
    assert counted == CITYSCAPES_CLASSES
    # Spot checks against the published table: road 7 -> 0, sky 23 -> 10, bicycle 33 -> 18.
    assert (row[7], row[23], row[33]) == (0, 10, 18)
    Image.fromarray(np.full((2, 34), 40, np.uint8)).save(label)
    with pytest.raises(DataError, match="holds id 40"):
        split.label(0)


def test_scenes_layout() -> None:
    config = DataConfig("scenes", 32, 48, count=8)
    train, val = open_split(config, None, "train"), open_split(config, None, "val")
    assert (len(train), len(val)) == (8, 2) and train.classes == SCENE_CLASSES
    assert np.array_equal(train.image(5), scene(5, 0, 32, 48)[0])
    assert np.array_equal(train.label(5), scene(5, 0, 32, 48)[1])
    assert not np.array_equal(train.image(0), val.image(0))
    assert np.array_equal(train.image(-1), train.image(7))
    with pytest.raises(DataError, match="has the classes"):
        open_split(msgspec.structs.replace(config, classes=("x",)), None, "train")


@pytest.mark.parametrize(("kept", "draws"), [(128 * 2**20, 8), (3 * 4 * 32 * 48, 21), (0, 25)])
def test_scenes_are_drawn_once_while_they_can_be_kept(kept: int, draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def draw(index: int, *where: int) -> tuple[Pixels, Pixels]:
        drawn.append(index)
        return scene(index, *where)

    monkeypatch.setattr(data_module, "KEPT_BYTES", kept)
    monkeypatch.setattr(data_module, "scene", draw)
    split = open_split(DataConfig("scenes", 32, 48, count=8), None, "train")
    for index in [*range(8), *range(8), 5, 5, -3, *range(7, -1, -1)]:
        assert np.array_equal(split.image(index), scene(index % 8, 0, 32, 48)[0])
        assert np.array_equal(split.label(index), scene(index % 8, 0, 32, 48)[1])
    assert len(drawn) == draws
    with pytest.raises(ValueError, match="read-only"):
        split.image(0)[0, 0] = 0


def test_preprocess_is_exact_for_the_half(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (2, 4, 5, 3), np.uint8)
    config = DataConfig("scenes", 32, 32)
    wanted = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert torch.equal(preprocess(images, config), wanted)


def test_preprocess_with_mean_and_std_per_channel(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (1, 4, 5, 3), np.uint8)
    config = DataConfig("scenes", 32, 32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    got = preprocess(images, config)
    wanted = (images / 255 - np.array(config.mean)) / np.array(config.std)
    np.testing.assert_allclose(got.permute(0, 2, 3, 1).numpy(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.data
def test_real_camvid(qaedge_data: Path) -> None:
    names = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bike")
    config = DataConfig("camvid", 360, 480, path="x", classes=names, void=(11,))
    splits = [open_split(config, qaedge_data / "camvid", split) for split in ("train", "val")]
    assert [len(split) for split in splits] == [367, 101]
    for split in splits:
        split.check()
    assert splits[1].image(0).shape == (360, 480, 3)
