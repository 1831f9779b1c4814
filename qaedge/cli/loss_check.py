"""How well sums of block losses rank whole networks: `qaedge table check --loss`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from qaedge import plots, report
from qaedge.cli.form import choose_for
from qaedge.cli.resolve import need_nn, resolve, saved_space
from qaedge.device import load_devices, with_runtime
from qaedge.errors import NotMeasured
from qaedge.influence import Influence
from qaedge.network_key import HELD_OUT, network_of, places_of
from qaedge.network_loss import network_losses
from qaedge.probes import held_out
from qaedge.project import Workspace
from qaedge.ranking import kendall_tau
from qaedge.tables import LossTable

if TYPE_CHECKING:
    from qaedge.candidate import Candidate
    from qaedge.space import SearchSpace

#: What search sums without influence, and the power that such sums may be raised to.
PLAIN, POWER = "loss", 1.5
#: What search sums with it, and what it would sum if no drawn networks had told how harms add up.
HARM, ROOTS = "harm", "harm, roots alone"


class Judged(msgspec.Struct, frozen=True):
    """A network that was assembled and not fine-tuned: what it does on validation images, and what sums say of it.

    `divergence` is of its classes from the teacher's [nat]; `sums` is by what is summed over its blocks.
    """

    network: str
    miou: float
    divergence: float
    sums: dict[str, float]


class Ranked(msgspec.Struct, frozen=True):
    """How well one sum ranks them: Kendall's tau with the divergence, and with what is lost of mIoU."""

    summed: str
    divergence: float | None
    miou: float | None


class LossChecked(msgspec.Struct, frozen=True):
    """How true a loss table is; the sum that `qaedge search` uses by itself comes first."""

    n: int
    images: int
    ranks: tuple[Ranked, ...]
    networks: tuple[Judged, ...]


def check_losses(
    workspace: Workspace,
    count: int,
    seed: int,
    images: int | None,
    anew: bool,
    plot: Path | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Judge random networks that were not judged before, and show how well sums of block losses rank all of them."""
    space = saved_space(workspace)
    path = workspace.loss_file(space.origin).with_name("networks.jsonl")
    store = network_losses(path)
    rows = {row.key: row for row in store.rows() if network_of(space, row.key, HELD_OUT) is not None}
    wanted = dict(itertools.islice(held_out(space, seed), count))
    missing = {key: network for key, network in wanted.items() if anew or key not in rows}
    if missing:
        need_nn()
        from qaedge.nn.judge import judge
        from qaedge.nn.student import open_splits

        teacher, space = resolve(workspace)
        choose = choose_for(with_runtime(load_devices(device)[0], "onnx"), workspace)
        steps = judge(workspace, teacher, space, missing, open_splits(workspace), choose, images)
        for step in report.progress(steps, "judging networks", quiet):
            store.append(step.result)
            rows[step.result.key] = step.result
    if not rows:
        raise NotMeasured("No network of this space was judged.", "Run: qaedge table check --loss --networks 30")
    sums = _Sums(workspace, space)
    judged = []
    for row in rows.values():
        network = network_of(space, row.key, HELD_OUT)
        assert network is not None
        name = "-".join(map(str, places_of(space, network)))
        judged.append(Judged(name, row.miou, row.divergence, sums.of(network)))
    checked = rank(judged, min(row.images for row in rows.values()))
    first = checked.ranks[0].summed
    if plot is not None:
        plots.ranking_plot(
            plot,
            [(each.sums[first], each.divergence) for each in checked.networks],
            title=f"{space.name}: {checked.n} networks, assembled and not fine-tuned",
            scored=f"summed {first} of the blocks",
            wanted="divergence of the classes from the teacher's [nat]",
        )
    if as_json:
        report.json_out(checked)
        return
    report.table(
        ("summed over blocks", ">networks", ">tau with divergence", ">tau with mIoU lost"),
        [(each.summed, checked.n, _tau(each.divergence), _tau(each.miou)) for each in checked.ranks],
    )
    if plot is not None:
        report.line(f"wrote {plot}")


def rank(judged: list[Judged], images: int) -> LossChecked:
    """Return how well each sum ranks networks."""
    ranks = [
        Ranked(
            name,
            kendall_tau([each.sums[name] for each in judged], [each.divergence for each in judged]),
            kendall_tau([each.sums[name] for each in judged], [-each.miou for each in judged]),
        )
        for name in judged[0].sums
    ]
    return LossChecked(len(judged), images, tuple(ranks), tuple(judged))


class _Sums:
    """What may be summed over the blocks of a network; what search sums by itself comes first."""

    def __init__(self, workspace: Workspace, space: SearchSpace) -> None:
        self._space = space
        self._losses = LossTable(LossTable.store(workspace.loss_file(space.origin)).rows())
        self._influence = Influence.read(workspace.loss_file(space.origin), space)

    def of(self, network: tuple[Candidate, ...]) -> dict[str, float]:
        import numpy as np

        pairs = list(zip(self._space.blocks, network, strict=True))
        rows = [self._losses.row(block.name, candidate) for block, candidate in pairs]
        found: dict[str, float] = {}
        if self._influence is not None:
            given = [(r.block, [r.spec], np.array([r.float_loss]), np.array([r.loss])) for r in rows]
            found[HARM] = sum(float(self._influence.scores(*each)[0]) for each in given)
            if self._influence.interplay is not None:
                roots = msgspec.structs.replace(self._influence, interplay=None)
                found[ROOTS] = sum(float(roots.scores(*each)[0]) for each in given)
        found[PLAIN] = sum(row.loss for row in rows)
        found[f"{PLAIN}^{POWER:g}"] = sum(row.loss**POWER for row in rows)
        return found


def _tau(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
