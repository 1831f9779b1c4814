"""Interplay: how the harm of single blocks adds up in a network, told by networks of candidates drawn at random.

A candidate that stands alone in the teacher is given the teacher's features. In a network it is given what other
candidates made of them, and what it puts out goes through others. How strongly each block's harm counts then, and how
it rises, is fitted to networks whose divergence was taken, and so is, more cautiously, how much a candidate does
beyond its block's others.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from qaedge.ranking import kendall_tau
from qaedge.store import Store

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[np.float64]
    Places: TypeAlias = npt.NDArray[np.intp]

#: Block -> candidate -> its block loss in float, and what it lets the classes diverge alone in the teacher [nat].
Singles: TypeAlias = Mapping[str, Mapping[str, tuple[float, float]]]

#: The power of single divergences where no networks tell another: of several blocks, a bad one hides the others.
POWER = 0.5
#: So few networks tell nothing of the blocks.
LEAST = 24
#: Parts that networks are split into, to judge a fit by those that it has not seen.
FOLDS = 6
#: What of a network's divergence no sum over blocks tells (of its logarithm).
NOISE = 0.25
#: How far from a sum of roots is believed: logarithms of a block's weight, and of a candidate's factor beside it; a
#: block's power; and the power of the sum, which divergences go with.
WEIGHT, FACTOR, BEND, LINK = 0.5, 0.1, 0.15, 0.8
#: What divergences of networks go with, to begin with: of several bad blocks the worst counts for most, so it is less
#: than the square that would undo the roots.
SUM_POWER = 1.6
#: Divergences rise no further where a network knows nothing: by this the sum, raised to its power, is weighed against 1
#: (in logarithms), to begin with, and how far from that is believed.
SATURATION, SATURATES = -1.0, 2.0
#: More harm never counts for less.
LEAST_POWER = 0.1
#: What to do where a file of what `distill` measured last is damaged.
AGAIN = "Delete it and run: qaedge distill"
#: Divergences below this are not told from none [nat].
_FLOOR = 1e-6


def typical(divergences: Sequence[float]) -> float:
    """Return the geometric mean of what a network does to each image [nat]; 0 where it does nothing that can be told.

    Divergences of two networks have much the same ratio on every image, but on dark or crowded ones both are several
    times as great: a plain mean is of these few images, and ranks networks on others worse (decision 0029).
    """
    if max(divergences) <= _FLOOR:
        return 0.0
    return statistics.geometric_mean([max(each, _FLOOR) for each in divergences])


def are_divergences(values: Sequence[float]) -> bool:
    """Whether these can be divergences [nat] of a network on one image or more."""
    return bool(values) and all(0 <= value < math.inf for value in values)


class InterplayRow(msgspec.Struct, frozen=True):
    """A network of candidates drawn for all blocks, in float, on a few training images.

    `specs` and `losses` are by block: the candidate, and its block loss in float. `group` tells which images were
    taken, `divergences` what it did to each [nat]; they compare within one group.
    """

    specs: dict[str, str]
    losses: dict[str, float]
    group: str
    divergences: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what no network can do; msgspec turns that into an error with the line."""
        if not are_divergences(self.divergences) or self.specs.keys() != self.losses.keys():
            raise ValueError(f"divergences of {self.divergences}, losses of {', '.join(self.losses)}")

    @property
    def divergence(self) -> float:
        """What it does to an image [nat]; see `typical`."""
        return typical(self.divergences)

    def is_of(self, singles: Singles) -> bool:
        """Whether it is a network of these blocks, and of candidates as they are now."""
        return self.specs.keys() == singles.keys() and all(
            spec in singles[block] and singles[block][spec][0] == self.losses[block]
            for block, spec in self.specs.items()
        )


class Interplay(msgspec.Struct, frozen=True):
    """A fit to drawn networks: a candidate of divergence d counts as `factors[block][spec] * d ** powers[block]`.

    `weights` are for candidates that were not drawn. `tau` is Kendall's, of such sums with the divergences of drawn
    networks that a fit had not seen, and `plain_tau` that of sums of square roots: what is not better is not used.
    """

    networks: int
    tau: float
    plain_tau: float
    powers: dict[str, float]
    weights: dict[str, float]
    factors: dict[str, dict[str, float]]

    def __post_init__(self) -> None:
        """Refuse what would make more harm count for less; msgspec turns that into an error with the file."""
        for name, values in (("powers", self.powers), ("weights", self.weights), *self.factors.items()):
            if not all(0 < value < math.inf for value in values.values()):
                raise ValueError(f"{name} that are not positive")

    @property
    def is_better(self) -> bool:
        """Whether it ranks networks better than the sum of roots does."""
        return self.tau > self.plain_tau

    def scores(self, block: str, specs: Sequence[str], divergences: Array) -> Array:
        """Return what candidates of a block add to a sum [n], of their divergences alone in the teacher [nat, n]."""
        import numpy as np

        weight, known = self.weights.get(block, 1.0), self.factors.get(block, {})
        factors = np.array([known.get(spec, weight) for spec in specs])
        scores: Array = factors * divergences ** self.powers.get(block, POWER)
        return scores


