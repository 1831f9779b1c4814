"""Small search spaces, measurements and tables for tests; every number comes from a seed or an argument."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from qaedge.candidate import BlockSpec, Candidate, LayerSpec, QuantScheme
from qaedge.measurement import Measurement
from qaedge.regression.result import Result
from qaedge.space import Block, SearchSpace
from qaedge.tables import LatencyRow, LatencyTable, LossRow, LossTable, anchor_key


def make_space(blocks: int = 3, candidates: int = 4, teacher: str = "ab" * 32) -> SearchSpace:
    made = []
    for number in range(blocks):
        shape = (8 * (number + 1), 12, 16)
        specs = [BlockSpec((LayerSpec("own", digest=f"{number:012x}"),))]
        specs += [BlockSpec((LayerSpec("ir", kernel=3, expansion=e, channels=8),)) for e in range(1, candidates)]
        made.append(Block(f"stage{number}", shape, shape, tuple(Candidate(s, QuantScheme(8, 8), shape) for s in specs)))
    return SearchSpace("small", teacher, tuple(made))


def make_measurement(seconds: float = 0.01, **changed: Any) -> Measurement:
    fields: dict[str, Any] = {
        "sha256": "0" * 64,
        "device": "local",
        "runtime": "onnxruntime",
        "runtime_version": "1.22.0",
        "threads": 1,
        "rounds": ((seconds, seconds * 1.01, seconds * 0.99),) * 3,
        "repeats": 1,
        "warmup_s": (seconds,) * 3,
        "load_s": 0.02,
        "first_run_s": seconds * 2,
        "overhead_s": 1e-5,
        "peak_memory_bytes": None,
        "started_at": "2025-01-01T00:00:00Z",
        "settings": {"round_s": 0.05},
        "fingerprint": {"kernel": "6.1", "governor": "performance"},
        "conditions": {"before": {"load": 0.1}, "after": {"load": 0.2}},
    }
    return Measurement(**{**fields, **changed})


def make_result(values_s: Sequence[float] = (0.01,) * 10, model: str = "net", **changed: Any) -> Result:
    fields: dict[str, Any] = {
        "model": model,
        "device": "local",
        "runtime": "onnxruntime",
        "runtime_version": "1.31.0",
        "threads": 1,
        "sha256": "0" * 64,
        "size_bytes": 1000,
        "samples": 10 * len(values_s),
        "rounds_ns": tuple(round(value * 1e9) for value in values_s),
    }
    fields |= changed
    lasting = {key: fields[key] for key in ("device", "runtime", "runtime_version", "threads")}
    fields["fingerprint"] = {**lasting, "kernel": "6.1", "boot_id": "b", **changed.get("fingerprint", {})}
    return Result(**fields)


def make_loss_row(block: str, candidate: Candidate, loss: float) -> LossRow:
    return LossRow(block, str(candidate.spec), str(candidate.scheme), loss / 2, loss, 10, 1.0, 0.9, "", "teacher", {})


def make_tables(
    space: SearchSpace, seed: int = 0, device: str = "local", anchor_s: float = 0.05
) -> tuple[LossTable, LatencyTable]:
    draw = random.Random(seed)
    losses, latencies = (
        [],
        [LatencyRow(anchor_key(space, "w8a8"), "u8u8", 200_000, 190_000, make_measurement(anchor_s))],
    )
    for block in space.blocks:
        for number, candidate in enumerate(block.candidates):
            losses.append(make_loss_row(block.name, candidate, 0.001 if number == 0 else draw.uniform(0.01, 0.3)))
            seconds = 0.02 if number == 0 else draw.uniform(0.002, 0.02)
            size = 60_000 if number == 0 else draw.randrange(5_000, 60_000)
            latencies.append(LatencyRow(candidate.key, "u8u8", size, size - 100, make_measurement(seconds)))
    return LossTable(losses), LatencyTable(device, latencies)
