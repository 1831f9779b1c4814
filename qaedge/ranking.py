"""Ranking: how alike two orders of the same networks are."""

from __future__ import annotations

from collections.abc import Sequence


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; None of fewer than three, or where one side is all alike."""
    import numpy as np
    from scipy.stats import rankdata

    if len(first) < 3:
        return None
    a, b = (rankdata(values) for values in (first, second))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Kendall's tau-b: of the pairs that differ, those in the same order less those in the other, as a share.

    None of fewer than three, or where one side is all alike. (Kendall, "The treatment of ties in ranking problems",
    Biometrika 1945.)
    """
    from scipy.stats import kendalltau

    if len(first) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(kendalltau(first, second).statistic)
