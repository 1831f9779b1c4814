"""Pictures: what is drawn, and what happens without the library that draws."""

import sys

import pytest
from PIL import Image

from qaedge import plots
from qaedge.errors import QaedgeError


def test_front_plot_without_matplotlib_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(QaedgeError, match="matplotlib") as caught:
        plots.front_plot(tmp_path / "front.png", [(0.01, 0.5)])
    assert "qaedge[nn]" in caught.value.hint


def test_pictures_are_written_whole(tmp_path):
    networks = [(0.01 * n, 0.0101 * n) for n in range(1, 8)]
    plots.predicted_plot(tmp_path / "predicted.png", networks, "a title")
    plots.ranking_plot(tmp_path / "ranked.png", networks, "a title", "summed", "divergence")
    for name in ("predicted.png", "ranked.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 500 and len(picture.convert("L").getcolors(256)) > 50


def test_one_network_alone_can_be_drawn(tmp_path):
    plots.predicted_plot(tmp_path / "one.png", [(0.01, 0.0101)], "one")
    assert (tmp_path / "one.png").stat().st_size > 1000
