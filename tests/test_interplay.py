"""How harms of blocks add up, fitted to networks whose divergence is made from known weights."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import make_space

from qaedge import interplay
from qaedge.errors import InvalidFile
from qaedge.files import write_json
from qaedge.influence import Influence, InfluenceRow, influence_rows, interplay_file, singles
from qaedge.interplay import LEAST, POWER, Interplay, InterplayRow, Singles, fit_interplay, typical
from qaedge.tables import LossRow, LossTable

SPACE = make_space(blocks=4, candidates=7)
BLOCKS = [block.name for block in SPACE.blocks]
WEIGHTS, POWERS = (0.5, 1.0, 2.0, 1.0), (0.5, 0.7, 0.5, 0.4)


def alone(seed: int = 0) -> dict[str, dict[str, tuple[float, float]]]:
    """Block loss and divergence of each candidate alone, from 0.001 to 1 nat; the teacher's own block, nothing."""
    random = np.random.default_rng(seed)
    return {
        block.name: {
            str(c.spec): (0.0, 0.0) if c.spec.is_own else (0.1, float(10 ** random.uniform(-3, 0)))
            for c in block.candidates
        }
        for block in SPACE.blocks
    }


def losses_of(known: Singles) -> LossTable:
    """A loss table with these block losses in float."""
    rows = [
        LossRow(block, spec, "w8a8", loss, loss, 1, 1.0, 1.0, "w.safetensors", "fresh", {})
        for block, of in known.items()
        for spec, (loss, _) in of.items()
    ]
    return LossTable(rows)


