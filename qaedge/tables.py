"""The two tables that search reads: what a candidate loses, and what it costs on a device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from qaedge.borders import SIZE_BYTES, Border, borders, borders_in
from qaedge.candidate import Candidate
from qaedge.errors import NotMeasured
from qaedge.fingerprint import Difference, strangers
from qaedge.fit import ENOUGH, STATISTICS, Fit, fit
from qaedge.measurement import Measurement
from qaedge.network_key import FITTED, HELD_OUT, network_of
from qaedge.probes import origin_network, probes
from qaedge.space import SearchSpace
from qaedge.store import Store

R = TypeVar("R")
#: Beyond these, what files have beside weights is not learned from whole networks: something else differs.
BESIDE_SLOPES = 0.0, 3.0


class LossRow(msgspec.Struct, frozen=True):
    """What a choice costs in accuracy, as it will be deployed.

    `float_loss` and `loss` are noise over signal, per channel, averaged: 0 is a perfect copy of
    the teacher's block, 1 a candidate that knows only the mean. `loss` is after quantization.
    `steps`, `started_from` and `settings` are those of the training, also where a row is made later
    from kept weights ("kept": their file does not tell); `seconds` are those of this row alone, and
    `train_seconds` those of them inside forward, backward and step. `recipe` is how its numbers were
    rounded: the steps that were kept (`nn.recipe`); `gains` the block loss on the calibration images after each
    step, kept or not; `layer_bits` the bits of each layer's weights, and `rounded` the file that holds them,
    where they are not what rounding to the nearest gives.
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
    recipe: str = "nearest"
    gains: dict[str, float] = {}
    layer_bits: tuple[int, ...] = ()
    rounded: str = ""


class LatencyRow(msgspec.Struct, frozen=True):
    """What a candidate, the whole teacher ("teacher_...") or a whole network ("network_...", "check_...") costs there.

    Or what brings activations from one width to another ("border_...", `qaedge.borders`).
    `format` is the file's: the same candidate may be there as ONNX and as TFLite. `layer_bits` are those of the
    blocks that keep their most sensitive layers, where it was known which these are.
    """

    key: str
    form: str
    size_bytes: int
    weight_bytes: int
    measurement: Measurement
    format: str = "onnx"
    layer_bits: tuple[int, ...] = ()


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

    def sensitive_bits(self, block: str, candidate: Candidate) -> tuple[int, ...]:
        """Return the bits of each layer of a choice that keeps its most sensitive layers.

        Empty where its scheme alone tells them, or where it was not scored yet.
        """
        row = self.rows.get((block, str(candidate.spec), str(candidate.scheme)))
        return row.layer_bits if row is not None and candidate.scheme.keeps_sensitive else ()

    def row(self, block: str, candidate: Candidate) -> LossRow:
        """Return the row of a choice; raise NotMeasured where there is none."""
        row = self.rows.get((block, str(candidate.spec), str(candidate.scheme)))
        if row is None:
            raise NotMeasured(
                f"No block loss of {candidate.spec} ({candidate.scheme}) in {block}.", "Run: qaedge distill"
            )
        return row


