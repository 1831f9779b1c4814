"""Replacing one block of the teacher at a time: what its loss does to the whole network."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from qaedge.candidate import BlockSpec
from qaedge.influence import InfluenceRow, influence_rows
from qaedge.nn.data import Split
from qaedge.nn.divergence import Divergence
from qaedge.nn.layout import lay_out
from qaedge.nn.library import load_candidate
from qaedge.nn.teacher import Teacher, with_blocks
from qaedge.progress import Step
from qaedge.project import Workspace
from qaedge.space import SearchSpace
from qaedge.tables import LossTable

#: Images that the divergence is taken over, and the most candidates of a block that are put in its place.
IMAGES, CANDIDATES = 16, 64


def missing_influence(workspace: Workspace, space: SearchSpace) -> list[tuple[str, BlockSpec, float]]:
    """Return block, candidate and block loss in float of what is to be put in a block's place and was not yet.

    Of each block at most CANDIDATES, spread over its losses; a row counts while its candidate has that loss still.
    """
    table = LossTable(LossTable.store(workspace.loss_file(space.origin)).rows())
    there = {(row.block, row.spec, row.loss) for row in influence_rows(workspace.loss_file(space.origin)).rows()}
    missing = []
    for block in space.blocks:
        losses = {
            candidate.spec: table.row(block.name, candidate).float_loss
            for candidate in block.candidates
            if not candidate.spec.is_own and table.has(block.name, candidate)
        }
        ordered = sorted(((spec, loss) for spec, loss in losses.items() if loss > 0), key=lambda pair: pair[1])
        if sum((block.name, str(spec), loss) in there for spec, loss in ordered) >= min(CANDIDATES, len(ordered)):
            continue
        for place in np.unique(np.linspace(0, len(ordered) - 1, CANDIDATES).astype(int)).tolist() if ordered else ():
            spec, loss = ordered[place]
            if (block.name, str(spec), loss) not in there:
                missing.append((block.name, spec, loss))
    return missing


def measure_influence(workspace: Workspace, teacher: Teacher, space: SearchSpace, train: Split) -> Iterator[Step]:
    """Replace, and append a row for each candidate; yield a Step for each, its `result` the row.

    Raises:
        DataError: images that cannot be read, or a network that puts out NaN.
        MissingFile: a candidate's weights are gone.
        DiskFull: no space for a row; those before are kept.
    """
    missing = missing_influence(workspace, space)
    if not missing:
        return
    store = influence_rows(workspace.loss_file(space.origin))
    divergence = Divergence(teacher, train, IMAGES)
    for done, (block, spec, loss) in enumerate(missing, start=1):
        module = load_candidate(workspace, space, teacher, block, spec)
        network = with_blocks(teacher, {block: module}).eval()
        lay_out(network, torch.channels_last)
        found = divergence.of(network, f"The teacher with {spec} as its {block}")
        row = InfluenceRow(block, str(spec), loss, found)
        store.append(row)
        yield Step(done, len(missing), f"{block} {spec}", row)