def networks(known: Singles, count: int, noise: float = 0.0, seed: int = 1) -> list[InterplayRow]:
    """Random networks, whose divergence follows WEIGHTS and POWERS; one group of images is twice as hard."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        specs = {block: str(random.choice(sorted(known[block]))) for block in BLOCKS}
        sums = sum(w * known[b][specs[b]][1] ** p for b, w, p in zip(BLOCKS, WEIGHTS, POWERS, strict=True))
        level = (1 + number % 2) * float(np.exp(random.normal(0, noise)))
        losses = {block: known[block][spec][0] for block, spec in specs.items()}
        rows.append(InterplayRow(specs, losses, f"group{number % 2}", (level * (sums + 1e-3) ** 1.5,)))
    return rows


def test_weights_and_powers_come_back():
    known = alone()
    rows = networks(known, 200)
    found = fit_interplay(rows, known)
    assert found is not None and found.networks == len({tuple(row.specs.values()) for row in rows})
    assert found.is_better and found.tau > 0.97 > found.plain_tau
    ratios = [found.weights[block] / found.weights[BLOCKS[0]] for block in BLOCKS[1:]]
    assert ratios == pytest.approx([2, 4, 2], rel=0.2)
    assert [found.powers[block] for block in BLOCKS] == pytest.approx(POWERS, abs=0.1)


def test_divergences_that_end_hide_no_candidate(monkeypatch):
    known = alone()
    rows = [
        msgspec.structs.replace(row, divergences=(row.divergence / (1 + 2 * row.divergence),))
        for row in networks(known, 250, noise=0.02)
    ]
    found = fit_interplay(rows, known)
    for name, value in (("SATURATION", -50.0), ("SATURATES", 1e-6)):  # as if they had no end
        monkeypatch.setattr(interplay, name, value)
    without = fit_interplay(rows, known)
    assert found is not None and without is not None
    assert found.tau > without.tau + 0.02


def test_a_candidate_that_suffers_in_company_counts_for_more():
    known = alone()
    sick = sorted(known["stage2"])[2]
    rows = [
        InterplayRow(r.specs, r.losses, r.group, (r.divergence * (3 if r.specs["stage2"] == sick else 1),))
        for r in networks(known, 250, noise=0.05)
    ]
    found = fit_interplay(rows, known)
    assert found is not None
    factors = found.factors["stage2"]
    others = [factor for spec, factor in factors.items() if spec != sick]
    assert factors[sick] > 1.05 * max(others)


@settings(max_examples=60, deadline=None)
@given(
    divergences=st.lists(st.floats(0, 5), min_size=1, max_size=6),
    levels=st.lists(st.floats(0.1, 10), min_size=6, max_size=6),
)
def test_images_that_are_hard_for_all_networks_change_no_order(divergences, levels):
    found = typical(divergences)
    assert found == 0 or min(divergences) * (1 - 1e-9) <= found <= max(divergences) * (1 + 1e-9)
    assert (found == 0) == (max(divergences) <= 1e-6), "rounding is not told from nothing"
    better = [0.5 * each for each in divergences]
    harder = [level * each for level, each in zip(levels, divergences, strict=False)]
    assert typical(better) <= found
    assert typical([0.5 * each for each in harder]) <= typical(harder) * (1 + 1e-9)


def test_one_image_on_which_all_goes_badly_does_not_decide():
    plain = [0.02, 0.02, 3.0], [0.06, 0.06, 2.95]  # sums say the first is worse; it is better on two of three
    assert sum(plain[0]) > sum(plain[1]) * 0.98 and typical(plain[0]) < typical(plain[1])


@pytest.mark.parametrize("divergences", [(), (-0.1, 0.2), (float("inf"),), (float("nan"), 0.1)])
def test_rows_that_no_network_can_make_are_refused(divergences):
    row = networks(alone(), 1)[0]
    with pytest.raises(ValueError, match="divergences"):
        InterplayRow(row.specs, row.losses, row.group, divergences)
    with pytest.raises(ValueError, match="divergences"):
        InfluenceRow("stage0", "spec", 0.1, divergences)


def test_copies_of_the_teacher_tell_nothing():
    known = alone()
    rows = networks(known, 100)
    copies = [msgspec.structs.replace(row, divergences=(7e-8, 1e-9)) for row in networks(known, 10, seed=2)]
    assert fit_interplay([*rows, *copies], known) == fit_interplay(rows, known)


def test_few_networks_and_unknown_candidates_tell_nothing():
    known = alone()
    rows = networks(known, LEAST)
    assert fit_interplay(rows, known) is not None
    assert fit_interplay(rows[1:], known) is None
    assert fit_interplay([*rows[1:], rows[1]], known) is None, "one that is there twice is one"
    for changed in (
        {"specs": {**rows[0].specs, "stage0": "unknown"}},
        {"losses": {**rows[0].losses, "stage0": 0.07}},  # trained anew since
        {"specs": {"stage0": rows[0].specs["stage0"]}, "losses": {"stage0": 0.1}},  # of another teacher's blocks
        {"specs": {}, "losses": {}},
    ):
        strange = msgspec.structs.replace(rows[0], **changed)
        assert fit_interplay([strange, *rows[1:]], known) is None


def test_what_follows_the_roots_already_is_left_at_them():
    known = alone()
    random = np.random.default_rng(5)
    rows = [InterplayRow(r.specs, r.losses, r.group, (float(random.uniform(0.1, 1)),)) for r in networks(known, 60)]
    found = fit_interplay(rows, known)  # nothing but noise
    assert found is not None and abs(found.tau) < 0.3
    rows_alone = [
        InfluenceRow(block, spec, loss, (divergence,))
        for block, of in known.items()
        for spec, (loss, divergence) in of.items()
    ]
    worse = Interplay(60, 0.5, 0.6, found.powers, found.weights, found.factors)
    used = Influence.of(rows_alone, SPACE, worse)
    assert used is not None and used.interplay is None


@settings(max_examples=60, deadline=None)
@given(
    divergences=st.lists(st.floats(0, 5), min_size=1, max_size=8),
    power=st.floats(0.1, 2),
    weight=st.floats(0.01, 10),
    factor=st.floats(0.01, 10),
)
def test_more_harm_never_counts_for_less(divergences, power, weight, factor):
    interplay = Interplay(99, 0.9, 0.8, {"stage0": power}, {"stage0": weight}, {"stage0": {"drawn": factor}})
    ordered = np.sort(np.array(divergences))
    for spec, times in (("drawn", factor), ("new", weight)):
        found = interplay.scores("stage0", [spec] * len(ordered), ordered)
        assert (np.diff(found) >= 0).all() and found == pytest.approx(times * ordered**power)
    assert interplay.scores("other", ["new"], np.array([0.25])) == pytest.approx([0.25**POWER])


def test_search_takes_the_fit_from_beside_the_loss_table(tmp_path):
    loss_file, known = tmp_path / "loss.jsonl", alone()
    store = influence_rows(loss_file)
    for block, of in known.items():
        for spec, (loss, divergence) in of.items():
            if divergence:
                store.append(InfluenceRow(block, spec, loss, (divergence,)))
    told = singles(store.rows(), SPACE, losses_of(known))
    assert told is not None and told.keys() == known.keys()
    for block, of in known.items():
        assert told[block] == {spec: pytest.approx(pair) for spec, pair in of.items()}
    (block, spec), *_ = [(b, s) for b, of in known.items() for s, (_, divergence) in of.items() if divergence]
    anew = singles(store.rows(), SPACE, losses_of({**known, block: {**known[block], spec: (0.2, 0.0)}}))
    assert anew is not None and spec not in anew[block], "trained anew, and not put in its place since"
    assert singles([], SPACE, losses_of(known)) is None
    roots = Influence.read(loss_file, SPACE)
    assert roots is not None and roots.interplay is None
    fitted = fit_interplay(networks(known, 100), known)
    write_json(interplay_file(loss_file), fitted)
    read = Influence.read(loss_file, SPACE)
    assert read is not None and read.interplay == fitted is not None
    spec = next(spec for spec, (_, divergence) in known["stage2"].items() if divergence)
    given_losses = (np.array([0.1]), np.array([0.1]))
    assert read.scores("stage2", [spec], *given_losses)[0] == pytest.approx(
        fitted.factors["stage2"][spec] * known["stage2"][spec][1] ** fitted.powers["stage2"]
    )
    negative = msgspec.structs.replace(fitted)
    negative.powers["stage2"] = -1.0
    for text in ('{"networks": "many"}', msgspec.json.encode(negative).decode()):
        interplay_file(loss_file).write_text(text)
        with pytest.raises(InvalidFile, match=r"interplay_by_image\.json"):
            Influence.read(loss_file, SPACE)
