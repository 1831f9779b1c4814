"""Training of the teacher itself, on the labels of the user's data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import safetensors.torch

from qaedge.files import only_one, write_atomic
from qaedge.nn.data import Split
from qaedge.nn.finetune import checkpoint_path, finetune
from qaedge.nn.metrics import evaluate, miou_of
from qaedge.nn.teacher import Teacher
from qaedge.progress import Step
from qaedge.project import FinetuneConfig


class TrainedTeacher(msgspec.Struct, frozen=True):
    """A teacher's weights file and its validation mIoU before and after training."""

    path: str
    before: float
    after: float
    epochs: int


def train_teacher(teacher: Teacher, train: Split, val: Split, config: FinetuneConfig, output: Path) -> Iterator[Step]:
    """Train a teacher on its labels and write its weights; the last Step's result is a TrainedTeacher.

    An interrupted training goes on from its last epoch. The weights are written even where they
    are worse than before: it is for the user to choose. Beside the labels the teacher is guided by
    itself as it was before (`config.guidance`; 0 for none), which keeps it from forgetting.

    Args:
        teacher: its module is trained in place.
        train: images and labels to learn from.
        val: images and labels for the mIoU.
        config: epochs, batch, learning rate, crop, guidance.
        output: a safetensors file; beside it lies its lock.

    Raises:
        QaedgeError: another process trains a teacher to the same file.
    """
    with only_one(output.with_name(f"{output.name}.lock"), f"training {output.name}"):
        yield from _train(teacher, train, val, config, output)


def _train(teacher: Teacher, train: Split, val: Split, config: FinetuneConfig, output: Path) -> Iterator[Step]:
    train.check()
    val.check()
    before = yield from miou_of(evaluate(teacher.module, val), "mIoU before training")
    checkpoint = checkpoint_path(output.parent, config, teacher.digest.encode())
    yield from finetune(teacher.module, teacher.module, train, config, checkpoint)
    after = yield from miou_of(evaluate(teacher.module, val), "mIoU after training")
    write_atomic(output, safetensors.torch.save(dict(teacher.module.state_dict())))
    checkpoint.unlink(missing_ok=True)
    yield Step(1, 1, f"mIoU {after:.4f}", TrainedTeacher(str(output), before, after, config.epochs))
