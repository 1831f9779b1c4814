"""Fine-tuning: what it learns, that it resumes exactly, and what it says when it cannot go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch
from tiny_scenes import write_project
from torch import nn
from torch.nn import functional as F

from qaedge.errors import DataError, DiskFull, InvalidFile, QaedgeError, TeacherError
from qaedge.files import only_one
from qaedge.nn import finetune as module_under_test
from qaedge.nn.data import VOID, Split, open_split
from qaedge.nn.finetune import _batch, _loss, _rate, checkpoint_path, finetune
from qaedge.nn.teacher import load_teacher
from qaedge.nn.training import TrainedTeacher, train_teacher
from qaedge.progress import Step
from qaedge.project import DataConfig, FinetuneConfig

CONFIG = FinetuneConfig(epochs=3, batch=4, learning_rate=2e-3, crop=(16, 24), guidance=1.0)
DATA = DataConfig("scenes", 32, 48, count=8)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1)
    )  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def split() -> Split:
    return open_split(DATA, None, "train")


def same(one: nn.Module, two: nn.Module) -> bool:
    other = two.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.state_dict().items())


def until(steps: Iterator[Step], count: int) -> None:
    """Take some steps, then stop as a killed process would."""
    for _ in range(count):
        next(steps)
    steps.close()


def test_the_loss_falls_and_the_network_ends_in_evaluation(tmp_path, split):
    student = network()
    config = msgspec.structs.replace(CONFIG, epochs=20, learning_rate=1e-2)
    losses = [float(s.what.split()[-1]) for s in finetune(student, None, split, config, tmp_path / "c.pt")]
    assert len(losses) == 20 * 2 and np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    assert not any(m.training for m in student.modules())
    assert all(p.is_contiguous() for p in student.parameters())


@pytest.mark.parametrize("taken", [1, 2, 3, 5, 6])
def test_a_resumed_training_gives_the_same_weights(tmp_path, split, taken):
    teacher = network(9).eval()
    whole = network()
    list(finetune(whole, teacher, split, CONFIG, tmp_path / "whole.pt"))

    checkpoint = tmp_path / "torn.pt"
    until(finetune(network(), teacher, split, CONFIG, checkpoint), taken)
    resumed = network()
    steps = list(finetune(resumed, teacher, split, CONFIG, checkpoint))
    assert len(steps) == 6 - 2 * ((taken - 1) // 2)
    assert same(resumed, whole) and not same(resumed, network())


def test_a_finished_training_is_not_repeated(tmp_path, split):
    student, again = network(), network()
    list(finetune(student, None, split, CONFIG, tmp_path / "c.pt"))
    assert list(finetune(again, None, split, CONFIG, tmp_path / "c.pt")) == []
    assert same(student, again) and not again.training


def test_the_teacher_is_not_changed_and_guides(tmp_path, split):
    teacher = network(9).eval()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    alone, guided = network(), network()
    list(finetune(alone, teacher, split, msgspec.structs.replace(CONFIG, guidance=0.0), tmp_path / "a.pt"))
    list(finetune(guided, teacher, split, CONFIG, tmp_path / "b.pt"))
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert not same(alone, guided)


@pytest.mark.parametrize("freeze", [True, False])
def test_batch_norm_statistics_stay_where_they_are_frozen(tmp_path, split, freeze):
    student = network()
    before = student[1].running_mean.clone()
    config = msgspec.structs.replace(CONFIG, freeze_batch_norm=freeze)
    list(finetune(student, None, split, config, tmp_path / "c.pt"))
    assert torch.equal(student[1].running_mean, before) == freeze
    assert not torch.equal(student[1].weight, network()[1].weight), "gain and shift learn in any case"


def test_the_loss_by_its_definition():
    student, guide = network().eval(), network(9).eval()
    images, labels = torch.randn(2, 3, 6, 7), torch.randint(0, 8, (2, 6, 7)).to(torch.uint8)
    labels[0, :3] = VOID
    counted = labels != VOID
    ours, theirs = student(images).log_softmax(1), guide(images).log_softmax(1)
    entropy = F.nll_loss(ours, labels.long(), ignore_index=VOID)
    apart = (theirs.exp() * (theirs - ours)).sum(1)[counted].mean()
    torch.testing.assert_close(_loss(student, guide, images, labels, 0.5), entropy + 0.5 * apart)
    torch.testing.assert_close(
        _loss(guide, guide, images, labels, 1.0), F.nll_loss(theirs, labels.long(), ignore_index=VOID)
    )


def test_crops_keep_image_and_label_together(split):
    config = msgspec.structs.replace(CONFIG, crop=(16, 20))
    images, labels = _batch(split, np.arange(4), config, np.random.default_rng(0))
    assert images.shape == (4, 3, 16, 20) and labels.shape == (4, 16, 20)
    again = _batch(split, np.arange(4), config, np.random.default_rng(0))
    assert torch.equal(images, again[0]) and torch.equal(labels, again[1])
    whole, wanted = split.image(0), split.label(0)
    pixels = ((images[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
    found = [
        (top, left, mirrored)
        for mirrored in (False, True)
        for top in range(17)
        for left in range(29)
        if np.array_equal(pixels[:, ::-1] if mirrored else pixels, whole[top : top + 16, left : left + 20])
    ]
    (top, left, mirrored), *_ = found
    crop = wanted[top : top + 16, left : left + 20]
    assert np.array_equal(labels[0].numpy(), crop[:, ::-1] if mirrored else crop)


def test_a_crop_larger_than_the_images_is_the_image(split):
    images, _ = _batch(split, np.arange(2), msgspec.structs.replace(CONFIG, crop=(500, 20)), np.random.default_rng(0))
    assert images.shape == (2, 3, 32, 20)


def test_the_rate_warms_up_and_falls():
    rates = [_rate(1.0, step, 100) for step in range(100)]
    assert rates[4] == 1.0 and rates[:5] == sorted(rates[:5]) and rates[5:] == sorted(rates[5:], reverse=True)
    assert all(0 < rate <= 1 for rate in rates) and _rate(1.0, 0, 1) == 1.0


# What goes wrong


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"not a checkpoint at all",
        lambda data: data[:200] + bytes(200) + data[400:],
    ],
    ids=["half", "empty", "other", "overwritten"],
)
def test_a_damaged_checkpoint_is_named(tmp_path, split, damage):
    path = tmp_path / "c.pt"
    until(finetune(network(), None, split, CONFIG, path), 3)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InvalidFile, match=str(path)) as caught:
        list(finetune(network(), None, split, CONFIG, path))
    assert "Delete it" in caught.value.hint


def test_a_checkpoint_of_another_network_is_named(tmp_path, split):
    path = tmp_path / "c.pt"
    until(finetune(network(), None, split, CONFIG, path), 3)
    with pytest.raises(InvalidFile, match="a checkpoint of this network"):
        list(finetune(nn.Conv2d(3, 8, 1), None, split, CONFIG, path))
    torch.save([1, 2], path)
    with pytest.raises(InvalidFile, match="a checkpoint of this network"):
        list(finetune(network(), None, split, CONFIG, path))


def test_other_settings_and_other_weights_have_another_checkpoint(tmp_path):
    other = msgspec.structs.replace(CONFIG, epochs=4)
    paths = {checkpoint_path(tmp_path, c, w) for c in (CONFIG, other) for w in (b"weights", b"others")}
    assert len(paths) == 4 and checkpoint_path(tmp_path, CONFIG, b"weights") in paths


def test_divergence_is_an_error(tmp_path, split):
    wild = msgspec.structs.replace(CONFIG, learning_rate=1e30, epochs=20)
    with pytest.raises(TeacherError, match="diverged in epoch") as caught:
        list(finetune(network(), None, split, wild, tmp_path / "c.pt"))
    assert "finetune.learning_rate" in caught.value.hint


def test_a_batch_that_batch_norm_cannot_take_is_an_error(tmp_path, split):
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Upsample((16, 24)), nn.Conv2d(3, 8, 1))
    single = msgspec.structs.replace(CONFIG, batch=1, freeze_batch_norm=False)
    with pytest.raises(TeacherError, match="A batch of 1 crops") as caught:
        list(finetune(pooled, None, split, single, tmp_path / "c.pt"))
    assert "finetune.batch" in caught.value.hint


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, split, monkeypatch):
    path, student = tmp_path / "c.pt", network()
    steps = finetune(student, None, split, CONFIG, path)
    for _ in range(3):
        next(steps)
    before = path.read_bytes()

    def full(where: Path, data: bytes) -> None:
        raise DiskFull(f"No space left while writing {where}.")

    monkeypatch.setattr(module_under_test, "write_atomic", full)
    with pytest.raises(DiskFull):
        list(steps)
    assert path.read_bytes() == before


def test_an_unreadable_image_ends_it_with_its_name(tmp_path):
    from PIL import Image

    for name in ("images", "labels"):
        (tmp_path / "train" / name).mkdir(parents=True)
    for number in range(8):
        Image.new("RGB", (24, 16)).save(tmp_path / f"train/images/{number}.png")
        Image.new("L", (24, 16)).save(tmp_path / f"train/labels/{number}.png")
    (tmp_path / "train/images/5.png").write_bytes(b"no image")
    data = DataConfig("camvid", 16, 24, classes=("one", "two"))
    with pytest.raises(DataError, match=r"5\.png"):
        list(finetune(network(), None, open_split(data, tmp_path, "train"), CONFIG, tmp_path / "c.pt"))


# The teacher itself


def test_a_teacher_is_trained_and_an_interrupted_one_goes_on(tmp_path, split):
    workspace = write_project(tmp_path)
    val = open_split(DATA, None, "val")
    output = tmp_path / "out.safetensors"
    until(train_teacher(load_teacher(workspace), split, val, CONFIG, output), 6)
    assert not output.exists() and len(list(tmp_path.glob("finetune-*.pt"))) == 1
    steps = list(train_teacher(load_teacher(workspace), split, val, CONFIG, output))
    found = steps[-1].result
    assert isinstance(found, TrainedTeacher) and 0 <= found.after <= 1 and found.epochs == 3
    assert not list(tmp_path.glob("finetune-*.pt"))
    again = load_teacher(workspace).module
    again.load_state_dict(safetensors.torch.load_file(output))


def test_a_teacher_is_trained_by_one_at_a_time(tmp_path):
    workspace = write_project(tmp_path)
    output = tmp_path / "new.safetensors"
    split = open_split(workspace.project.data, None, "train")
    with (
        only_one(tmp_path / "new.safetensors.lock", "training"),
        pytest.raises(QaedgeError, match=r"Another process \(process \d+\) is training new\.safetensors"),
    ):
        next(iter(train_teacher(load_teacher(workspace), split, split, CONFIG, output)))
    assert not output.exists()


def test_half_precision_is_kept_for_processors_that_know_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = open_split(DATA, None, "train")
    config = msgspec.structs.replace(CONFIG, bfloat16=True, epochs=1)
    used: list[bool] = []
    own = torch.autocast

    def autocast(device: str, kind: torch.dtype, enabled: bool) -> torch.autocast:
        used.append(enabled)
        return own(device, kind, enabled=enabled)

    monkeypatch.setattr(torch, "autocast", autocast)
    for knows in (False, True):
        monkeypatch.setattr(module_under_test, "knows_bfloat16", lambda device, knows=knows: knows)
        used.clear()
        steps = list(finetune(network(), None, split, config, tmp_path / f"{knows}.pt"))
        warnings = [step.warning for step in steps if step.warning]
        assert set(used) == {knows}
        assert len(warnings) == (0 if knows else 1)
        assert knows or "does not know bfloat16" in warnings[0]
