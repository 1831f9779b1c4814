"""Small spaces whose candidates have activations of 8 and 16 bits, with their tables, for tests."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from synthetic import make_loss_row, make_measurement

from qaedge.borders import borders
from qaedge.candidate import BlockSpec, Candidate, LayerSpec, QuantScheme
from qaedge.network_key import network_key
from qaedge.probes import origin_network
from qaedge.space import Block, SearchSpace
from qaedge.tables import LatencyRow, LatencyTable, LossTable, anchor_key


def widths_space(schemes: Sequence[Sequence[str]], specs: int = 2) -> SearchSpace:
    """A block for each list of schemes: the teacher's own and others, each in every scheme of the list."""
    made = []
    for number, texts in enumerate(schemes):
        given, wanted = ((8 * (n + 1), 12, 16) for n in (number, number + 1))
        each = [BlockSpec((LayerSpec("own", digest=f"{number:012x}"),))]
        each += [BlockSpec((LayerSpec("ir", kernel=3, expansion=e, channels=wanted[0]),)) for e in range(1, specs)]
        found = [Candidate(s, QuantScheme.parse(t), given) for s, t in itertools.product(each, texts)]
        made.append(Block(f"stage{number}", given, wanted, tuple(found)))
    return SearchSpace("widths", "ab" * 32, tuple(made))


def networks_of(space: SearchSpace) -> list[tuple[Candidate, ...]]:
    """Every network of a space."""
    return list(itertools.product(*(block.candidates for block in space.blocks)))


def row_of(key: str, seconds: float, size: int = 100, overhead_s: float = 0.0) -> LatencyRow:
    return LatencyRow(key, "u8u8", size, size, make_measurement(seconds, overhead_s=overhead_s))


def widths_tables(
    space: SearchSpace, seed: int = 0, device: str = "local", whole: int = 0, border_s: float = 0.004
) -> tuple[LossTable, LatencyTable]:
    """Tables of random numbers; `whole` networks are measured, too, and take about what is predicted of them."""
    draw = random.Random(seed)
    losses = [
        make_loss_row(block.name, candidate, draw.uniform(0.01, 0.3))
        for block in space.blocks
        for candidate in block.candidates
    ]
    rows = [row_of(anchor_key(space, str(c.scheme)), 0.06, 4_000_000) for c in space.unique()]
    if origin := origin_network(space):
        rows.append(row_of(origin[0], draw.uniform(0.05, 0.08), 4_000_000))
    rows += [row_of(c.key, draw.uniform(0.002, 0.02), draw.randrange(10_000, 1_000_000)) for c in space.unique()]
    # Some take less than a call: within a network they take nothing.
    rows += [row_of(key, draw.uniform(0.0001, border_s), overhead_s=0.0005) for key in borders(space)]
    table = LatencyTable(device, rows)
    for _ in range(whole):
        places = [draw.randrange(len(block.candidates)) for block in space.blocks]
        network = [block.candidates[at] for block, at in zip(space.blocks, places, strict=True)]
        if network[0].scheme.is_float or not any(places):
            continue
        seconds = table.predict_latency(space, network)[0] * draw.uniform(0.97, 1.03)
        rows.append(row_of(network_key(space, places), seconds))
    return LossTable(losses), LatencyTable(device, rows)
