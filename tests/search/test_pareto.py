import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaedge.search.pareto import nondominated, staircase


def by_definition(points):
    """Every pair compared; of equal points the first stays."""
    kept = []
    for i, point in enumerate(points):
        no_worse = (points <= point).all(axis=1)
        equal = (points == point).all(axis=1)
        if not (no_worse & ~equal).any() and not equal[:i].any():
            kept.append(i)
    return kept


@st.composite
def clouds(draw, columns, most=60):
    rows = st.lists(st.integers(0, 7), min_size=columns, max_size=columns)
    made = draw(st.lists(rows, min_size=1, max_size=most))
    return np.array(made, dtype=float)


@given(st.integers(1, 5).flatmap(clouds))
def test_the_front_is_the_definitions(points):
    assert nondominated(points).tolist() == by_definition(points)


@pytest.mark.parametrize("columns", [2, 3])
def test_the_front_of_many_points_is_the_definitions(columns):
    points = np.random.default_rng(columns).random((3000, columns))
    points[1500:] = points[:1500]
    assert nondominated(points).tolist() == by_definition(points)


def test_no_points_have_no_front():
    for columns in range(1, 5):
        assert nondominated(np.empty((0, columns))).tolist() == []


@given(clouds(4))
def test_a_staircase_falls_and_breaks_ties_by_what_follows(points):
    chosen = staircase(points)
    assert (np.diff(points[chosen, 1]) > 0).all()
    assert (np.diff(points[chosen, 0]) < 0).all()
    for i in chosen:
        same = [j for j in range(len(points)) if (points[j, :2] == points[i, :2]).all()]
        assert i == min(same, key=lambda j: (*points[j, 2:], j))
    assert {tuple(p) for p in points[chosen, :2]} == {tuple(points[i, :2]) for i in by_definition(points[:, :2])}
