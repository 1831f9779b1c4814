"""Fits of whole networks against their blocks, held against fitting them anew."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qaedge.fit import ENOUGH, _models, _solve, fit

TEACHER_S = 10e-3


def drawn(seed, count=20, blocks=5):
    random = np.random.default_rng(seed)
    return random.uniform(-0.8e-3, 0.8e-3, (count, blocks)), random


def fitted(x, y, **others):
    return fit({"median": x.tolist(), "p25": x.tolist(), "min": x.tolist(), **others}, y.tolist(), TEACHER_S)


def predicted(found, x):
    return found.offset_s + x @ np.array(found.slopes)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_error_left_out_is_that_of_fitting_without_the_network(seed):
    x, random = drawn(seed)
    y = 0.9 * x.sum(1) + 0.1e-3 + random.normal(0, 5e-5, len(x))
    weights = 1 / (TEACHER_S + y)
    for _, features, penalties in _models(x, weights):
        _, residuals = _solve(features, y - x.sum(1), weights, penalties)
        for left_out in range(0, len(x), 5):
            others = np.arange(len(x)) != left_out
            a, b = (weights[:, None] * features)[others], (weights * (y - x.sum(1)))[others]
            params = np.linalg.pinv(a.T @ a + np.diag(penalties)) @ (a.T @ b)
            wanted = weights[left_out] * ((y - x.sum(1))[left_out] - features[left_out] @ params)
            assert residuals[left_out] == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("count", [ENOUGH - 1, 20])
def test_what_is_known_to_be_no_blocks_is_taken_out_first(count):
    x, random = drawn(2, count)
    beside = random.uniform(-1e-3, 4e-3, count)
    y = 0.8 * x.sum(1)
    found = fit({name: x.tolist() for name in ("median", "p25", "min")}, (y + beside).tolist(), TEACHER_S, beside)
    assert found.slopes == pytest.approx((0.8,) * 5, rel=3e-3) and found.relative_error < 1e-3
    assert fitted(x, y + beside).relative_error > 0.05


def test_a_few_networks_tell_one_slope():
    x, _ = drawn(0, ENOUGH - 1)
    found = fitted(x, 0.8 * x.sum(1) + 0.3e-3)
    assert found.model == "slope" and found.offset_s == 0 and found.left_out is None
    assert found.networks == ENOUGH - 1 and found.relative_error > 0
    exact = fitted(x, 0.8 * x.sum(1))
    assert exact.slopes == pytest.approx((0.8,) * 5) and exact.relative_error == pytest.approx(0, abs=1e-12)


def test_no_network_is_no_fit():
    assert fitted(np.zeros((3, 5)), np.zeros(3)).slopes == (1.0,) * 5


@pytest.mark.parametrize(
    ("model", "slopes", "offset"),
    [
        ("sum", [1, 1, 1, 1, 1], 0.0),
        ("slope", [0.8] * 5, 0.0),
        ("affine", [0.8] * 5, 0.5e-3),
        ("blocks", [0.6, 1.4, 0.9, 1.1, 0.8], 0.0),
    ],
)
def test_the_model_is_the_one_that_made_the_networks(model, slopes, offset):
    x, random = drawn(1, 40)
    y = x @ np.array(slopes) + offset + random.normal(0, 2e-6, len(x))
    found = fitted(x, y)
    assert found.model == model
    unseen, _ = drawn(2, 40)
    off = predicted(found, unseen) - (unseen @ np.array(slopes) + offset)
    assert np.abs(off).max() / TEACHER_S < 0.01
    assert found.left_out is not None and found.left_out < 0.01


def test_the_statistic_is_the_one_that_predicts():
    x, random = drawn(3, 24)
    noisy = x + np.abs(random.normal(0, 4e-4, x.shape))
    found = fitted(noisy, x.sum(1), p25=(x + 1e-5).tolist(), min=x.tolist())
    assert found.statistic in ("p25", "min"), "the medians are spoiled"
    assert fitted(x, x.sum(1)).statistic == "median", "of equals the first"


def test_more_is_fitted_only_where_it_predicts_better():
    wins = 0
    for seed in range(20):
        x, random = drawn(seed, 16)
        wins += fitted(x, x.sum(1) + random.normal(0, 1e-4, len(x))).model == "sum"
    assert wins >= 12


def test_a_slope_that_no_machine_has_is_not_followed():
    x, _ = drawn(4, 20)
    found = fitted(x, 9 * x.sum(1))
    assert max(found.slopes) <= 2 and found.relative_error > 0.1
