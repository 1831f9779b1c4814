"""What makes harm rank networks: `QAEDGE_DATA=... python benchmarks/tables/harm.py [PROJECT]`.

After `qaedge distill` and `tables.py --parts loss`, on their rows: in seconds, and nothing is run again. The three
choices of `docs/decisions/0029-the-typical-image.md` are taken back one at a time, and all together. Writes harm.json
beside itself: `divergence` and `miou`, Kendall's tau with what the judged networks lose on validation images, which no
fit has seen; `fitted`, with the drawn networks that a fit had not seen, on training images, which compares only where
the mean of images and the networks are the same. `used`: whether search would use the fit, or roots alone.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import machine

from qaedge import interplay
from qaedge.files import write_json
from qaedge.influence import Influence, InfluenceRow, influence_rows, singles
from qaedge.interplay import InterplayRow, fit_interplay, interplay_rows
from qaedge.network_key import HELD_OUT, network_of
from qaedge.network_loss import network_losses
from qaedge.nn import interplay as drawing
from qaedge.project import Workspace
from qaedge.ranking import kendall_tau
from qaedge.space import SearchSpace
from qaedge.tables import LossTable

HERE = Path(__file__).resolve().parent
#: Name -> whether images are summed to a plain mean, whether divergences rise without end, and how often each candidate
#: is drawn.
VARIANTS = {
    "as it is": (False, False, drawing.TIMES),
    "plain mean of images": (True, False, drawing.TIMES),
    "no end of divergences": (False, True, drawing.TIMES),
    "half as many turns": (False, False, drawing.TIMES // 2),
    "all three": (True, True, drawing.TIMES // 2),
}
#: So little that divergences have no end.
NO_END = -50.0, 1e-6
Row = TypeVar("Row", InfluenceRow, InterplayRow)


def of_mean(rows: Sequence[Row]) -> list[Row]:
    """Return rows with the plain mean of their images as if it were one."""
    return [msgspec.structs.replace(row, divergences=(float(np.mean(row.divergences)),)) for row in rows]


def main() -> None:
    """Fit each variant, rank, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", nargs="?", type=Path, default=HERE.parent / "camvid" / "qaedge.toml")
    workspace = Workspace.open(parser.parse_args().project)
    space = SearchSpace.load(workspace.space_json)
    loss_file = workspace.loss_file(space.origin)
    losses = LossTable(LossTable.store(loss_file).rows())
    alone, together = list(influence_rows(loss_file).rows()), list(interplay_rows(loss_file).rows())
    judged = [
        (row, [(block.name, losses.row(block.name, c)) for block, c in zip(space.blocks, network, strict=True)])
        for row in network_losses(loss_file.with_name("networks.jsonl")).rows()
        if (network := network_of(space, row.key, HELD_OUT)) is not None
    ]
    found: dict[str, dict[str, object]] = {}
    saturation = interplay.SATURATION, interplay.SATURATES
    for name, (is_mean, is_endless, times) in VARIANTS.items():
        interplay.SATURATION, interplay.SATURATES = NO_END if is_endless else saturation
        rows_alone = of_mean(alone) if is_mean else alone
        known = singles(rows_alone, space, losses)
        assert known is not None, "distill has put candidates in their blocks' places"
        drawing.TIMES = times
        networks = drawing.drawn(space, known)
        rows_together = [row for row in (of_mean(together) if is_mean else together) if row.specs in networks]
        fitted = fit_interplay(rows_together, known)
        assert fitted is not None, "and networks together"
        influence = Influence.of(rows_alone, space, fitted)
        assert influence is not None
        sums = [
            sum(
                float(influence.scores(block, [r.spec], np.array([r.float_loss]), np.array([r.loss]))[0])
                for block, r in network
            )
            for _, network in judged
        ]
        found[name] = {
            "networks": fitted.networks,
            "used": fitted.is_better,
            "fitted": fitted.tau,
            "divergence": kendall_tau(sums, [row.divergence for row, _ in judged]),
            "miou": kendall_tau(sums, [-row.miou for row, _ in judged]),
        }
        print(name, found[name], flush=True)
    told = {"library": space.origin, "judged": len(judged), "machine": machine()}
    write_json(HERE / "harm.json", {**told, "date": datetime.date.today().isoformat(), "variants": found})


if __name__ == "__main__":
    main()
