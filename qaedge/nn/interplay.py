"""Networks of candidates drawn for all blocks at once: what they do to the teacher's classes together."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping

from torch import nn

from qaedge.candidate import BlockSpec
from qaedge.influence import influence_rows, singles
from qaedge.interplay import InterplayRow, interplay_rows
from qaedge.nn.data import Split
from qaedge.nn.divergence import Divergence
from qaedge.nn.library import load_candidate
from qaedge.nn.paths import put
from qaedge.nn.teacher import Teacher
from qaedge.progress import Step
from qaedge.project import Workspace
from qaedge.space import SearchSpace

#: How often each candidate of the block with the most of them is drawn.
TIMES = 8
#: Groups of images, and how many are in each. Networks teach more than images do: of as many passes, more networks
#: on few images each rank others better (`docs/decisions/0026-harm-in-company.md`), if not all on the same ones.
GROUPS, IMAGES = 8, 4


def drawn(space: SearchSpace, known: Mapping[str, Mapping[str, float]]) -> list[dict[str, str]]:
    """Return, for each network, the candidate of each block; the same each time, no two alike, and no teacher.

    Of every block each candidate is drawn as often as the others, or once more; which ones meet is random.

    Args:
        space: the blocks.
        known: of each block, the candidates to draw from, and their block losses in float.
    """
    draw = random.Random(f"{space.hash} interplay")
    count = TIMES * max((len(known[block.name]) for block in space.blocks), default=0)
    columns: dict[str, list[str]] = {}
    for block in space.blocks:
        options = sorted(known[block.name])
        column: list[str] = []
        while len(column) < count:
            column += draw.sample(options, len(options))
        columns[block.name] = column[:count]
    networks = [{name: column[at] for name, column in columns.items()} for at in range(count)]
    found = {tuple(network.values()): network for network in networks}
    own = tuple(str(block.candidates[0].spec) for block in space.blocks)
    return [network for specs, network in found.items() if specs != own]


def missing_interplay(workspace: Workspace, space: SearchSpace) -> list[tuple[int, dict[str, str], dict[str, float]]]:
    """Return number, candidates and block losses of the networks that are drawn and lack a row.

    Drawn from those that were put in the teacher's place alone; a row counts while its candidates have those losses.
    """
    rows = list(influence_rows(workspace.loss_file(space.origin)).rows())
    alone = singles(rows, space)
    if not all(alone.values()):
        return []
    losses = {(row.block, row.spec): row.loss for row in rows}
    there = {
        (tuple(row.specs.items()), tuple(row.losses.values()))
        for row in interplay_rows(workspace.loss_file(space.origin)).rows()
    }
    missing = []
    for number, specs in enumerate(drawn(space, alone)):
        found = {block: losses.get((block, spec), 0.0) for block, spec in specs.items()}
        if (tuple(specs.items()), tuple(found.values())) not in there:
            missing.append((number, specs, found))
    return missing


def measure_interplay(workspace: Workspace, teacher: Teacher, space: SearchSpace, train: Split) -> Iterator[Step]:
    """Put candidates together, and append a row for each network; yield a Step for each, its `result` the row.

    Raises:
        DataError: images that cannot be read, or a network that puts out NaN.
        MissingFile: a candidate's weights are gone.
        DiskFull: no space for a row; those before are kept.
    """
    missing = missing_interplay(workspace, space)
    if not missing:
        return
    store = interplay_rows(workspace.loss_file(space.origin))
    divergence = Divergence(teacher, train, GROUPS * IMAGES)
    groups = max(1, divergence.images // IMAGES)
    network = copy.deepcopy(teacher.module).eval()
    modules: dict[tuple[str, str], nn.Module] = {}
    for done, (number, specs, losses) in enumerate(missing, start=1):
        for name, text in specs.items():
            if (name, text) not in modules:
                modules[name, text] = load_candidate(workspace, space, teacher, name, BlockSpec.parse(text))
            put(network, teacher.block(name).path, modules[name, text])
        group = number % groups
        part = slice(group * IMAGES, (group + 1) * IMAGES)
        named = " ".join(specs.values())
        row = InterplayRow(
            specs, losses, group, min(IMAGES, divergence.images), divergence.of(network, f"The network {named}", part)
        )
        store.append(row)
        yield Step(done, len(missing), f"network {number + 1}", row)
