"""Rows of a latency table, measured and kept as they come."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

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