class LatencyTable:
    """Costs on one device, of files of one format.

    A whole network is predicted from the measured whole teacher T0 (INT8, same form) and the
    blocks: `T = T0 + c + sum(a_b * (t_b - t_b0)) + B - B0`, t_b0 being the teacher's own block. The call that each
    was measured by (R12) and what a block's ends
    cost (layout changes, input and output of the network) is in T0 and cancels in
    each difference; c and a_b are what measured whole networks tell (`fit`). (A method of our own; measuring
    blocks alone and adding them counts their ends once per block.) B is what lies between neighbours whose
    activations are of unlike widths (`qaedge.borders`), and B0 what of it is in T0.
    """

    def __init__(self, device: str, rows: Iterable[LatencyRow], file_format: str = "onnx") -> None:
        """Index the rows of a format; the last row of a key counts."""
        self.device = device
        self.format = file_format
        self.rows = {row.key: row for row in rows if row.format == file_format}
        self._fits: dict[tuple[str, bool], Fit] = {}

    @staticmethod
    def read(path: Path, device: str, file_format: str = "onnx") -> LatencyTable:
        """Read a table; it is empty where nothing was measured yet."""
        return LatencyTable(device, LatencyTable.store(path).rows(), file_format)

    @staticmethod
    def store(path: Path) -> Store[LatencyRow]:
        """The file form of this table."""
        return Store(path, LatencyRow, "qaedge-latency")

    @property
    def as_format(self) -> str:
        """What tells people the format, where it is not the usual one: " as tflite"."""
        return "" if self.format == "onnx" else f" as {self.format}"

    @property
    def command(self) -> str:
        """What fills this table."""
        return f"qaedge profile --device {self.device}" + ("" if self.format == "onnx" else f" --runtime {self.format}")

    def row(self, key: str) -> LatencyRow:
        """Return a row; raise NotMeasured where there is none."""
        row = self.rows.get(key)
        if row is None:
            raise NotMeasured(f"{key} was not measured on {self.device}{self.as_format}.", f"Run: {self.command}")
        return row

    def border_s(self, border: Border) -> float:
        """Return what a change of activation width takes within a network [s]; raise NotMeasured."""
        return self.row(border.key).measurement.inside_s

    def borders_s(self, space: SearchSpace, network: Sequence[Candidate]) -> float:
        """Return what all changes of activation width in a network take [s]; raise NotMeasured."""
        return sum((self.border_s(each) for each in borders_in(space, network)), 0.0)

    def mixed(self, keys: Iterable[str]) -> dict[str, tuple[Difference, ...]]:
        """Return which of these rows were measured in another state than the newest of them, and how they differ."""
        return strangers({key: self.rows[key].measurement for key in keys if key in self.rows})

    def anchor(self, space: SearchSpace, scheme: str) -> LatencyRow:
        """Return the row of the whole teacher in one scheme."""
        return self.row(anchor_key(space, scheme))

    def networks(self, space: SearchSpace, role: str = FITTED) -> list[tuple[tuple[Candidate, ...], LatencyRow]]:
        """Return the whole networks of a space that were measured, in a role: those fitted, or those held out."""
        found = ((network_of(space, key, role), row) for key, row in self.rows.items())
        return [(network, row) for network, row in found if network is not None]

    def fit(self, space: SearchSpace, is_float: bool | None = None) -> Fit:
        """Return how differences between blocks alone add up, as the whole networks tell that were measured.

        Args:
            space: whose networks count.
            is_float: of networks in float, or in integers, where any were measured; None: as the first candidate.
        """
        kind = space.blocks[0].candidates[0].scheme.is_float if is_float is None else is_float
        known = self._fits.get((space.hash, kind))
        if known is None:
            self._fits[space.hash, kind] = self._fit(space, kind)
            with contextlib.suppress(NotMeasured):
                self._widened(space, kind)
            known = self._fits[space.hash, kind]
        return known

    def _fit(self, space: SearchSpace, kind: bool) -> Fit:
        networks = self.networks(space)
        alike = [pair for pair in networks if pair[0][0].scheme.is_float == kind]
        if not alike and networks:  # a slope in float is a better guess for integers than none, and the reverse
            alike, kind = networks, not kind
        none = Fit((1.0,) * len(space.blocks))
        try:
            anchor, owns = self.origin(space, kind)
            own_borders_s = self.borders_s(space, own_network(space, kind))
        except NotMeasured:
            return none
        usable = [(n, row) for n, row in alike if row is not anchor and self._holds(space, n)]
        if not usable:
            return none
        differences = {
            name: [
                [
                    self.rows[candidate.key].measurement.statistic_s(name) - own.measurement.statistic_s(name)
                    for candidate, own in zip(network, owns, strict=True)
                ]
                for network, _ in usable
            ]
            for name in STATISTICS
        }
        whole = [row.measurement.median_s - anchor.measurement.median_s for _, row in usable]
        # What borders take is no block's: left in, it would bend the slopes.
        beside = [self.borders_s(space, network) - own_borders_s for network, _ in usable]
        return fit(differences, whole, anchor.measurement.median_s, beside)

    def _holds(self, space: SearchSpace, network: Sequence[Candidate]) -> bool:
        """Whether every candidate of a network was measured, and all that lies between them."""
        keys = [*(candidate.key for candidate in network), *(each.key for each in borders_in(space, network))]
        return all(key in self.rows for key in keys)

    def _widened(self, space: SearchSpace, kind: bool) -> None:
        """Let the error of a fit be at least that of networks which took no part in it, where enough were measured.

        A network that was loaded several times counts by each load: who deploys one loads it once, and a limit is
        kept by that, not by the median of loads at several times.
        """
        found = self._fits[space.hash, kind]
        squares = []
        for network, row in self.networks(space, HELD_OUT):
            if network[0].scheme.is_float == kind and self._holds(space, network):
                predicted = self.predict_latency(space, network)[0]
                offs = [predicted / measured - 1 for measured in row.measurement.load_medians_s]
                squares.append(sum(off**2 for off in offs) / len(offs))
        if len(squares) >= ENOUGH:
            error = (sum(squares) / len(squares)) ** 0.5
            if error > found.relative_error:
                self._fits[space.hash, kind] = msgspec.structs.replace(found, relative_error=error)

    def predict_latency(self, space: SearchSpace, choices: Iterable[Candidate]) -> tuple[float, float]:
        """Predict a whole network's latency and its standard error [s]; raise NotMeasured.

        The errors of borders add nothing: they are small beside the fit's, and a sum over blocks alone is what
        `search.margin` keeps a limit with. Both say the same error of a network.
        """
        chosen = list(choices)
        kind = chosen[0].scheme.is_float
        anchor_row, owns = self.origin(space, kind)
        anchor, fitted = anchor_row.measurement, self.fit(space, kind)
        value, variance = anchor.median_s + fitted.offset_s, anchor.error_s**2
        for own_row, candidate, slope in zip(owns, chosen, fitted.slopes, strict=True):
            own = own_row.measurement
            mine = self.row(candidate.key).measurement
            if mine is not own:
                value += slope * (mine.statistic_s(fitted.statistic) - own.statistic_s(fitted.statistic))
                variance += slope**2 * (mine.error_s**2 + own.error_s**2)
        value += self.borders_s(space, chosen) - self.borders_s(space, own_network(space, kind))
        return value, (variance + (fitted.relative_error * value) ** 2) ** 0.5

    def predict_size(self, space: SearchSpace, choices: Iterable[Candidate]) -> int:
        """Predict a whole network's file size [bytes]; raise NotMeasured."""
        chosen = list(choices)
        kind = chosen[0].scheme.is_float
        anchor, owns = self.origin(space, kind)
        sizes = self.part_sizes(space, kind)
        apart = [
            sizes[self.row(candidate.key).key] - sizes[own.key] for own, candidate in zip(owns, chosen, strict=True)
        ]
        return round(anchor.size_bytes + sum(apart) + self._borders_bytes(space, chosen, kind))

    def _borders_bytes(self, space: SearchSpace, network: Sequence[Candidate], kind: bool) -> int:
        """Return what the borders of a network take more in its file than those of the network that T0 is of."""
        apart = len(borders_in(space, network)) - len(borders_in(space, own_network(space, kind)))
        return SIZE_BYTES[self.format] * apart

    def part_sizes(self, space: SearchSpace, is_float: bool) -> dict[str, float]:
        """Return by key how many bytes of a whole file a block is; only differences between them mean anything.

        Weights lie in a whole file as in a block's own. What a file has beside them (the graph, names, what layers
        share) does not: how much of it is there, the whole networks that were measured tell, by least squares of
        relative errors; all of it where there are none.
        """
        slope = self._beside_slope(space, is_float)
        return {key: row.weight_bytes + slope * _beside(row) for key, row in self.rows.items()}

    def _beside_slope(self, space: SearchSpace, is_float: bool) -> float:
        try:
            anchor, owns = self.origin(space, is_float)
        except NotMeasured:
            return 1.0
        product = square = 0.0
        for network, row in self.networks(space):
            if network[0].scheme.is_float != is_float or any(candidate.key not in self.rows for candidate in network):
                continue
            parts = [self.rows[candidate.key] for candidate in network]
            alone = sum(_beside(part) - _beside(own) for part, own in zip(parts, owns, strict=True))
            whole = _beside(row) - _beside(anchor) - self._borders_bytes(space, network, is_float)
            product += alone * whole / row.size_bytes**2
            square += alone**2 / row.size_bytes**2
        return min(max(product / square, BESIDE_SLOPES[0]), BESIDE_SLOPES[1]) if square else 1.0

    def origin(self, space: SearchSpace, is_float: bool) -> tuple[LatencyRow, list[LatencyRow]]:
        """Return the rows of the whole teacher and of each of its own blocks, all in float or all in integers.

        Each block is in the first such scheme that it has, in the whole teacher as alone. Raises NotMeasured.
        """
        return own_rows(space, is_float, self.row)


