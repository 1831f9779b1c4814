"""`qaedge space check`: whether every kind of candidate runs on a device, found out before any training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from qaedge import report
from qaedge.borders import borders
from qaedge.candidate import Candidate
from qaedge.cli import options
from qaedge.cli.form import choose_for
from qaedge.cli.resolve import device_of, need_nn, note_fake, resolve
from qaedge.device import Device, with_runtime
from qaedge.errors import (
    CandidateCrashed,
    CandidateFailed,
    CandidateTimeout,
    InvalidFile,
    MeasurementError,
    UnsupportedOperator,
)
from qaedge.progress import Step
from qaedge.project import Workspace
from qaedge.runtime import RUNTIMES
from qaedge.space import SearchSpace
from qaedge.tables import anchor_key

if TYPE_CHECKING:
    from qaedge.hil.agent import AgentSession
    from qaedge.nn.teacher import Teacher

EXAMPLES = ("qaedge space check --device pi4", "qaedge space check --device local --runtime both --json")


#: How a border is named, before its numbers of bits.
_CHANGE = "the change of activations from"


class Row(msgspec.Struct, frozen=True):
    """A kind of candidate of a block on a runtime, or the whole teacher; `problem` is empty where it runs there.

    `candidates` counts those of the block that have the same layers, whatever their widths. The teacher is none, nor is
    a change of activation width between two blocks: their rows have no block, and count 0.
    """

    block: str
    candidate: str
    candidates: int
    runtime: str
    problem: str


def run(
    device: options.Device = None,
    runtime: options.Runtime = "",
    wait: options.Wait = "0s",
    project: options.Project = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Export one candidate of each kind, and the teacher, and run it once on a device.

    Of candidates that differ in widths alone, one is tried. What a runtime cannot run is named with the
    candidate and the operator: before hours of distillation, not after. Exit status 1 where anything is.
    Without --runtime, every runtime of the device is asked. Needs the extra `nn`.
    """
    need_nn()
    from qaedge.hil.profile import open_session
    from qaedge.units import parse_seconds

    wait_s = parse_seconds(wait)
    described = with_runtime(device_of(device, project), runtime)
    note_fake([described], quiet)
    workspace = Workspace.open(project)
    teacher, space = resolve(workspace, untrained=True)
    rows: list[Row] = []
    with open_session(described, wait_s=wait_s) as session:
        names = [name for name in described.runtimes if name in session.hello.runtimes]
        for name in described.runtimes:
            if name not in names:
                why = session.hello.runtime_failures.get(name, "it is not there")
                if runtime:
                    advice = RUNTIMES[name].advice.format(python=session.hello.executable)
                    raise MeasurementError(f"{described.name} has no {name}: {why}.", advice)
                report.warn(f"{described.name} has no {name}: {why}. Nothing is tried on it.")
        steps = _try(workspace, teacher, space, described, session, names)
        for step in report.progress(steps, f"trying on {described.name}", quiet):
            rows.append(step.result)
    if as_json:
        report.json_out(rows)
    else:
        _show(rows, described)
    bad = [row for row in rows if row.problem]
    if bad:
        runtimes = dict.fromkeys(row.runtime for row in bad)
        told = "; ".join(f"{name} does not run {_failing([r for r in rows if r.runtime == name])}" for name in runtimes)
        raise UnsupportedOperator(
            f"On {described.name}, {told}.",
            "Take them out of the space file, or measure with another runtime: --runtime.",
        )


def kinds(space: SearchSpace) -> list[tuple[str, Candidate, int]]:
    """Return one candidate of each kind with its block, and how many candidates it stands for.

    Candidates are of one kind where they stand in the same block and their layers differ in nothing but
    channels and expansion; the one with the least text stands for them.
    """
    groups: dict[object, list[Candidate]] = {}
    for block in space.blocks:
        for candidate in block.candidates:
            layers = tuple(
                (layer.kind, layer.kernel, layer.stride, layer.expansion > 1, layer.dilation)
                for layer in candidate.spec.layers
            )
            shape = tuple(dict.fromkeys(layers))  # depth is more of the same
            groups.setdefault((block.name, shape, candidate.scheme), []).append(candidate)
    found = []
    for key, group in groups.items():
        assert isinstance(key, tuple)
        found.append((str(key[0]), min(group, key=lambda c: len(str(c.spec))), len(group)))
    return found


