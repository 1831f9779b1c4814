"""Divergence: how far a network's classes are from the teacher's, on a few training images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from qaedge.errors import DataError
from qaedge.nn.data import Split
from qaedge.nn.teacher import Teacher

#: Every image.
ALL = slice(None)


class Divergence:
    """Images, and what the teacher says of them: its log-probabilities, [1, classes, height, width] of each."""

    def __init__(self, teacher: Teacher, train: Split, images: int) -> None:
        """Read training images, evenly spread, so many or all there are, and run the teacher.

        Raises:
            DataError: images that cannot be read.
        """
        chosen = np.unique(np.linspace(0, len(train) - 1, images).astype(int))
        self.names = [train.names[int(i)] for i in chosen]
        self._images = train.preprocess(np.stack([train.image(int(i)) for i in chosen]))
        with torch.no_grad():
            self._wanted = [_log_classes(teacher.module.eval(), image) for image in self._images]

    def of(self, network: nn.Module, named: str, only: slice = ALL) -> tuple[float, ...]:
        """Return the mean over pixels of KL(teacher, network) of each image [nat].

        Args:
            network: in eval mode.
            named: what it is, for the error.
            only: which images count.

        Raises:
            DataError: it puts out NaN or infinite logits.
        """
        found = []
        with torch.no_grad():
            for image, log_p in zip(self._images[only], self._wanted[only], strict=True):
                found.append(float((log_p.exp() * (log_p - _log_classes(network, image))).sum(1).mean()))
        if not np.isfinite(found).all():
            raise DataError(
                f"{named} puts out NaN or infinite logits.",
                "Its distilled weights are damaged: delete them and run: qaedge distill",
            )
        return tuple(max(0.0, each) for each in found)  # of two that are alike, rounding may leave less than none


def _log_classes(network: nn.Module, image: Tensor) -> Tensor:
    """Return the log-probability of each class at each pixel of an image [3, height, width]."""
    found: Tensor = network(image[None]).log_softmax(1)
    return found
