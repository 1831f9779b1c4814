"""The two tables that search reads: what a candidate loses, and what it costs on a device."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from qaedge.candidate import Candidate
from qaedge.errors import NotMeasured
from qaedge.fingerprint import Difference, strangers
from qaedge.measurement import Measurement
from qaedge.space import SearchSpace
from qaedge.store import Store


class LossRow(msgspec.Struct, frozen=True):
    """What a choice costs in accuracy, as it will be deployed.

    `float_loss` and `loss` are noise over signal, per channel, averaged: 0 is a perfect copy of
    the teacher's block, 1 a candidate that knows only the mean. `loss` is after quantization.
    """

    block: str
    spec: str
    scheme: str
    float_loss: float
    loss: float
    steps: int
    seconds: float
    train_seconds: float
    weights: str
    started_from: str
    settings: dict[str, float | int | str]


class LatencyRow(msgspec.Struct, frozen=True):
    """What a candidate, or the whole teacher (`key` starts with "teacher_"), costs on a device."""

    key: str
    form: str
    size_bytes: int
    weight_bytes: int
    measurement: Measurement


class LossTable:
    """Block losses by (block, spec, scheme); the last row of a key counts."""

    def __init__(self, rows: Iterable[LossRow]) -> None:
        """Index the rows."""
        self.rows = {(row.block, row.spec, row.scheme): row for row in rows}

    @staticmethod
    def store(path: Path) -> Store[LossRow]:
        """The file form of this table."""
        return Store(path, LossRow, "qaedge-loss")

    def has(self, block: str, candidate: Candidate) -> bool:
        """Whether there is a row."""
        return (block, str(candidate.spec), str(candidate.scheme)) in self.rows

    def row(self, block: str, candidate: Candidate) -> LossRow:
        """Return the row of a choice; raise NotMeasured where there is none."""
        row = self.rows.get((block, str(candidate.spec), str(candidate.scheme)))
        if row is None:
            raise NotMeasured(
                f"No block loss of {candidate.spec} ({candidate.scheme}) in {block}.", "Run: qaedge distill"
            )
        return row


class LatencyTable:
    """Costs on one device.

    A whole network is predicted from the measured whole teacher T0 (INT8, same form) and the
    blocks: `T = T0 + sum(t_i - t_i0)`, t_i0 being the teacher's own block. What borders cost
    (layout changes at a block's ends, input and output of the network) is in T0 and cancels in
    each difference. (A method of our own; measuring blocks alone and adding them counts the
    borders once per block.)
    """

    def __init__(self, device: str, rows: Iterable[LatencyRow]) -> None:
        """Index the rows; the last row of a key counts."""
        self.device = device
        self.rows = {row.key: row for row in rows}

    @staticmethod
    def store(path: Path) -> Store[LatencyRow]:
        """The file form of this table."""
        return Store(path, LatencyRow, "qaedge-latency")

    def row(self, key: str) -> LatencyRow:
        """Return a row; raise NotMeasured where there is none."""
        row = self.rows.get(key)
        if row is None:
            raise NotMeasured(
                f"{key} was not measured on {self.device}.", f"Run: qaedge profile --device {self.device}"
            )
        return row

    def mixed(self, keys: Iterable[str]) -> dict[str, tuple[Difference, ...]]:
        """Return which of these rows were measured in another state than the newest of them, and how they differ."""
        return strangers({key: self.rows[key].measurement for key in keys if key in self.rows})

    def anchor(self, space: SearchSpace, scheme: str) -> LatencyRow:
        """Return the row of the whole teacher in one scheme."""
        return self.row(anchor_key(space, scheme))

    def predict_latency(self, space: SearchSpace, choices: Iterable[Candidate]) -> tuple[float, float]:
        """Predict a whole network's latency and its standard error [s]; raise NotMeasured."""
        chosen = list(choices)
        anchor_scheme = str(space.blocks[0].candidates[0].scheme)
        anchor = self.anchor(space, anchor_scheme).measurement
        value, variance = anchor.median_s, anchor.error_s**2
        for block, candidate in zip(space.blocks, chosen, strict=True):
            own = self.row(block.candidates[0].key).measurement
            mine = self.row(candidate.key).measurement
            if mine is not own:
                value += mine.median_s - own.median_s
                variance += mine.error_s**2 + own.error_s**2
        return value, variance**0.5

    def predict_size(self, space: SearchSpace, choices: Iterable[Candidate]) -> int:
        """Predict a whole network's file size [bytes]; raise NotMeasured."""
        anchor = self.anchor(space, str(space.blocks[0].candidates[0].scheme))
        return anchor.size_bytes + sum(
            self.row(candidate.key).size_bytes - self.row(block.candidates[0].key).size_bytes
            for block, candidate in zip(space.blocks, choices, strict=True)
        )


def table_keys(space: SearchSpace) -> set[str]:
    """The keys of all that is measured of a space: every candidate, and the teacher in each scheme."""
    schemes = {str(candidate.scheme) for candidate in space.unique()}
    return {candidate.key for candidate in space.unique()} | {anchor_key(space, scheme) for scheme in schemes}


def anchor_key(space: SearchSpace, scheme: str) -> str:
    """The key of the whole teacher's row: the teacher's digest, the scheme, and what its first block takes.

    The digest alone tells the size of the network's images, so the first block may begin anywhere.
    """
    shape = "x".join(map(str, space.blocks[0].input_shape))
    return f"teacher_{space.teacher[:12]}@{scheme}@{shape}"
