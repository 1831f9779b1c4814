"""Rows of a latency table, measured and kept as they come."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from qaedge import report
from qaedge.artifact import Artifact
from qaedge.cli.plan import Plan
from qaedge.tables import LatencyRow

if TYPE_CHECKING:
    from qaedge.hil.fleet import Fleet
    from qaedge.hil.profile import Failed
    from qaedge.hil.settings import Settings


def measure_rows(
    fleet: Fleet,
    artifacts: list[tuple[str, Artifact]],
    settings: Settings,
    planned: Plan,
    append: Callable[[LatencyRow], None],
    quiet: bool,
) -> tuple[int, list[Failed]]:
    """Measure files, and append each row as it comes; return how many, and what failed.

    Times are scaled to the state of the device in which the rows that stay were measured (R14).

    Args:
        fleet: the boards that share the work.
        artifacts: the files, with the keys of their rows.
        settings: of the protocol.
        planned: the table, and which of its rows stay.
        append: keeps a row.
        quiet: show no progress.
    """
    from qaedge.hil.agreement import Agreement
    from qaedge.hil.profile import Failed

    keys = {artifact.name: key for key, artifact in artifacts}
    failed, done = [], 0
    if not artifacts:
        return 0, []
    steps = fleet.measure([artifact for _, artifact in artifacts], settings, planned.base_reference_s)
    for step in report.progress(steps, f"measuring on {planned.table.device}{planned.table.as_format}", quiet):
        if isinstance(step.result, Agreement):
            report.note(f"{step.result}.", quiet)
            continue
        if isinstance(step.result, Failed):
            failed.append(step.result)
            continue
        artifact, measurement = step.result.artifact, step.result.measurement
        append(
            LatencyRow(
                keys[artifact.name],
                artifact.form,
                artifact.size_bytes,
                artifact.weight_bytes,
                measurement,
                artifact.format,
                planned.layers.of_row(keys[artifact.name]),
            )
        )
        done += 1
    return done, failed


def measure_loads(
    fleet: Fleet,
    artifacts: list[tuple[str, Artifact]],
    settings: Settings,
    planned: Plan,
    append: Callable[[LatencyRow], None],
    loads: int,
    quiet: bool,
) -> tuple[int, list[Failed]]:
    """Measure files as `measure_rows` does until each row is of so many loads; return how many, and what failed.

    All files take their turn before one is loaded again: a machine that others use is another one minutes later,
    and what is kept are the samples of all loads. A file that fails is not tried again.
    """
    joined = {key: row for key, row in planned.there.items() if key in planned.fewer}
    left = {key: loads - (joined[key].measurement.loads if key in joined else 0) for key, _ in artifacts}

    def join(row: LatencyRow) -> None:
        before = joined.get(row.key)
        if before is not None:
            row = msgspec.structs.replace(row, measurement=before.measurement.with_load(row.measurement))
        joined[row.key] = row
        append(row)

    done, failed = 0, list["Failed"]()
    for turn in range(loads):
        lost = {one.artifact.name for one in failed}
        now = [(key, one) for key, one in artifacts if left[key] > turn and one.name not in lost]
        if loads > 1 and now:
            report.note(f"Turn {turn + 1} of {loads}: {len(now)} file{'s' if len(now) > 1 else ''}.", quiet)
        count, mine = measure_rows(fleet, now, settings, planned, join, quiet)
        done, failed = done + count, failed + mine
        # Later turns are scaled to the state in which the rows of the earlier ones were measured.
        kept = {key: row for key, row in planned.there.items() if key not in planned.redone}
        planned = dataclasses.replace(planned, there=kept | joined, redone=frozenset())
    return done, failed
