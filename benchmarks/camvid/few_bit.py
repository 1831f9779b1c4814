"""What few bits cost on CamVid's blocks, and what each step of quantization wins back.

Run after run.py, whose distilled candidates it reads: `QAEDGE_DATA=... python benchmarks/camvid/few_bit.py`. For the
teacher's own blocks and two candidates of each: the block loss with weights of 8, 4 and 2 bits everywhere, rounded to
the nearest and with steps of `qaedge.nn.recipe` on top, whether they help or not; and for the own blocks the
mixed schemes of the families, by the recipe that distill uses. Losses are on the images that score candidates, and
no step has seen those. Interrupted, it goes on where it was; writes few_bit.json beside itself.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import msgspec

from qaedge.candidate import FAMILY, QuantScheme
from qaedge.files import write_json
from qaedge.nn.data import open_split
from qaedge.nn.distill import Sample, score
from qaedge.nn.features import Features, compute_features, features_folder
from qaedge.nn.library import load_candidate
from qaedge.nn.precision import weighted
from qaedge.nn.recipe import NEAREST, STEPS, Bench, State, quantize
from qaedge.nn.teacher import load_teacher
from qaedge.nn.tracing import trace
from qaedge.project import Workspace
from qaedge.space import SearchSpace
from qaedge.units import parse_bytes

HERE = Path(__file__).resolve().parent
ROWS = HERE / "work" / "few_bit.jsonl"
#: Steps after rounding to the nearest, each list one column of the table.
COLUMNS: tuple[tuple[str, ...], ...] = (
    (),
    ("ranges",),
    ("ranges", "equalize"),
    ("ranges", "biases"),
    ("ranges", "rounding"),
    ("ranges", "equalize", "rounding"),
    ("ranges", "rounding", "reconstruct"),
)
BITS = (8, 4, 2)
MIXED = tuple(text.format(bits) for bits in (4, 2) for text in FAMILY)


class Row(msgspec.Struct, frozen=True):
    """A candidate in a scheme: columns of steps -> block loss and seconds; `recipe` where one was chosen."""

    block: str
    spec: str
    scheme: str
    float_loss: float
    losses: dict[str, float]
    seconds: dict[str, float]
    mean_bits: float
    recipe: str = ""


def main() -> None:
    """Fill the rows that are missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="end after about so long; the next call goes on")
    minutes = parser.parse_args().minutes
    ends = time.monotonic() + 60 * minutes
    done = {(row.block, row.spec, row.scheme, bool(row.recipe)): row for row in _rows()}
    for row in _missing(done.keys()) if minutes else ():  # 0: only write the table of what is there
        with ROWS.open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")
        print(row.block, row.spec, row.scheme, {k: round(v, 5) for k, v in row.losses.items()}, flush=True)
        if time.monotonic() > ends:
            break
    rows = list(_rows())
    write_json(
        HERE / "few_bit.json",
        {
            "command": "python benchmarks/camvid/few_bit.py",
            "date": str(datetime.datetime.now(datetime.timezone.utc).date()),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared: seconds tell little",
            "versions": {"python": platform.python_version(), "torch": version("torch")},
            "means_of_own_blocks": _means(rows),
            "rows": rows,
        },
    )


def _rows() -> Iterator[Row]:
    if ROWS.exists():
        for line in ROWS.read_bytes().splitlines():
            yield msgspec.json.decode(line, type=Row)


def _means(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Scheme -> column -> the mean of the block losses over the own blocks, where all have one."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row.spec.startswith("own"):
            for column, loss in row.losses.items():
                found.setdefault(row.scheme, {}).setdefault("recipe" if row.recipe else column, []).append(loss)
    blocks = len({row.block for row in rows})
    return {
        scheme: {name: sum(losses) / blocks for name, losses in columns.items() if len(losses) == blocks}
        for scheme, columns in found.items()
    }


def _missing(done: object) -> Iterator[Row]:
    workspace = Workspace.open(HERE / "qaedge.toml")
    teacher, space = load_teacher(workspace), SearchSpace.load(workspace.space_json)
    config, data = workspace.project.distill, workspace.project.data
    split = open_split(data, workspace.path(data.path), "train")
    bound = parse_bytes(config.cache)
    folder = features_folder(workspace.cache, teacher, data, split.names, bound)
    list(compute_features(folder, teacher, split, bound))
    features = Features(folder)
    blocks = {
        block.name: (block, Sample.of(features, block.name, teacher.block(block.name).module)) for block in space.blocks
    }
    for place in range(3):  # the own blocks first
        for name, (block, sample) in blocks.items():
            specs = list(dict.fromkeys(candidate.spec for candidate in block.candidates))
            spec = specs[0] if place == 0 else specs[place * len(specs) // 3]
            wanted = [(f"w{bits}a8", False) for bits in BITS] + [(text, True) for text in MIXED if place == 0]
            wanted = [w for w in wanted if (name, str(spec), *w) not in done]  # type: ignore[operator]
            if not wanted:
                continue
            graph = trace(load_candidate(workspace, space, teacher, name, spec), block.input_shape)
            bench = Bench(graph, sample, config.calibration_images)
            float_loss = score(graph, sample)
            for text, by_recipe in wanted:
                scheme = QuantScheme.parse(text)
                sizes = [graph.values[node.weight].numel() for node in weighted(graph)]
                if by_recipe:
                    begun = time.perf_counter()
                    found = quantize(bench, scheme, workspace.project.quantize)
                    losses, seconds = {found.recipe: found.loss}, {found.recipe: time.perf_counter() - begun}
                    bits, recipe = found.layer_bits, found.recipe
                else:
                    losses, seconds = _columns(bench, scheme, workspace)
                    bits, recipe = (scheme.weight_bits,) * len(sizes), ""
                mean = sum(b * n for b, n in zip(bits, sizes, strict=True)) / sum(sizes)
                yield Row(name, str(spec), text, float_loss, losses, seconds, mean, recipe)


def _columns(bench: Bench, scheme: QuantScheme, workspace: Workspace) -> tuple[dict[str, float], dict[str, float]]:
    losses, seconds = {}, {}
    states: dict[tuple[str, ...], State] = {(): State(bench.nearest(scheme), bench.graph)}
    for steps in COLUMNS:
        begun = time.perf_counter()
        if steps:
            states[steps] = STEPS[steps[-1]](bench, states[steps[:-1]], workspace.project.quantize)
        column = "+".join((NEAREST, *steps))
        losses[column] = score(states[steps].network.freeze(), bench.sample)
        seconds[column] = time.perf_counter() - begun  # of the last step, and of scoring
    return losses, seconds


if __name__ == "__main__":
    main()
