"""A plan: which rows of a latency table are kept, which are to be measured, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qaedge.borders import borders
from qaedge.candidate import QuantScheme
from qaedge.device import Device, choose_form
from qaedge.fingerprint import FACTS, differences, fingerprint_of
from qaedge.layer_bits import LayerBits
from qaedge.probes import probes
from qaedge.space import SearchSpace
from qaedge.tables import LatencyRow, LatencyTable, anchor_key

if TYPE_CHECKING:
    from qaedge.fingerprint import Difference
    from qaedge.hil.fleet import Fleet

#: The doubts that `--unstable` asks to have settled.
SHAKY = frozenset({"unstable", "drifted", "disturbed"})


@dataclass(frozen=True)
class Plan:
    """What one table should have, and what it has.

    Attributes:
        table: as it was read.
        forms: number of weight bits -> how INT8 files store them, and why.
        wanted: key -> form of its file.
        there: the rows of those keys that the table has.
        other: key -> how the state it was measured in differs from what is wanted now.
        redone: keys that are there and are measured again.
        layers: which layers have how many bits, where schemes alone do not tell it.
        rebitted: keys that were measured with other layers at 8 bits.
        fewer: keys whose rows stay, and are of fewer loads than are wanted.
    """

    table: LatencyTable
    forms: dict[int, tuple[str, str]]
    wanted: dict[str, str]
    there: dict[str, LatencyRow]
    other: dict[str, tuple[Difference, ...]]
    redone: frozenset[str]
    layers: LayerBits
    rebitted: frozenset[str]
    fewer: frozenset[str] = frozenset()

    @property
    def missing(self) -> set[str]:
        """The keys to measure, as if they were not there."""
        return (self.wanted.keys() - self.there.keys()) | self.redone

    @property
    def kept(self) -> int:
        """How many rows stay as they are."""
        return len(self.wanted) - len(self.missing | self.fewer)

    @property
    def base_reference_s(self) -> float | None:
        """What the reference model took where the rows that stay were measured [s]; None where none tells."""
        for key, row in self.there.items():
            if key not in self.redone and row.measurement.reference_s:
                # A row of another board was scaled to what we look for.
                return row.measurement.reference_s * float(row.measurement.conditions.get("board_scale", 1.0))
        return None

    def notes(self) -> Iterator[str]:
        """Say how files are stored, and why rows are measured again."""
        name = self.table.device
        for bits, (form, reason) in self.forms.items():
            yield f"{bits}-bit weights are stored as {form}: {reason}."
        if self.kept:
            yield f"{self.kept} of {len(self.wanted)} rows are kept, {len(self.wanted) - self.kept} to measure."
        fields = {change.field: change for changes in self.other.values() for change in changes}
        if fields:
            count = sum(map(bool, self.other.values()))
            yield (
                f"{count} of {len(self.wanted)} rows are of another state of {name} and are measured again: "
                f"{'; '.join(map(str, fields.values()))}."
            )
        if self.rebitted:
            yield (
                f"{len(self.rebitted)} of {len(self.wanted)} rows were measured before it was known which layers are "
                "the most sensitive, and are measured again."
            )
        spoiled = sum(row.measurement.is_spoiled for row in self.there.values())
        if spoiled:
            yield (
                f"{spoiled} of {len(self.wanted)} rows were taken while the device throttled and are measured again."
            )


def plan(
    table: LatencyTable,
    space: SearchSpace,
    devices: tuple[Device, ...],
    fleet: Fleet,
    unstable: bool,
    energy: bool,
    layers: LayerBits,
    loads: int = 1,
) -> Plan:
    """Compare a table with what it should have.

    Args:
        table: of one format.
        space: whose candidates are wanted.
        devices: the boards that are there.
        fleet: their sessions.
        unstable: measure again, too, what is marked unstable, drifted or disturbed.
        energy: measure again, too, what has no energy.
        layers: what is measured again where it had other bits.
        loads: of how many loads of its file each row should be.
    """
    forms = _forms(table.format, devices[0], space, fleet)
    wanted = _wanted(space, forms)
    there = {key: table.rows[key] for key in wanted if key in table.rows}
    other = {key: changes(row, fleet, devices) for key, row in there.items()}
    # Which cores it is kept on shows only in rows: there, the newest of those that hold decides.
    other |= table.mixed(key for key, found in other.items() if not found)
    bits = {key: layers.of_row(key) for key in there}
    rebitted = frozenset(key for key, row in there.items() if bits[key] and bits[key] != row.layer_bits)
    redone = rebitted | {
        key
        for key, row in there.items()
        if other[key]
        or row.form != wanted[key]
        or row.measurement.is_spoiled
        or (unstable and not SHAKY.isdisjoint(row.measurement.doubts))
        or (energy and row.measurement.energy_j is None)
    }
    fewer = frozenset(key for key, row in there.items() if key not in redone and row.measurement.loads < loads)
    return Plan(table, forms, wanted, there, other, frozenset(redone), layers, rebitted, fewer)


def _forms(file_format: str, device: Device, space: SearchSpace, fleet: Fleet) -> dict[int, tuple[str, str]]:
    """Return form and reason for each number of weight bits in the space."""
    from qaedge.nn.candidates import form_of

    hello = next(iter(fleet.sessions.values())).hello
    bits = sorted({c.scheme.weight_bits for c in space.unique() if not c.scheme.is_float})

    def choose(weight_bits: int) -> tuple[str, str]:
        return choose_form(device, weight_bits, frozenset(hello.cpu_flags), hello.arch)

    return {n: form_of(QuantScheme(n, 8), choose, file_format) for n in bits}


def _wanted(space: SearchSpace, forms: dict[int, tuple[str, str]]) -> dict[str, str]:
    """Return the form of each key that the table should have: candidates, the teacher in each scheme, probes, borders.

    A border has no weights; its file is written as those of the most weight bits are.
    """
    named = {candidate.key: candidate.scheme for candidate in space.unique()}
    named |= {anchor_key(space, str(scheme)): scheme for scheme in list(named.values())}
    # As the file of a whole network is stored.
    named |= {key: max((c.scheme for c in n), key=lambda s: s.weight_bits) for key, n in probes(space).items()}
    wanted = {key: "float" if s.is_float else forms[s.weight_bits][0] for key, s in named.items()}
    return wanted | {key: forms[max(forms)][0] for key in borders(space)}


def changes(row: LatencyRow, fleet: Fleet, devices: Iterable[Device]) -> tuple[Difference, ...]:
    """What differs between the board that a row was measured on as it was, and as it is now (R15).

    Nothing, where that board is none of these: a table may hold rows of boards that are not here.
    """
    measured_on = row.measurement.device
    session = fleet.sessions.get(measured_on)
    if session is None:
        return ()
    from qaedge.hil.runtimes import first_runtime, options_for

    device = next(device for device in devices if device.name == measured_on)
    runtime = first_runtime(session, row.format)
    now = {
        **{name: getattr(session.hello, name) for name in FACTS},
        "runtime": runtime,
        "runtime_version": session.hello.runtimes.get(row.measurement.runtime),
        **{name: options_for(device, runtime or "").get(name) for name in ("providers", "fp16", "xnnpack")},
        "threads": device.threads,
        "pin": device.pin,
    }
    return differences(fingerprint_of(row.measurement), now, now.keys())
