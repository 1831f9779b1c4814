"""What a block's loss does to the whole network: `QAEDGE_DATA=... python benchmarks/camvid/sensitivity.py`.

After run.py. Each block of the teacher is replaced, alone, by candidates of growing block loss, and
the Kullback-Leibler divergence of the network's classes from the teacher's is taken over training
images, in float. Writes sensitivity.json beside itself.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import torch

from qaedge.files import write_json
from qaedge.nn.divergence import Divergence
from qaedge.nn.library import load_candidate
from qaedge.nn.student import open_splits
from qaedge.nn.teacher import load_teacher, with_blocks
from qaedge.project import Workspace
from qaedge.space import SearchSpace
from qaedge.tables import LossTable

HERE = Path(__file__).resolve().parent
IMAGES, PER_BLOCK = 16, 5


def main() -> None:
    """Replace, measure, fit a power law, write."""
    workspace = Workspace.open(HERE / "qaedge.toml")
    teacher = load_teacher(workspace)
    space = SearchSpace.load(workspace.space_json)
    table = LossTable(LossTable.store(workspace.loss_file(space.origin)).rows())
    train, _ = open_splits(workspace)
    divergence = Divergence(teacher, train, IMAGES)
    rows = []
    for block in space.blocks:
        losses = sorted(
            ((table.row(block.name, c).float_loss, c) for c in block.candidates[1:] if "_k5" not in str(c.spec)),
            key=lambda pair: pair[0],
        )
        useful = [pair for pair in losses if 0.002 < pair[0] < 0.3]
        picked = [useful[int(i)] for i in np.unique(np.linspace(0, len(useful) - 1, PER_BLOCK).astype(int))]
        for loss, candidate in picked:
            module = load_candidate(workspace, space, teacher, block.name, candidate.spec)
            found = divergence.of(with_blocks(teacher, {block.name: module}).eval(), str(candidate.spec))
            rows.append({"block": block.name, "spec": str(candidate.spec), "block_loss": loss, "divergence": found})
            print(f"{block.name:8} block loss {loss:.4f} divergence {found:.5f}", flush=True)
    powers = {}
    for block in space.blocks:
        mine = [r for r in rows if r["block"] == block.name]
        x, y = (np.log([r[key] for r in mine]) for key in ("block_loss", "divergence"))
        powers[block.name] = float(np.polyfit(x, y, 1)[0])
    median = float(np.median(list(powers.values())))
    print(f"divergence grows with the block loss to the power {median:.2f} (median over blocks)")
    write_json(
        HERE / "sensitivity.json",
        {
            "rows": rows,
            "power": powers,
            "median_power": median,
            "images": divergence.images,
            "torch": str(torch.__version__),
            "date": datetime.date.today().isoformat(),
        },
    )


if __name__ == "__main__":
    main()
