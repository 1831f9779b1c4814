"""What a block's loss does to the network, from rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import make_space

from qaedge.influence import POWER, Influence, InfluenceRow

SPACE = make_space()


def rows_of(block, points):
    specs = [str(candidate.spec) for candidate in block.candidates[1:]]
    return [InfluenceRow(block.name, spec, loss, (found,)) for spec, (loss, found) in zip(specs, points, strict=False)]


def test_a_space_whose_blocks_have_no_row_has_none():
    assert Influence.of([], SPACE) is None
    assert Influence.of(rows_of(SPACE.blocks[0], [(0.1, 0.01)]), SPACE) is None
    every = [row for block in SPACE.blocks for row in rows_of(block, [(0.1, 0.01), (0.2, 0.03)])]
    assert Influence.of(every, SPACE) is not None


def test_a_candidate_does_what_it_did():
    block = SPACE.blocks[0]
    found = Influence.of([r for b in SPACE.blocks for r in rows_of(b, [(0.1, 0.02), (0.2, 0.01)])], SPACE)
    specs = [str(candidate.spec) for candidate in block.candidates[1:3]]
    same = found.divergences(block.name, specs, np.array([0.1, 0.2]), np.array([0.1, 0.2]))
    assert same == pytest.approx([0.02, 0.01]), "although the one of less loss does more harm"
    assert found.scores(block.name, specs[:1], np.array([0.1]), np.array([0.1]))[0] == pytest.approx(0.02**POWER)
    worse = found.divergences(block.name, specs, np.array([0.1, 0.2]), np.array([0.3, 0.4]))
    assert (worse > same).all(), "quantization adds what the block's curve says"
    trained_anew = found.divergences(block.name, specs[:1], np.array([0.05]), np.array([0.05]))
    assert trained_anew == pytest.approx([0.0075]), "another loss than it had then is on the curve"


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(st.tuples(st.floats(1e-4, 0.9), st.floats(1e-6, 3.0)), min_size=1, max_size=2),
    losses=st.lists(st.floats(0, 5), min_size=2, max_size=8),
)
def test_more_block_loss_never_does_less(points, losses):
    block = SPACE.blocks[0]
    found = Influence.of([r for b in SPACE.blocks for r in rows_of(b, points)], SPACE)
    ordered = np.sort(np.array(losses))
    unknown = found.divergences(block.name, ["own"] * len(ordered), ordered, ordered)
    assert (np.diff(unknown) >= -1e-12).all() and (unknown >= 0).all()
    spec, float_loss = str(block.candidates[1].spec), points[0][0]
    known = found.divergences(block.name, [spec] * len(ordered), np.full(len(ordered), float_loss), ordered)
    assert (np.diff(known) >= -1e-12).all() and (known >= 0).all()
