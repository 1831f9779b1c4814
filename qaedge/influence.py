"""Influence: how much harm a block's loss does to the network, told by replacing blocks of the teacher one at a time.

A block loss compares features, and features of one block matter more to the classes than those of another; nor do
two candidates of the same block loss do the same harm. So each is put in its block's place, in float, and the
divergence of the network's classes from the teacher's is taken. Quantization adds what the block's losses say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from qaedge.files import decode_json
from qaedge.interplay import AGAIN, POWER, Interplay, Singles, are_divergences, typical
from qaedge.space import SearchSpace
from qaedge.store import Store
from qaedge.tables import LossTable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[np.float64]


class InfluenceRow(msgspec.Struct, frozen=True):
    """One block of the teacher replaced by a candidate, in float, on training images.

    `loss` is the candidate's block loss in float, `divergences` are, by image, the mean over pixels of the
    Kullback-Leibler divergence of the network's classes from the teacher's [nat].
    """

    block: str
    spec: str
    loss: float
    divergences: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what no network can do; msgspec turns that into an error with the line."""
        if not (0 <= self.loss < math.inf and are_divergences(self.divergences)):
            raise ValueError(f"a block loss of {self.loss} and divergences of {self.divergences}")

    @property
    def divergence(self) -> float:
        """What it does to an image [nat]; see `typical`."""
        return typical(self.divergences)


class Influence(msgspec.Struct, frozen=True):
    """Of each block, the divergence [nat] of each candidate that took its place, and its block loss then, in float.

    `interplay` tells how they add up in networks; None: by their square roots.
    """

    blocks: dict[str, dict[str, tuple[float, float]]]
    interplay: Interplay | None = None

    @staticmethod
    def read(loss_file: Path, space: SearchSpace) -> Influence | None:
        """Return what lies beside a loss table; None where a block with a choice has no row. Raises InvalidFile."""
        path = interplay_file(loss_file)
        interplay = decode_json(path, Interplay, hint=AGAIN) if path.exists() else None
        return Influence.of(influence_rows(loss_file).rows(), space, interplay)

    @staticmethod
    def of(rows: Iterable[InfluenceRow], space: SearchSpace, interplay: Interplay | None = None) -> Influence | None:
        """Index the rows, the last of a candidate counts; None where a block with a choice has none.

        An interplay that ranks networks no better than the sum of roots is not used.
        """
        found: dict[str, dict[str, tuple[float, float]]] = {}
        for row in rows:
            found.setdefault(row.block, {})[row.spec] = (row.loss, row.divergence)
        for block in space.blocks:
            if block.name not in found and not all(candidate.spec.is_own for candidate in block.candidates):
                return None
        return Influence(found, interplay if interplay is not None and interplay.is_better else None)

    def divergences(self, block: str, specs: Sequence[str], float_losses: Array, losses: Array) -> Array:
        """Return what candidates of a block, alone in the teacher, let its classes diverge [nat, n].

        Args:
            block: its name.
            specs: of the candidates [n]; the teacher's own and others without a row are on the block's curve.
            float_losses: their block losses in float [n].
            losses: their block losses as they will be deployed [n].
        """
        import numpy as np

        rows = self.blocks.get(block, {})
        x, y = _curve(list(rows.values()))
        found: Array = np.interp(losses, x, y)
        for at, spec in enumerate(specs):
            if spec in rows and np.isclose(rows[spec][0], float_losses[at], rtol=1e-6):
                added = found[at] - np.interp(float_losses[at], x, y)
                found[at] = max(0.0, rows[spec][1] + added)
        return found

    def scores(self, block: str, specs: Sequence[str], float_losses: Array, losses: Array) -> Array:
        """Return what a search sums over the blocks; see `divergences`."""
        found = self.divergences(block, specs, float_losses, losses)
        if self.interplay is not None:
            return self.interplay.scores(block, specs, found)
        scores: Array = found**POWER
        return scores


def singles(rows: Iterable[InfluenceRow], space: SearchSpace, losses: LossTable) -> Singles | None:
    """Return what candidates of the space do alone in the teacher, in float, as they are now.

    A row of a candidate that was trained anew since is left out; the teacher's own block does nothing. None where a
    block with a choice has no row.
    """
    wanted = {
        (block.name, str(c.spec)): losses.row(block.name, c).float_loss
        for block in space.blocks
        for c in block.candidates
        if not c.spec.is_own and losses.has(block.name, c)
    }
    found = {block.name: {str(c.spec): (0.0, 0.0) for c in block.candidates if c.spec.is_own} for block in space.blocks}
    measured = set()
    for row in rows:
        if wanted.get((row.block, row.spec)) == row.loss:
            found[row.block][row.spec] = (row.loss, row.divergence)
            measured.add(row.block)
    choices = {block.name for block in space.blocks if not all(c.spec.is_own for c in block.candidates)}
    return found if choices <= measured and all(found.values()) else None


def _curve(points: list[tuple[float, float]]) -> tuple[Array, Array]:
    """Return block losses and divergences that rise together, from nothing to beyond the worst: isotonic regression."""
    import numpy as np
    from scipy.optimize import isotonic_regression

    if not points:  # no choice: the teacher's own block, quantized
        return np.array([0.0, 1.0]), np.array([0.0, 1.0])
    x, y = (np.array(column) for column in zip(*sorted(points), strict=True))
    rising = isotonic_regression(y).x
    slope = rising[-1] / x[-1] if x[-1] > 0 else 1.0
    beyond = max(10 * x[-1], 10.0)
    return np.array([0.0, *x, beyond]), np.array([0.0, *rising, rising[-1] + slope * (beyond - x[-1])])


def interplay_file(loss_file: Path) -> Path:
    """Return where the fit to drawn networks lies; like the rows that it is of, it is by image."""
    return loss_file.with_name("interplay_by_image.json")


def influence_rows(loss_file: Path) -> Store[InfluenceRow]:
    """Return the file form of such rows; they lie beside the loss table."""
    return Store(loss_file.with_name("influence_by_image.jsonl"), InfluenceRow, "qaedge-influence-by-image", hint=AGAIN)
