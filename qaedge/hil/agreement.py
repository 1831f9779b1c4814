"""Agreement: whether two boards of one kind measure alike, once scaled by what the reference model takes on each."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import msgspec

from qaedge.hil.profile import Measured, Settings
from qaedge.measurement import Measurement

#: How many files are measured on every board of a fleet.
SHARED = 3
#: Boards that differ by more than this, when scaled, do not share a table without a warning.
GOOD_WITHIN = 0.05


class Agreement(msgspec.Struct, frozen=True):
    """How one board compares with the first of its fleet.

    Attributes:
        device, base: the board, and the first one.
        scale: the reference model's time on the first board over its time here; None where either does not tell.
        off: what shared files take here, scaled, over what they take on the first board, minus 1: the median.
        files: how many were shared.
    """

    device: str
    base: str
    scale: float | None
    off: float | None
    files: int

    @property
    def good(self) -> bool:
        """Whether the two measure alike."""
        return self.off is not None and abs(self.off) <= GOOD_WITHIN

    def __str__(self) -> str:
        """Say how the two compare."""
        if self.off is None:
            return f"{self.device} could not be compared with {self.base}: no file was measured on both"
        scale = f", scaled by {self.scale:.3f}" if self.scale is not None else ""
        files = f"{self.files} shared file{'s' if self.files != 1 else ''}"
        said = f"{self.device} takes {100 * self.off:+.1f} % of what {self.base} takes for {files}{scale}"
        said = said.replace("% of what", "% against what")
        return said if self.good else f"{said}: more than {100 * GOOD_WITHIN:g} %, so its rows are doubted"


def agreement(device: str, base: str, mine: Mapping[str, Measured], its: Mapping[str, Measured]) -> Agreement:
    """Compare a board's measurements (by sha256) with the first board's."""
    both = [sha256 for sha256 in mine if sha256 in its]
    references = [(its[sha256].measurement.reference_s, mine[sha256].measurement.reference_s) for sha256 in both]
    scales = [theirs / ours for theirs, ours in references if theirs and ours]
    scale = statistics.median(scales) if scales else None
    offs = [
        (scale or 1.0) * mine[sha256].measurement.median_s / its[sha256].measurement.median_s - 1 for sha256 in both
    ]
    return Agreement(device, base, scale, statistics.median(offs) if offs else None, len(both))


def rescaled(
    found: Measurement, base_reference_s: float | None, agreed: Agreement | None, settings: Settings, shared: bool
) -> Measurement:
    """Return a measurement on the scale of its table; raw samples stay, the scale is stored beside them.

    Boards that share a table (`shared`) are each scaled by the reference model to the board whose rows
    it began with, by whatever that is, and doubted where that does not make them agree. A board alone
    is held to what it was when the table's rows were taken, as one round is held to another (R14):
    scaled where the reference model tells a few percent, doubted where more.
    """
    doubts = found.doubts
    scale = base_reference_s / found.reference_s if base_reference_s and found.reference_s else 1.0
    if agreed is not None and not agreed.good:
        doubts = (*doubts, "boards differ")
    if not shared and abs(1 / scale - 1) > settings.drift_limit:
        doubts, scale = (*doubts, *({"drifted"} - set(doubts))), 1.0
    if not shared and abs(1 / scale - 1) <= settings.drift_accept:
        scale = 1.0
    if scale == 1.0:
        return msgspec.structs.replace(found, doubts=doubts) if doubts != found.doubts else found
    return msgspec.structs.replace(
        found,
        doubts=doubts,
        scales=tuple(s * scale for s in found.scales or (1.0,) * len(found.rounds)),
        conditions={**found.conditions, "board_scale": scale},
    )
