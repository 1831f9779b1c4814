"""Whole networks that were measured, held against what the tables predict of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qaedge.candidate import Candidate
from qaedge.network_key import FITTED, HELD_OUT
from qaedge.page.content import Agreement, Measured
from qaedge.ranking import rank_correlation
from qaedge.space import SearchSpace
from qaedge.tables import LatencyRow, LatencyTable


def measured_networks(table: LatencyTable, space: SearchSpace) -> list[tuple[tuple[Candidate, ...], LatencyRow, bool]]:
    """Return the networks of a space that a table holds whole, and whether each took part in what predicts.

    One that was measured in both roles is there once, as one that took part.
    """
    fitted = table.networks(space, FITTED)
    known = {network for network, _ in fitted}
    own = tuple(block.candidates[0] for block in space.blocks)
    held_out = [(n, row) for n, row in table.networks(space, HELD_OUT) if n not in known and n != own]
    return [*((n, row, True) for n, row in fitted), *((n, row, False) for n, row in held_out)]


def agree(kind: int, networks: Sequence[Measured]) -> Agreement | None:
    """Return how well the predictions of one kind of file hold; None where no network of it was measured.

    Where there are networks that took no part in what predicts, they alone are judged.
    """
    mine = [(each, each.network.latency_s) for each in networks if each.network.kind == kind and each.network.latency_s]
    if not mine:
        return None
    mine = [pair for pair in mine if not pair[0].is_fitted] or mine
    errors = [predicted / each.measured_s - 1 for each, predicted in mine]
    worst = max(range(len(mine)), key=lambda at: abs(errors[at]))
    sizes = np.abs(errors)
    return Agreement(
        kind,
        len(mine),
        sum(each.is_fitted for each, _ in mine),
        float(sizes.mean()),
        float((sizes <= 0.05).mean()),
        float((sizes <= 0.10).mean()),
        rank_correlation([predicted for _, predicted in mine], [each.measured_s for each, _ in mine]),
        mine[worst][0].name,
        errors[worst],
    )
