"""The fit: how differences between blocks measured alone become a difference between whole networks.

Blocks that are measured alone find their weights and their input in the cache, their ends cost nothing there,
and an interrupted machine spoils some statistics more than others. Whole networks tell what is left of a
difference; with enough of them the fit is chosen by what it predicts of a network that it has not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import msgspec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[np.float64]

#: What a row's samples may be summarized to (R9), in the order of preference.
STATISTICS = ("median", "p25", "min")
#: From so many networks on, more than a slope is fitted, and the statistic is chosen.
ENOUGH = 12
#: A slope beyond these is a mistake of some measurement, and not followed.
SLOPES = 0.5, 2.0

#: More parameters, or another statistic, have to predict better than what is simpler by this part.
_BETTER = 0.95
#: Networks are left out in so many parts to tell how well what is chosen predicts.
_FOLDS = 6
#: How strongly the slopes of blocks are drawn to their common one, in shares of what the data say.
_RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)


class Fit(msgspec.Struct, frozen=True):
    """`T = T0 + offset_s + sum over blocks of slopes[b] * (t_b - t_b0)`, T0 being the measured teacher's.

    What lies between blocks (`qaedge.borders`) comes on top.

    Attributes:
        slopes: of each block.
        offset_s: what every network takes beside [s].
        statistic: which summary of a block's samples t is, of STATISTICS. T is the median.
        model: "sum" (nothing fitted), "slope", "affine" or "blocks".
        networks: how many whole networks it was fitted on.
        relative_error: standard error of a network's latency, as a share of it: of networks left out of the
            choice and the fit where there are ENOUGH, else of what the slope leaves over.
        left_out: mean of the absolute relative errors of networks left out of the fit one by one; None below ENOUGH.
    """

    slopes: tuple[float, ...]
    offset_s: float = 0.0
    statistic: str = "median"
    model: str = "sum"
    networks: int = 0
    relative_error: float = 0.0
    left_out: float | None = None

    @property
    def common_slope(self) -> float:
        """The mean slope over blocks."""
        return sum(self.slopes) / len(self.slopes)


def fit(
    differences: Mapping[str, Sequence[Sequence[float]]],
    whole: Sequence[float],
    teacher_s: float,
    beside: Sequence[float] = (),
) -> Fit:
    """Fit whole networks by their blocks, and choose how.

    By least squares of relative errors, with ridge towards slopes of 1 and no offset. Fewer than ENOUGH
    networks tell one slope; with more, the model and the statistic are those that predict networks best which
    were left out of the fit.

    Args:
        differences: statistic -> for each network, t - t0 of each block [s]; all have "median".
        whole: the difference of each whole network to the teacher [s].
        teacher_s: what the teacher takes [s].
        beside: how much of `whole` is known to be no block's [s]; none where it is not given.
    """
    import numpy as np

    differs = np.asarray(whole, dtype=np.float64)
    y = differs - np.asarray(beside, dtype=np.float64) if len(beside) else differs
    tables = {name: np.asarray(rows, dtype=np.float64) for name, rows in differences.items()}
    x = tables["median"]
    weights = 1.0 / np.maximum(teacher_s + differs, 1e-12)  # errors are shares of what a network takes in all
    if len(y) < ENOUGH:
        return _slope(x, y, weights)
    chosen = _choose(tables, y, weights)
    if chosen is None:
        return _slope(x, y, weights)
    # What was chosen by its errors looks better than it is: those of choices made without the network are honest.
    errors = []
    for fold in range(_FOLDS):
        out = np.arange(len(y)) % _FOLDS == fold
        found = _choose({name: rows[~out] for name, rows in tables.items()}, y[~out], weights[~out])
        if found is not None:
            told = found.offset_s + tables[found.statistic][out] @ np.array(found.slopes)
            errors.append(weights[out] * (y[out] - told))
    spread = float(np.sqrt(np.mean(np.concatenate(errors) ** 2))) if errors else chosen.relative_error
    return msgspec.structs.replace(chosen, relative_error=max(spread, chosen.relative_error))


def _choose(tables: Mapping[str, Array], y: Array, weights: Array) -> Fit | None:
    """Return the statistic and the model that predict best what is left out; None where none is plausible."""
    import numpy as np

    best = None
    least = np.inf
    for statistic in STATISTICS:
        for model, features, penalties in _models(tables[statistic], weights):
            params, residuals = _solve(features, y - tables[statistic].sum(axis=1), weights, penalties)
            off = float(np.abs(residuals).mean())
            if best is None or off < _BETTER * least:
                slopes, offset = _unpack(model, params, tables[statistic].shape[1])
                if min(slopes) < SLOPES[0] or max(slopes) > SLOPES[1]:
                    continue
                spread = float(np.sqrt((residuals**2).mean()))
                best, least = Fit(slopes, offset, statistic, model, len(y), spread, off), off
    return best


def _slope(x: Array, y: Array, weights: Array) -> Fit:
    """Fit one slope, and no more; 1 where no network differs from the teacher."""
    import numpy as np

    blocks, alone = x.shape[1], x.sum(axis=1)
    square = float(((weights * alone) ** 2).sum())
    if square == 0:
        return Fit((1.0,) * blocks)
    fitted = float((weights**2 * alone * y).sum()) / square
    slope = min(max(fitted, SLOPES[0]), SLOPES[1])
    rest = weights * (y - slope * alone)
    spread = float(np.sqrt((rest**2).sum() / max(1, len(y) - 1)))
    return Fit((slope,) * blocks, 0.0, "median", "slope", len(y), spread)


def _models(x: Array, weights: Array) -> list[tuple[str, Array, Array]]:
    """Return each model's name, its features [networks, parameters], and how strongly each parameter is held at 0.

    Parameters are what is added to the plain sum of differences: so 0 is "as measured alone".
    """
    import numpy as np

    count = len(x)
    alone, ones = x.sum(axis=1), np.ones(count)
    small = 1e-3  # a trace of ridge: networks that are all alike tell no slope
    square = float(((weights * alone) ** 2).sum())
    level = float((weights**2).sum())
    made = [
        ("sum", np.empty((count, 0)), np.empty(0)),
        ("slope", alone[:, None], np.array([small * square])),
        ("affine", np.column_stack([alone, ones]), np.array([small * square, small * level])),
    ]
    scale = ((weights[:, None] * x) ** 2).sum(axis=0)
    for ridge in _RIDGES:
        penalties = np.concatenate([[small * square], np.maximum(ridge * scale, 1e-12)])
        made.append(("blocks", np.column_stack([alone, x]), penalties))
    return made


def _solve(features: Array, rest: Array, weights: Array, penalties: Array) -> tuple[Array, Array]:
    """Return the parameters, and the relative error of each network with it left out of the fit.

    Of a linear fit with fixed penalties that is exact without fitting again: the residual over one less its leverage.
    """
    import numpy as np

    if not features.shape[1]:
        return np.empty(0), weights * rest
    a, b = weights[:, None] * features, weights * rest
    inverse = np.linalg.pinv(a.T @ a + np.diag(penalties))
    params = inverse @ (a.T @ b)
    leverage = np.einsum("ij,jk,ik->i", a, inverse, a)
    return params, (b - a @ params) / np.maximum(1.0 - leverage, 1e-3)


def _unpack(model: str, params: Array, blocks: int) -> tuple[tuple[float, ...], float]:
    """Return the slope of each block, and the offset [s]."""
    if model == "sum":
        return (1.0,) * blocks, 0.0
    common = 1.0 + float(params[0])
    if model == "blocks":
        return tuple(common + float(value) for value in params[1:]), 0.0
    return (common,) * blocks, float(params[1]) if model == "affine" else 0.0
