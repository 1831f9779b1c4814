"""What whole networks lose, assembled and not fine-tuned: what sums of block losses are held against."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from qaedge.store import Store


class NetworkLossRow(msgspec.Struct, frozen=True):
    """A network as a quantized file, before any fine-tuning, on validation images.

    `key` is of `qaedge.network_key`; `divergence` is the mean over pixels of the Kullback-Leibler divergence of its
    classes from the teacher's in float [nat]; `images` is how many were taken.
    """

    key: str
    miou: float
    divergence: float
    images: int

    def __post_init__(self) -> None:
        """Refuse what no network can do; msgspec turns that into an error with the line."""
        if not (0 <= self.miou <= 1 and 0 <= self.divergence < math.inf and self.images > 0):
            raise ValueError(f"an mIoU of {self.miou} and a divergence of {self.divergence} on {self.images} images")


def network_losses(path: Path) -> Store[NetworkLossRow]:
    """Return the file form of such rows."""
    return Store(path, NetworkLossRow, "qaedge-network-loss")
