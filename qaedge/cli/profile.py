"""`qaedge profile`: every candidate, and the whole teacher, measured on a device: the latency table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from qaedge import report
from qaedge.artifact import Artifact
from qaedge.cli import options
from qaedge.cli.resolve import need_nn, resolve
from qaedge.device import Device, choose_form, load_device
from qaedge.errors import MeasurementError
from qaedge.fingerprint import FACTS, differences, fingerprint_of
from qaedge.project import Workspace
from qaedge.space import Block, SearchSpace
from qaedge.tables import LatencyRow, LatencyTable, anchor_key
from qaedge.units import format_seconds, parse_seconds

if TYPE_CHECKING:
    from qaedge.fingerprint import Difference
    from qaedge.hil.profile import AgentSession, Failed
    from qaedge.nn.teacher import Teacher

EXAMPLES = ("qaedge profile --device local", "qaedge profile --unstable --json")


class BlockRow(msgspec.Struct, frozen=True):
    """A block as it was measured; latencies [s] are None where no row is there."""

    block: str
    candidates: int
    measured: int
    fastest_s: float | None
    own_s: float | None
    slowest_s: float | None
    unstable: int


class Summary(msgspec.Struct, frozen=True):
    """What one run of the command did, and what the table holds then."""

    device: str
    forms: dict[str, str]
    kept: int
    measured: int
    failed: tuple[str, ...]
    teacher_s: float | None
    blocks: tuple[BlockRow, ...]


def run(
    unstable: Annotated[bool, typer.Option("--unstable", help="Measure again, too, what is marked unstable.")] = False,
    device: options.Device = None,
    wait: options.Wait = "0s",
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure every candidate of the space, and the whole teacher, on a device.

    Each row is on disk as soon as it is measured, and a second run measures what is missing, or was
    measured in another state of the device: after a reboot, that is all. Needs the extra `nn`.
    """
    wait_s = parse_seconds(wait)
    workspace = Workspace.open(project)
    need_nn()
    from qaedge.hil.profile import open_session

    described = load_device(device or workspace.project.device)
    teacher, space = resolve(workspace)
    store = LatencyTable.store(workspace.latency_file(described.name))
    table = LatencyTable(described.name, store.rows())
    with open_session(described, wait_s=wait_s) as session:
        forms = _forms(described, space, session)
        for bits, (form, reason) in forms.items():
            report.note(f"{bits}-bit weights are stored as {form}: {reason}.", quiet)
        wanted = _wanted(space, forms)
        there = {key: table.rows[key] for key in wanted if key in table.rows}
        other = {key: _changes(row, session, described) for key, row in there.items()}
        # Which cores it is kept on shows only in rows: there, the newest of those that hold decides.
        other |= table.mixed(key for key, changes in other.items() if not changes)
        redone = {
            key
            for key, row in there.items()
            if other[key] or row.form != wanted[key] or (unstable and "unstable" in row.measurement.doubts)
        }
        missing = wanted.keys() - there.keys() | redone
        kept = len(wanted) - len(missing)
        if kept:
            report.note(f"{kept} of {len(wanted)} rows are kept, {len(missing)} to measure.", quiet)
        fields = {change.field: change for changes in other.values() for change in changes}
        if fields:
            count = sum(map(bool, other.values()))
            report.note(
                f"{count} of {len(wanted)} rows are of another state of {described.name} and are measured again: "
                f"{'; '.join(map(str, fields.values()))}.",
                quiet,
            )
        artifacts = _export(workspace, teacher, space, forms, missing, quiet)
        measured, failed = _measure(session, artifacts, described, store.append, quiet)
    table = LatencyTable(described.name, store.rows())
    summary = summarize(space, table, {str(b): form for b, (form, _) in forms.items()}, kept, measured, failed)
    if as_json:
        report.json_out(summary)
    else:
        _show(summary)
    if failed:
        candidates = "candidate was" if len(wanted) == 1 else "candidates were"
        raise MeasurementError(
            f"{len(failed)} of {len(wanted)} {candidates} not measured.",
            "\n".join(f"{f.artifact.name}: {f.error.message}" for f in failed)
            + "\nThe others are in the table, and search leaves these out, or warns where it has older rows of them.",
        )


