"""Whole networks measured on a device: what predictions are held against, and what they learn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from qaedge import report
from qaedge.candidate import Candidate
from qaedge.cli.plan import changes, plan
from qaedge.cli.resolve import need_nn, note_fake, resolve
from qaedge.cli.rows import measure_rows
from qaedge.device import Device, load_devices, table_name, with_runtime
from qaedge.errors import MeasurementError
from qaedge.layer_bits import LayerBits
from qaedge.measurement import REPEATED
from qaedge.project import Workspace
from qaedge.runtime import BOTH
from qaedge.tables import LatencyRow, LatencyTable

if TYPE_CHECKING:
    from qaedge.hil.profile import Failed

Networks = Mapping[str, Sequence[Candidate]]

#: So many networks take turns with the teacher, in one chunk.
BESIDE = 15
#: The name of the teacher among them, and of what their times were multiplied by, among their conditions.
TEACHER, SCALE = "teacher", "teacher_scale"
#: A scale further from 1 than this is doubted (R14).
DRIFT = 0.05


class WholeNetworks:
    """A device that is held while whole networks are measured on it, in as many turns as it takes.

    A context manager. Rows go into the device's latency table; torch exports the networks.
    """

    def __init__(self, workspace: Workspace, device: str, wait_s: float = 0.0, quiet: bool = False) -> None:
        """Connect, and take the device's lock; raise as `qaedge profile` does."""
        need_nn()
        from qaedge.hil.fleet import Fleet
        from qaedge.hil.settings import Settings

        self.workspace, self.quiet = workspace, quiet
        self.devices: tuple[Device, ...] = tuple(with_runtime(one, BOTH) for one in load_devices(device))
        note_fake(self.devices, quiet)
        self.name = table_name(self.devices)
        self.teacher, self.space = resolve(workspace, untrained=True)
        self._settings = Settings()
        self._store = LatencyTable.store(workspace.latency_file(self.name))
        self._fleet = Fleet(self.devices, wait_s=wait_s)

    def __enter__(self) -> WholeNetworks:
        """Hold the device."""
        self._fleet.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let it go."""
        self._fleet.__exit__(kind, error, trace)

    def table(self, file_format: str) -> LatencyTable:
        """Return the device's table of a format as it is now."""
        return LatencyTable(self.name, self._store.rows(), file_format)

    def measure(
        self, file_format: str, networks: Networks, append: Callable[[LatencyRow], None] | None = None
    ) -> list[Failed]:
        """Measure networks, by the keys of their rows; return what failed.

        The teacher takes its turn among them, so that a row tells what a network takes beside it: rows are scaled to
        what the table has of the teacher. The reference model (R14) is small, and does not notice what slows a
        whole network's memory.

        Args:
            file_format: of the files.
            networks: the candidate of each block.
            append: keeps a row; without it the device's table does.

        Raises:
            NotMeasured: the table does not hold the teacher.
            UnsupportedOperator: a network that cannot be exported.
            DeviceLost and other errors of a connection.
        """
        kinds: dict[bool, dict[str, Sequence[Candidate]]] = {}
        for key, network in networks.items():
            kinds.setdefault(network[0].scheme.is_float, {})[key] = network
        failed: list[Failed] = []
        for is_float, alike in kinds.items():
            table = self.table(file_format)
            teacher_s = table.origin(self.space, is_float)[0].measurement.median_s
            own = tuple(block.candidates[block.own(is_float) or 0] for block in self.space.blocks)
            keys = list(alike)
            for at in range(0, len(keys), BESIDE):
                group = {key: alike[key] for key in keys[at : at + BESIDE]}
                failed += self._beside_teacher(table, group, own, teacher_s, append or self._store.append)
        return failed

    def repeat(
        self, file_format: str, networks: Networks, times: int, begun: Mapping[str, LatencyRow] | None = None
    ) -> list[Failed]:
        """Measure networks until each was loaded `times` times, and keep the samples of all; return what failed.

        What a file takes changes by some percent from load to load. A row's conditions tell each load's median. It is
        kept after each load, so that what was interrupted goes on there.

        Args:
            file_format: of the files.
            networks: the candidate of each block.
            times: how often each is loaded.
            begun: rows to go on from, by key; those of another state of the device, or that were sampled otherwise,
                are measured from the beginning.
        """
        rows = {key: row for key, row in (begun or {}).items() if row.measurement.loads >= times or self._fits(row)}

        def keep(row: LatencyRow) -> None:
            rows[row.key] = _with_load(rows[row.key], row) if row.key in rows else row
            self._store.append(rows[row.key])

        failed: list[Failed] = []
        left = dict(networks)
        while left := {key: n for key, n in left.items() if key not in rows or rows[key].measurement.loads < times}:
            before = dict(rows)
            failed += self.measure(file_format, left, keep)
            # What failed has no new row, and is not tried again.
            left = {key: n for key, n in left.items() if rows.get(key) is not before.get(key)}
        return failed

    def _fits(self, row: LatencyRow) -> bool:
        """Whether samples of now may join a row's: the device is as it was (R15), and so is what is sampled (R17)."""
        same = row.measurement.settings.get("quiet_share") == self._settings.quiet_share
        return same and not changes(row, self._fleet, self.devices)

    def _beside_teacher(
        self,
        table: LatencyTable,
        networks: Networks,
        own: Sequence[Candidate],
        teacher_s: float,
        append: Callable[[LatencyRow], None],
    ) -> list[Failed]:
        """Measure a few networks and the teacher in turn, and keep their rows as if it had taken `teacher_s`."""
        from qaedge.nn.candidates import export_networks

        planned = plan(
            table, self.space, self.devices, self._fleet, False, False, LayerBits.read(self.workspace, self.space)
        )
        steps = export_networks(
            self.workspace,
            self.teacher,
            self.space,
            {TEACHER: own, **networks},
            lambda bits: planned.forms[bits],
            table.format,
        )
        artifacts = [step.result for step in report.progress(steps, "exporting", self.quiet)]
        rows: list[LatencyRow] = []
        _, failed = measure_rows(self._fleet, artifacts, self._settings, planned, rows.append, self.quiet)
        teacher = next((row for row in rows if row.key == TEACHER), None)
        if teacher is None:
            raise MeasurementError(
                "The teacher could not be measured beside the networks, so nothing tells the state of the device.",
                "\n".join(f"{one.artifact.name}: {one.error.message}" for one in failed),
            )
        for row in rows:
            if row is not teacher:
                append(scaled(row, teacher_s / teacher.measurement.median_s))
        return failed


def scaled(row: LatencyRow, scale: float) -> LatencyRow:
    """Return a row whose summaries are multiplied by a scale; its raw samples stay, and its conditions tell."""
    found = row.measurement
    doubts = found.doubts
    if abs(scale - 1) > DRIFT and "drifted" not in doubts:
        doubts = (*doubts, "drifted")
    return msgspec.structs.replace(
        row,
        measurement=msgspec.structs.replace(
            found,
            scales=tuple(scale * value for value in found.scales or (1.0,) * len(found.rounds)),
            conditions={**found.conditions, SCALE: scale},
            doubts=doubts,
        ),
    )


def _with_load(row: LatencyRow, new: LatencyRow) -> LatencyRow:
    """Return a row with the samples of one more load; its conditions tell the median of each."""
    before = row.measurement
    joined = before.with_load(new.measurement)
    times = [*before.load_medians_s, new.measurement.median_s]
    told = {**joined.conditions, REPEATED: sorted(times)}
    return msgspec.structs.replace(row, measurement=msgspec.structs.replace(joined, conditions=told))
