"""Networks of candidates drawn at random: which they are, what they do, and what an interrupted run leaves."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import msgspec
import pytest
import safetensors.torch
import torch
from tiny_scenes import SPACE, space_of, write_project

from qaedge import cli
from qaedge.candidate import BlockSpec
from qaedge.errors import DataError, InvalidFile
from qaedge.influence import Influence, influence_rows, singles
from qaedge.interplay import LEAST, Singles, fit_interplay, interplay_rows
from qaedge.nn.divergence import Divergence
from qaedge.nn.interplay import IMAGES, TIMES, drawn, measure_interplay, missing_interplay
from qaedge.nn.library import distilling, load_candidate, weights_path
from qaedge.nn.student import open_splits
from qaedge.nn.teacher import load_teacher, with_blocks
from qaedge.project import Workspace
from qaedge.space import SearchSpace
from qaedge.tables import LossTable

pytestmark = pytest.mark.slow

WIDER = SPACE.replace("expansions = [2, 6]", "kernels = [3, 5]\nexpansions = [1, 2, 3, 4, 6]")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = write_project(tmp_path_factory.mktemp("interplay"), steps=2, space=WIDER)
    assert cli.run(["distill", "--quiet", "--project", str(workspace.path("qaedge.toml"))]) == 0
    return workspace


def alone(made: Workspace, space: SearchSpace) -> Singles:
    loss_file = made.loss_file(space.origin)
    found = singles(influence_rows(loss_file).rows(), space, LossTable(LossTable.store(loss_file).rows()))
    assert found is not None
    return found


def test_candidates_are_drawn_alike_and_never_the_teacher(made):
    space = space_of(made)
    known = alone(made, space)
    networks = drawn(space, known)
    assert networks == drawn(space, known), "the same each time"
    assert len({tuple(network.values()) for network in networks}) == len(networks)
    assert not any(all(BlockSpec.parse(spec).is_own for spec in network.values()) for network in networks)
    many = {b.name: {f"{b.name}_{n}": (0.1, 1.0) for n in range(30 - at)} for at, b in enumerate(space.blocks)}
    networks = drawn(space, many)
    assert len(networks) > 0.9 * 30 * TIMES
    for block in space.blocks:
        times = Counter(network[block.name] for network in networks)
        assert set(times) == set(many[block.name]) and max(times.values()) - min(times.values()) <= TIMES // 2


def test_a_row_says_what_its_network_does(made):
    space, teacher = space_of(made), load_teacher(made)
    rows = list(interplay_rows(made.loss_file(space.origin)).rows())
    assert len(rows) >= LEAST and not missing_interplay(made, space)
    train = open_splits(made)[0]
    row = rows[-1]
    blocks = {name: load_candidate(made, space, teacher, name, BlockSpec.parse(s)) for name, s in row.specs.items()}
    network = with_blocks(teacher, blocks).eval()
    images = [train.preprocess(train.image(i)[None]) for i in range(len(train))]  # of these few, all are taken
    with torch.no_grad():
        pairs = [(teacher.module.eval()(x).log_softmax(1), network(x).log_softmax(1)) for x in images]
    each = [float((p.exp() * (p - q)).sum(1).mean()) for p, q in pairs]
    groups = [tuple(each[at : at + IMAGES]) for at in range(0, len(each) - IMAGES + 1, IMAGES)]
    assert any(row.divergences == pytest.approx(group, rel=1e-3, abs=1e-6) for group in groups)
    assert {len(row.divergences) for row in rows} == {IMAGES} and len({row.group for row in rows}) == len(groups)


def test_what_was_interrupted_goes_on_and_the_fit_is_there(made, capsys):
    space = space_of(made)
    store = interplay_rows(made.loss_file(space.origin))
    before = list(store.rows())
    lines = store.path.read_text().splitlines()
    store.path.write_text("\n".join(lines[:-3]) + "\n")
    assert len(missing_interplay(made, space)) == 3
    assert cli.run(["distill", "--json", "--quiet", "--project", str(made.path("qaedge.toml"))]) == 0
    told = json.loads(capsys.readouterr().out)["interplay"]
    assert sorted(map(str, store.rows())) == sorted(map(str, before)), "only what was missing is done again"
    fitted = fit_interplay(store.rows(), alone(made, space))
    assert fitted is not None and LEAST <= told["networks"] == fitted.networks <= len(before)
    read = Influence.read(made.loss_file(space.origin), space)
    assert read is not None and (read.interplay == fitted) == fitted.is_better


def test_two_do_not_put_the_same_networks_together(made, capsys):
    with distilling(made.loss_file(space_of(made).origin)):
        assert cli.run(["distill", "--quiet", "--project", str(made.path("qaedge.toml"))]) == 1
    assert "is distilling in" in capsys.readouterr().err


def test_a_space_that_changes_keeps_its_rows(made):
    space = space_of(made)
    known = alone(made, space)
    name, spec = next((b.name, b.candidates[-1].spec) for b in space.blocks if len(known[b.name]) > 3)
    smaller = SearchSpace(
        space.name,
        space.teacher,
        tuple(
            msgspec.structs.replace(b, candidates=tuple(c for c in b.candidates if (b.name, c.spec) != (name, spec)))
            for b in space.blocks
        ),
        *(getattr(space, field) for field in space.__struct_fields__[3:]),
    )
    assert smaller.hash != space.hash and smaller.origin == space.origin
    rows = list(interplay_rows(made.loss_file(space.origin)).rows())
    lost = [row for row in rows if row.specs[name] == str(spec)]
    missing = missing_interplay(made, smaller)
    assert lost and len(missing) <= len(lost) * len(space.blocks) < len(rows)
    assert all(specs[name] != str(spec) for _, specs in missing), "what cannot be chosen is not run"


def test_one_network_that_puts_out_nan_is_left_out(made, monkeypatch):
    space, teacher = space_of(made), load_teacher(made)
    store = interplay_rows(made.loss_file(space.origin))
    kept = store.path.read_bytes()
    of, turns = Divergence.of, iter(range(10**6))

    def once(self, network, named, only):
        if next(turns) == 0:
            raise DataError(f"{named} puts out NaN.", "")
        return of(self, network, named, only)

    monkeypatch.setattr(Divergence, "of", once)
    try:
        store.path.unlink()
        steps = list(measure_interplay(made, teacher, space, open_splits(made)[0]))
        assert [bool(step.warning) for step in steps] == [True] + [False] * (len(steps) - 1)
        assert "stage3 " in steps[0].warning and "left out" in steps[0].warning
        assert len(missing_interplay(made, space)) <= 1
    finally:
        store.path.write_bytes(kept)


def test_damaged_weights_are_named(made):
    space, teacher = space_of(made), load_teacher(made)
    store = interplay_rows(made.loss_file(space.origin))
    kept = store.path.read_bytes()
    name, spec = next((b.name, c.spec) for b in space.blocks for c in b.candidates if not c.spec.is_own)
    path: Path = weights_path(made, space, name, spec)
    whole = path.read_bytes()
    try:
        store.path.unlink()
        weights = safetensors.torch.load(whole)
        for value in weights.values():
            if value.is_floating_point():
                value.fill_(torch.nan)
        path.write_bytes(safetensors.torch.save(weights))
        with pytest.raises(InvalidFile, match=path.name):
            list(measure_interplay(made, teacher, space, open_splits(made)[0]))
    finally:
        path.write_bytes(whole)
        store.path.write_bytes(kept)
