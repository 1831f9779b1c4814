"""A space of two blocks and its tables, small enough to know every network of it."""

from __future__ import annotations

from typing import Any

import msgspec

from qaedge.candidate import BlockSpec, Candidate, LayerSpec, QuantScheme
from qaedge.cli.resolve import Inputs
from qaedge.files import write_json
from qaedge.measurement import Measurement
from qaedge.project import Workspace
from qaedge.space import Block, SearchSpace
from qaedge.tables import LatencyRow, LatencyTable, LossRow, LossTable, anchor_key

SCHEME = QuantScheme(7, 8)
#: per block, per candidate: loss, milliseconds, bytes; candidate 0 is the teacher's own.
BLOCKS = {
    "one": ((0.01, 8, 4000), (0.10, 5, 3000), (0.40, 2, 1000)),
    "two": ((0.02, 6, 9000), (0.05, 5, 8000), (0.30, 1, 2000)),
}
TEACHER_MS, TEACHER_BYTES = 16, 20_000  # 2 ms and 7,000 bytes are outside the blocks


def measured(milliseconds: float) -> Measurement:
    return Measurement(
        sha256="0" * 64,
        device="local",
        runtime="onnxruntime",
        runtime_version="1",
        threads=1,
        rounds=((milliseconds / 1e3,) * 10,) * 3,
        repeats=1,
        warmup_s=(),
        load_s=0.01,
        first_run_s=0.02,
        overhead_s=0.0,
        peak_memory_bytes=None,
        started_at="2026-01-01T00:00:00Z",
        settings={},
        fingerprint={},
        conditions={},
    )


def write_tables(workspace: Workspace) -> SearchSpace:
    """Write the space, what it was made from, and both tables into a project."""
    blocks = []
    for number, (name, rows) in enumerate(BLOCKS.items()):
        shape = (8 + number, 16, 16)
        own = BlockSpec((LayerSpec("own", digest=f"{number:012x}"),))
        others = [BlockSpec((LayerSpec("ir", expansion=e, channels=9),)) for e in range(1, len(rows))]
        blocks.append(Block(name, shape, (9, 16, 16), tuple(Candidate(s, SCHEME, shape) for s in (own, *others))))
    space = SearchSpace("tiny", "t" * 64, tuple(blocks))
    space.save(workspace.space_json)
    write_json(workspace.space_json.with_name("space.inputs.json"), Inputs.of(workspace))
    write_json(workspace.activations_json, {})
    losses = LossTable.store(workspace.loss_file(space.origin))
    latencies = LatencyTable.store(workspace.latency_file("local"))
    latencies.append(LatencyRow(anchor_key(space, str(SCHEME)), "u8s8", TEACHER_BYTES, 0, measured(TEACHER_MS)))
    for block in space.blocks:
        for candidate, (loss, ms, size) in zip(block.candidates, BLOCKS[block.name], strict=True):
            losses.append(
                LossRow(block.name, str(candidate.spec), str(SCHEME), loss, loss, 1, 1.0, 1.0, "", "kept", {})
            )
            latencies.append(LatencyRow(candidate.key, "u8s8", size, 0, measured(ms)))
    return space


def write_state(workspace: Workspace, key: str, field: str, value: Any) -> None:
    """Append a row again, measured earlier and in another state of the device."""
    store = LatencyTable.store(workspace.latency_file("local"))
    row = LatencyTable("local", store.rows()).row(key)
    old: dict[str, Any] = {"started_at": "2025-12-31T00:00:00+00:00"}
    if field == "pin":
        old["settings"] = {**row.measurement.settings, "pin": value}
    elif field in row.measurement.__struct_fields__:
        old[field] = value
    else:
        old["fingerprint"] = {**row.measurement.fingerprint, field: value}
    measurement = msgspec.structs.replace(row.measurement, **old)
    store.append(msgspec.structs.replace(row, measurement=measurement))