def _try(
    workspace: Workspace,
    teacher: Teacher,
    space: SearchSpace,
    device: Device,
    session: AgentSession,
    runtimes: list[str],
) -> Iterator[Step]:
    chosen = kinds(space)
    wanted = [
        (anchor_key(space, scheme), "", f"the whole teacher ({scheme})", 0)
        for scheme in dict.fromkeys(str(c.scheme) for c in space.unique())
    ]
    wanted += [(c.key, block, f"{c.spec} ({c.scheme})", count) for block, c, count in chosen]
    # One for each pair of widths: shapes make no difference to what runs.
    changes = {(found.before, found.after): key for key, found in borders(space).items()}
    wanted += [(key, "", f"{_CHANGE} {before} to {after} bits", 0) for (before, after), key in changes.items()]
    done, total = 0, len(wanted) * len(runtimes)
    for runtime in runtimes:
        problems: dict[str, str] = {}  # blocks that take the same images may share a candidate: it is tried once
        for key, block, text, count in wanted:
            if key not in problems:
                problems[key] = _problem(workspace, teacher, space, device, session, runtime, key)
            done += 1
            yield Step(done, total, text, Row(block, text, count, runtime, problems[key]))


def _problem(
    workspace: Workspace,
    teacher: Teacher,
    space: SearchSpace,
    device: Device,
    session: AgentSession,
    runtime: str,
    key: str,
) -> str:
    """Export and run one candidate; return what went wrong, or nothing. Raises where the device is gone."""
    from qaedge.hil.outputs import outputs_on
    from qaedge.nn.candidates import export_candidates
    from qaedge.nn.sessions import load_file

    (file_format,) = RUNTIMES[runtime].formats
    try:
        steps = export_candidates(workspace, teacher, space, choose_for(device, workspace), {key}, file_format)
        for step in steps:
            _, artifact = step.result
            here = load_file(Path(artifact.path))
            outputs_on(session, artifact, {here.name: here.zeros()}, runtime)
    except (UnsupportedOperator, InvalidFile, CandidateFailed, CandidateCrashed, CandidateTimeout) as error:
        return error.message
    return ""


def _show(rows: list[Row], device: Device) -> None:
    bad = [row for row in rows if row.problem]
    if bad:
        report.table(
            ("block", "candidate", ">stands for", "runtime", "problem"),
            [(row.block or None, row.candidate, row.candidates or None, row.runtime, row.problem) for row in bad],
        )
        return
    for runtime in dict.fromkeys(row.runtime for row in rows):
        mine = [row for row in rows if row.runtime == runtime]
        kinds_of = [row for row in mine if row.block]
        changes = ", and each change of activations" if any(row.candidate.startswith(_CHANGE) for row in mine) else ""
        report.line(
            f"{runtime} on {device.name} runs all {len(kinds_of)} kinds of candidates "
            f"({sum(row.candidates for row in kinds_of)} candidates), and the whole teacher{changes}"
        )


def _failing(rows: list[Row]) -> str:
    """Say which of a runtime's rows it does not run."""
    kinds_of = [row for row in rows if row.block]
    bad = [row for row in kinds_of if row.problem]
    told = []
    if bad:
        counts = (sum(row.candidates for row in some) for some in (bad, kinds_of))
        told.append(f"{len(bad)} of {len(kinds_of)} kinds of candidates ({' of '.join(map(str, counts))} candidates)")
    told += [row.candidate for row in rows if row.problem and not row.block]
    return ", ".join(told)