def summarize(
    space: SearchSpace,
    table: LatencyTable,
    forms: dict[str, str],
    kept: int,
    measured: int,
    failed: Iterable[Failed],
) -> Summary:
    """Count and compare what the table holds of each block."""
    anchor = table.rows.get(anchor_key(space, str(space.blocks[0].candidates[0].scheme)))
    return Summary(
        device=table.device,
        forms=forms,
        kept=kept,
        measured=measured,
        failed=tuple(failure.artifact.name for failure in failed),
        teacher_s=anchor.measurement.median_s if anchor else None,
        blocks=tuple(_block_row(block, table) for block in space.blocks),
    )


def _forms(device: Device, space: SearchSpace, session: AgentSession) -> dict[int, tuple[str, str]]:
    """Return form and reason for each number of weight bits in the space."""
    hello = session.hello
    bits = sorted({c.scheme.weight_bits for c in space.unique() if not c.scheme.is_float})
    return {n: choose_form(device, n, frozenset(hello.cpu_flags), hello.arch) for n in bits}


def _wanted(space: SearchSpace, forms: dict[int, tuple[str, str]]) -> dict[str, str]:
    """Return the form of each key that the table should have: every candidate, and the teacher in each scheme."""
    named = {candidate.key: candidate.scheme for candidate in space.unique()}
    named |= {anchor_key(space, str(scheme)): scheme for scheme in list(named.values())}
    return {key: "float" if s.is_float else forms[s.weight_bits][0] for key, s in named.items()}


def _changes(row: LatencyRow, session: AgentSession, device: Device) -> tuple[Difference, ...]:
    """What differs between the device as a row was measured, and as it is now (R15)."""
    hello = session.hello
    now = {
        **{name: getattr(hello, name) for name in FACTS},
        "runtime_version": hello.runtimes.get(row.measurement.runtime),
        "threads": device.threads,
        "pin": device.pin,
    }
    return differences(fingerprint_of(row.measurement), now, now.keys())


def _export(
    workspace: Workspace,
    teacher: Teacher,
    space: SearchSpace,
    forms: dict[int, tuple[str, str]],
    missing: set[str],
    quiet: bool,
) -> list[tuple[str, Artifact]]:
    from qaedge.nn.candidates import export_candidates

    if not missing:
        return []
    steps = export_candidates(workspace, teacher, space, lambda bits: forms[bits], missing)
    return [step.result for step in report.progress(steps, "exporting", quiet)]


def _measure(
    session: AgentSession,
    artifacts: list[tuple[str, Artifact]],
    device: Device,
    append: Callable[[LatencyRow], None],
    quiet: bool,
) -> tuple[int, list[Failed]]:
    """Measure, and append each row as it comes; return how many, and what failed."""
    from qaedge.hil.profile import Failed, Settings, measure

    keys = {artifact.name: key for key, artifact in artifacts}
    failed, done = [], 0
    if not artifacts:
        return 0, []
    steps = measure(session, [artifact for _, artifact in artifacts], Settings(), device.threads)
    for step in report.progress(steps, f"measuring on {device.name}", quiet):
        if isinstance(step.result, Failed):
            failed.append(step.result)
            continue
        artifact, measurement = step.result.artifact, step.result.measurement
        append(LatencyRow(keys[artifact.name], artifact.form, artifact.size_bytes, artifact.weight_bytes, measurement))
        done += 1
    return done, failed


def _block_row(block: Block, table: LatencyTable) -> BlockRow:
    rows = [table.rows[c.key].measurement for c in block.candidates if c.key in table.rows]
    times = [row.median_s for row in rows]
    own = table.rows.get(block.candidates[0].key)
    return BlockRow(
        block=block.name,
        candidates=len(block.candidates),
        measured=len(rows),
        fastest_s=min(times, default=None),
        own_s=own.measurement.median_s if own else None,
        slowest_s=max(times, default=None),
        unstable=sum("unstable" in row.doubts for row in rows),
    )


def _show(summary: Summary) -> None:
    def time(value: float | None) -> str | None:
        return None if value is None else format_seconds(value)

    report.table(
        ("block", ">candidates", ">measured", ">fastest", ">teacher's own", ">slowest", ">unstable"),
        [
            (b.block, b.candidates, b.measured, time(b.fastest_s), time(b.own_s), time(b.slowest_s), b.unstable)
            for b in summary.blocks
        ],
    )
    if summary.teacher_s is not None:
        report.line(f"the whole teacher on {summary.device}: {format_seconds(summary.teacher_s)}")
