from __future__ import annotations

import numpy as np
import pytest

from qaedge.regression.changepoint import changes
from qaedge.regression.history import Point, series_of


def series(levels, draw, noise=0.01):
    return [value * float(np.exp(draw.normal(0, noise))) for value, count in levels for _ in range(count)]


def test_steps_that_stay_are_found_where_they_are():
    draw = np.random.default_rng(1)
    first, second = changes(series([(1.0, 15), (1.1, 12), (0.9, 20)], draw))
    assert (first.at, second.at) == (15, 27)
    assert first.ratio == pytest.approx(1.1, abs=0.02) and second.ratio == pytest.approx(0.9 / 1.1, abs=0.02)


def test_noise_and_single_outliers_have_no_steps():
    draw = np.random.default_rng(2)
    for _ in range(100):
        values = series([(1.0, 40)], draw, 0.03)
        values[20] *= 3
        assert changes(values, least=0.03) == ()
    assert changes([1.0] * 30) == () and changes([1.0, 2.0]) == () and changes([]) == ()


def points(medians, references, version=lambda n: "1.31.0"):
    return [
        Point(f"c{n}", "", "net", "pi4", "onnxruntime", version(n), round(m * 1e6), round(r * 1e6))
        for n, (m, r) in enumerate(zip(medians, references, strict=True))
    ]


def test_a_step_that_the_reference_model_shares_is_the_boards():
    draw = np.random.default_rng(3)
    medians = series([(10.0, 12), (12.0, 12), (13.5, 12)], draw, 0.005)
    references = series([(1.0, 12), (1.2, 24)], draw, 0.005)
    (found,) = series_of(points(medians, references))
    assert [(jump.commit, jump.whose) for jump in found.jumps] == [("c12", "board"), ("c24", "model")]


def test_a_step_where_the_runtime_changed_is_the_runtimes():
    draw = np.random.default_rng(4)
    medians, references = series([(10.0, 10), (11.4, 10)], draw, 0.005), series([(1.0, 20)], draw, 0.005)
    (found,) = series_of(points(medians, references, lambda n: "1.31.0" if n < 10 else "1.32.0"))
    (jump,) = found.jumps
    assert (jump.whose, jump.why) == ("runtime", "1.31.0 -> 1.32.0") and jump.ratio == pytest.approx(1.14, abs=0.01)
