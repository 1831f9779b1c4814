"""A project's space and tables on disk, as profiling and distilling leave them, with random figures."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from qaedge.candidate import BlockSpec, Candidate, LayerSpec, QuantScheme
from qaedge.measurement import Measurement
from qaedge.space import Block, SearchSpace
from qaedge.tables import LatencyRow, LatencyTable, LossRow, LossTable, anchor_key


def write_files(folder: Path, blocks: int, candidates: int) -> None:
    """Write a space and its two tables, with 60 raw samples in each latency row."""
    draw = np.random.default_rng(1)
    made = []
    for number in range(blocks):
        shape = (8 * (number + 1), 45, 60)
        specs = [BlockSpec((LayerSpec("own", digest=f"{number:012x}"),))]
        specs += [
            BlockSpec((LayerSpec("ir", kernel=k, expansion=e, channels=32),) * depth)
            for depth, k, e in itertools.product(range(1, 6), (3, 5, 7), range(1, 15))
        ]
        chosen = tuple(Candidate(spec, QuantScheme(8, 8), shape) for spec in specs[:candidates])
        made.append(Block(f"block{number}", shape, shape, chosen))
    space = SearchSpace("bench", "0" * 64, tuple(made))
    space.save(folder / "space.json")
    latencies = [LatencyRow(anchor_key(space, "w8a8"), "u8u8", 2_500_000, 2_400_000, measure(0.1, draw))]
    losses = []
    for block in space.blocks:
        for number, candidate in enumerate(block.candidates):
            work = 1.0 if number == 0 else float(draw.uniform(0.1, 1.0))
            seconds, size = 0.015 * work * float(np.exp(draw.normal(0, 0.1))), round(4e5 * work)
            latencies.append(LatencyRow(candidate.key, "u8u8", size, size, measure(seconds, draw)))
            loss = 0.001 if number == 0 else 0.02 / work * float(np.exp(draw.normal(0, 0.3)))
            losses.append(
                LossRow(
                    block.name, str(candidate.spec), str(candidate.scheme), loss, loss, 120, 3.0, 2.5, "", "teacher", {}
                )
            )
    append_all(LossTable.store(folder / "loss.jsonl"), losses)
    append_all(LatencyTable.store(folder / "latency.jsonl"), latencies)


def append_all(store: Any, rows: list[Any]) -> None:
    """Append rows one by one, as the work that makes them does."""
    for made in rows:
        store.append(made)


def measure(seconds: float, draw: np.random.Generator) -> Measurement:
    """Return a measurement of five rounds of twelve samples."""
    samples = seconds * np.exp(draw.normal(0, 0.01, (5, 12)))
    return Measurement(
        sha256="0" * 64,
        device="bench",
        runtime="onnxruntime",
        runtime_version="0",
        threads=1,
        rounds=tuple(tuple(r) for r in samples.tolist()),
        repeats=1,
        warmup_s=(seconds,) * 8,
        load_s=0.01,
        first_run_s=seconds * 2,
        overhead_s=1e-5,
        peak_memory_bytes=10_000_000,
        started_at="2025-01-01T00:00:00Z",
        settings={"round_samples": 10, "round_s": 0.05, "rounds": 9},
        fingerprint={"kernel": "0", "governor": "performance", "cpu": "synthetic"},
        conditions={"before": {"load": 0.1}, "after": {"load": 0.1}},
    )