def _beside(row: LatencyRow) -> int:
    """What a row's file has beside weights [bytes]."""
    return row.size_bytes - row.weight_bytes


def own_network(space: SearchSpace, is_float: bool) -> list[Candidate]:
    """Return the teacher's own blocks, all in float or in integers, each in its first such scheme; raise NotMeasured.

    It is the network that predictions start from.
    """
    owns = []
    for block in space.blocks:
        place = block.own(is_float)
        if place is None:
            kind = "float" if is_float else "integers"
            raise NotMeasured(
                f"The space does not hold the teacher's own {block.name} in {kind}.",
                "A network is in float or in integers as a whole: give each block the same kinds of schemes.",
            )
        owns.append(block.candidates[place])
    return owns


def own_rows(space: SearchSpace, is_float: bool, row: Callable[[str], R]) -> tuple[R, list[R]]:
    """Return what `row` gives for the keys of the whole teacher and of each of its own blocks; raise NotMeasured."""
    owns = own_network(space, is_float)
    mixed = None if is_float else origin_network(space)
    whole = row(mixed[0] if mixed else anchor_key(space, str(owns[0].scheme)))
    return whole, [row(own.key) for own in owns]


def table_keys(space: SearchSpace) -> set[str]:
    """The keys of all that is measured of a space: every candidate, the teacher in each scheme, probes and borders."""
    schemes = {str(candidate.scheme) for candidate in space.unique()}
    whole = {anchor_key(space, scheme) for scheme in schemes} | probes(space).keys()
    return {candidate.key for candidate in space.unique()} | whole | borders(space).keys()


def anchor_key(space: SearchSpace, scheme: str) -> str:
    """The key of the whole teacher's row: the teacher's digest, the scheme, and what its first block takes.

    The digest alone tells the size of the network's images, so the first block may begin anywhere.
    """
    shape = "x".join(map(str, space.blocks[0].input_shape))
    return f"teacher_{space.teacher[:12]}@{scheme}@{shape}"
