"""Predictions of whole networks held against measurements of them: how true a latency table is."""

from __future__ import annotations

import msgspec

from qaedge.network_key import HELD_OUT, places_of
from qaedge.ranking import rank_correlation
from qaedge.space import SearchSpace
from qaedge.tables import LatencyTable


class Prediction(msgspec.Struct, frozen=True):
    """One network: its candidate in each block by place, and its latency [s] as predicted and as measured."""

    network: str
    predicted_s: float
    error_s: float
    measured_s: float
    measured_error_s: float
    doubts: tuple[str, ...] = ()

    @property
    def off(self) -> float:
        """By what share of the measured latency the predicted one is too great."""
        return self.predicted_s / self.measured_s - 1


class Predictions(msgspec.Struct, frozen=True):
    """Networks that took no part in the fit which predicts them; at least one."""

    rows: tuple[Prediction, ...]

    @staticmethod
    def of(table: LatencyTable, space: SearchSpace, role: str = HELD_OUT) -> Predictions | None:
        """Return those of a space that a table holds in a role, the teacher itself aside; None where there are none."""
        rows = []
        for network, row in table.networks(space, role):
            places = places_of(space, network)
            if not any(places):
                continue
            predicted, error = table.predict_latency(space, network)
            found = row.measurement
            name = "-".join(map(str, places))
            rows.append(Prediction(name, predicted, error, found.median_s, found.error_s, found.doubts))
        return Predictions(tuple(rows)) if rows else None

    @property
    def mape(self) -> float:
        """Mean of the absolute relative errors."""
        return sum(abs(row.off) for row in self.rows) / len(self.rows)

    @property
    def bias(self) -> float:
        """Mean of the relative errors: what all networks are off in common."""
        return sum(row.off for row in self.rows) / len(self.rows)

    @property
    def worst(self) -> Prediction:
        """The network that is predicted worst."""
        return max(self.rows, key=lambda row: abs(row.off))

    @property
    def spearman(self) -> float | None:
        """Rank correlation of predicted with measured; None of fewer than three networks."""
        return rank_correlation([row.predicted_s for row in self.rows], [row.measured_s for row in self.rows])

    def within(self, share: float) -> float:
        """Return the share of networks that are predicted within so much of their latency."""
        return sum(abs(row.off) <= share for row in self.rows) / len(self.rows)

    def within_errors(self, z: float) -> float:
        """Return the share of networks that take no longer than predicted plus `z` standard errors."""
        return sum(row.measured_s <= row.predicted_s + z * row.error_s for row in self.rows) / len(self.rows)