def fit_interplay(rows: Iterable[InterplayRow], singles: Singles) -> Interplay | None:
    """Fit weights, powers and factors to drawn networks; None of fewer than LEAST.

    Args:
        rows: the networks; of one that is there twice, the last row counts, and one of other blocks, or of candidates
            that are not as they are now, does not.
        singles: what candidates do alone; the teacher's own block is there with nothing.
    """
    import numpy as np

    last = {tuple(row.specs[block] for block in singles): row for row in rows if row.is_of(singles)}
    used = [row for row in last.values() if row.divergence > 0]
    if len(used) < LEAST:
        return None
    data = _Drawn(used, singles)
    order = np.arange(len(used)) % FOLDS
    left_out = np.zeros(len(used))
    for fold in range(FOLDS):
        told, asked = np.flatnonzero(order != fold), np.flatnonzero(order == fold)
        left_out[asked] = data.predicted(data.fit(told))[asked]
    plain = data.predicted(data.start())
    solved = data.fit(np.arange(len(used)))
    weights, powers, factors = data.parts(solved)
    return Interplay(
        len(used),
        data.tau(left_out),
        data.tau(plain),
        {name: float(powers[at]) for at, name in enumerate(data.blocks)},
        {name: float(np.exp(weights[at])) for at, name in enumerate(data.blocks)},
        {
            name: {spec: float(np.exp(weights[at] + factors[data.first[at] + n])) for n, spec in enumerate(specs)}
            for at, (name, specs) in enumerate(data.specs.items())
        },
    )


class _Drawn:
    """Networks as arrays; the parameters are one vector.

    Weights, powers, factors, the sum's power, the saturation, groups' levels. With the sum S of a network's terms and
    its power p, the divergence is `level * S^p / (1 + e^saturation * S^p)`: it rises with S whatever they are.
    """

    def __init__(self, rows: Sequence[InterplayRow], singles: Singles) -> None:
        import numpy as np

        self.blocks = list(singles)
        self.specs = {name: sorted({row.specs[name] for row in rows}) for name in self.blocks}
        self.first = np.cumsum([0, *(len(specs) for specs in self.specs.values())])
        self._column = np.array(
            [
                [self.first[at] + self.specs[name].index(row.specs[name]) for at, name in enumerate(self.blocks)]
                for row in rows
            ]
        )
        self._log = np.log(
            np.maximum([[singles[name][row.specs[name]][1] for name in self.blocks] for row in rows], _FLOOR)
        )
        self._wanted = np.log([row.divergence for row in rows])
        groups = sorted({row.group for row in rows})
        self._group = np.array([groups.index(row.group) for row in rows])
        self._groups = len(groups)

    def start(self) -> Array:
        """Return the parameters of a sum of roots; levels change no order within a group."""
        import numpy as np

        n = len(self.blocks)
        return np.concatenate(
            [np.zeros(n), np.full(n, POWER), np.zeros(self.first[-1]), [SUM_POWER, SATURATION], np.zeros(self._groups)]
        )

    def parts(self, solved: Array) -> tuple[Array, Array, Array]:
        """Return logarithms of weights, powers, and logarithms of candidates' factors."""
        n = len(self.blocks)
        return solved[:n], solved[n : 2 * n], solved[2 * n : 2 * n + self.first[-1]]

    def predicted(self, solved: Array) -> Array:
        """Return the logarithm of each network's divergence, as its sum over blocks tells it."""
        import numpy as np

        link = 2 * len(self.blocks) + int(self.first[-1])
        risen = solved[link] * np.log(self._terms(solved).sum(1))
        found: Array = solved[link + 2 :][self._group] + risen - np.logaddexp(0.0, solved[link + 1] + risen)
        return found

    def _terms(self, solved: Array) -> Array:
        import numpy as np

        weights, powers, factors = self.parts(solved)
        terms: Array = np.exp(weights + factors[self._column] + powers * self._log)
        return terms

    def fit(self, told: Places) -> Array:
        """Return the parameters that are likeliest after these networks: least squares with priors."""
        import numpy as np
        from scipy.optimize import least_squares

        n, start = len(self.blocks), self.start()
        spread = np.concatenate(
            [
                np.full(n, WEIGHT),
                np.full(n, BEND),
                np.full(self.first[-1], FACTOR),
                [LINK, SATURATES],
                np.full(self._groups, 10.0),
            ]
        )
        link, rows = 2 * n + int(self.first[-1]), np.arange(len(told))
        least = np.full(len(start), -np.inf)
        least[[*range(n, 2 * n), link]] = LEAST_POWER

        def residuals(x: Array) -> Array:
            missed = (self._wanted - self.predicted(x))[told]
            return np.concatenate([missed / NOISE, (x - start) / spread])

        def slopes(x: Array) -> Array:
            terms = self._terms(x)[told]
            total = terms.sum(1)
            filled = 1 / (1 + np.exp(-x[link + 1] - x[link] * np.log(total)))  # how much of all there is
            shares = (1 - filled[:, None]) * x[link] * terms / total[:, None]
            found = np.zeros((len(told), len(x)))
            found[:, :n], found[:, n : 2 * n] = shares, shares * self._log[told]
            found[rows[:, None], 2 * n + self._column[told]] = shares
            found[:, link], found[:, link + 1] = (1 - filled) * np.log(total), -filled
            found[rows, link + 2 + self._group[told]] = 1.0
            return np.vstack([-found / NOISE, np.diag(1 / spread)])

        solved: Array = least_squares(residuals, start, jac=slopes, bounds=(least, np.inf), max_nfev=50).x
        return solved

    def tau(self, predicted: Array) -> float:
        """Return Kendall's tau with the divergences, of pairs within groups, weighed by how many these are."""
        import numpy as np

        found, weights = [], []
        for group in range(self._groups):
            mine = self._group == group
            tau = kendall_tau(predicted[mine].tolist(), self._wanted[mine].tolist())
            if tau is not None:
                found.append(tau)
                weights.append(int(mine.sum()) * (int(mine.sum()) - 1))
        return float(np.average(found, weights=weights)) if found else 0.0


def interplay_rows(loss_file: Path) -> Store[InterplayRow]:
    """Return the file form of such rows; they lie beside the loss table."""
    return Store(loss_file.with_name("interplay_by_image.jsonl"), InterplayRow, "qaedge-interplay-by-image", hint=AGAIN)
