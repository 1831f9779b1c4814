"""Mean intersection over union, from a confusion matrix; void pixels do not count."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from qaedge.errors import DataError
from qaedge.nn.data import VOID, Split
from qaedge.progress import Step


class Confusion:
    """Counts of pixels by (label, prediction).

    `matrix[i, j]` counts pixels of class i that were called j, [classes, classes].
    """

    def __init__(self, classes: int) -> None:
        """Start with no pixel counted."""
        self.classes = classes
        self.matrix: npt.NDArray[np.int64] = np.zeros((classes, classes), np.int64)

    def add(self, prediction: npt.ArrayLike | Tensor, label: npt.ArrayLike | Tensor) -> None:
        """Count a batch of class maps against its labels.

        Args:
            prediction: class ids, [batch, height, width] or any one shape of both.
            label: class ids, 255 being void.

        Raises:
            DataError: shapes that differ, or ids outside the classes.
        """
        called = np.asarray(prediction)
        true = np.asarray(label)
        if called.shape != true.shape:
            raise DataError(f"Predictions of shape {called.shape} do not fit labels of shape {true.shape}.")
        counted = true != VOID
        called, true = called[counted].astype(np.int64), true[counted].astype(np.int64)
        for what, ids in (("prediction", called), ("label", true)):
            if ids.size and not (ids.min() >= 0 and ids.max() < self.classes):
                raise DataError(
                    f"A {what} holds class id {ids.max() if ids.max() >= self.classes else ids.min()}.",
                    f"Known: 0 to {self.classes - 1}; void is {VOID}.",
                )
        counts = np.bincount(self.classes * true + called, minlength=self.classes**2)
        self.matrix += counts.reshape(self.classes, self.classes)

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """Intersection over union per class, [classes]; NaN for a class that occurs nowhere."""
        intersection = np.diag(self.matrix).astype(np.float64)
        union = self.matrix.sum(0) + self.matrix.sum(1) - np.diag(self.matrix)
        iou: npt.NDArray[np.float64] = np.divide(
            intersection, union, out=np.full(self.classes, np.nan), where=union > 0
        )
        return iou

    @property
    def miou(self) -> float:
        """The mean over classes that occur in labels or predictions; raise DataError where none does."""
        iou = self.iou
        if np.isnan(iou).all():
            raise DataError("No pixel was counted, so there is no mIoU.", "Are all labels void?")
        return float(np.nanmean(iou))


def class_map(output: Any, classes: int) -> npt.NDArray[np.int64]:
    """Return class ids [batch, height, width] of logits [batch, classes, height, width], or of such ids.

    Raises:
        DataError: logits for another number of classes, logits that are no numbers, or no such
            output at all.
    """
    values = output if isinstance(output, Tensor) else torch.as_tensor(np.asarray(output))
    if values.ndim == 4:
        if values.shape[1] != classes:
            raise DataError(
                f"The network puts out {values.shape[1]} classes, the data have {classes}.",
                "Give the teacher as many classes as data.classes names.",
            )
        # The largest of NaNs is some class, so they would be scored like any other.
        if values.is_floating_point() and (bad := int((~values.isfinite()).sum())):
            raise DataError(
                f"The network puts out NaN or infinite logits: {bad} of {values.numel()}.",
                "Its weights are damaged, training diverged (lower the learning rate), or a layer overflows.",
            )
        values = values.argmax(1)
    if values.ndim != 3 or values.is_floating_point():
        raise DataError(
            f"The network puts out {values.dtype} of shape {tuple(values.shape)}.",
            "Wanted: logits [batch, classes, height, width] or class ids [batch, height, width].",
        )
    ids: npt.NDArray[np.int64] = values.cpu().numpy().astype(np.int64)
    return ids


def evaluate(
    predict: Callable[[Float[Tensor, "batch 3 height width"]], Any], split: Split, batch: int = 4
) -> Iterator[Step]:
    """Run a network over a split; yield a Step per batch, the last with `result`, a Confusion.

    Args:
        predict: preprocessed images to logits [batch, classes, height, width] or class ids
            [batch, height, width]; called without gradient.
        split: images and labels.
        batch: images at a time.
    """
    confusion = Confusion(len(split.classes))
    total = len(split)
    for start in range(0, total, batch):
        indices = range(start, min(start + batch, total))
        images, labels = split.batch(indices)
        with torch.no_grad():
            output = predict(images)
        confusion.add(class_map(output, len(split.classes)), labels)
        last = indices.stop == total
        yield Step(indices.stop, total, split.names[indices.stop - 1], confusion if last else None)


def miou_of(steps: Iterable[Step], what: str) -> Generator[Step, None, float]:
    """Pass an evaluation's steps on under another name; return the mIoU that it ends with."""
    found = 0.0
    for step in steps:
        if isinstance(step.result, Confusion):
            found = step.result.miou
        yield Step(step.done, step.total, what)
    return found
