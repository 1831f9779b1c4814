"""The picture of a history: latency over commits, the reference model beside it, and the steps that stay."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from qaedge.errors import MissingExtra
from qaedge.files import write_atomic
from qaedge.regression.history import Series

_COLORS = {"model": "#d1372e", "board": "#8a8a8a", "runtime": "#c78a00"}


def history_plot(path: Path, series: Sequence[Series]) -> None:
    """Draw a history as PNG, a panel for each series; raise MissingExtra where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("nn", "matplotlib") from None

    figure = Figure(figsize=(9, 3.2 * max(1, len(series))), dpi=130, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for number, one in enumerate(series, 1):
        axes = figure.add_subplot(max(1, len(series)), 1, number)
        places = range(len(one.points))
        axes.plot(places, [p.median_ns * 1e-6 for p in one.points], "o-", color="#2f6db5", ms=4, lw=1, label=one.model)
        bounds = [0, *(jump.at for jump in one.jumps), len(one.points)]
        levels = [*(jump.before_s for jump in one.jumps), *(jump.after_s for jump in one.jumps[-1:])]
        for start, end, level in zip(bounds, bounds[1:], levels, strict=False):
            axes.hlines(1e3 * level, start - 0.4, end - 0.6, color="#1a1a1a", lw=1.5)
        for jump in one.jumps:
            text = f"{100 * (jump.ratio - 1):+.1f} % at {jump.commit[:10]}: the {jump.whose}"
            axes.axvline(jump.at - 0.5, color=_COLORS[jump.whose], ls="--", lw=1.4, label=text)
        references = [p.reference_ns for p in one.points if p.reference_ns]
        if references and len(references) == len(one.points):
            scale = one.points[0].median_ns / references[0]
            axes.plot(
                places,
                [r * scale * 1e-6 for r in references],
                ".-",
                color="#b5b5b5",
                ms=3,
                lw=0.8,
                zorder=0,
                label="reference model, scaled",
            )
        every = max(1, len(one.points) // 12)
        axes.set_xticks(list(places)[::every], [p.commit[:7] or str(n) for n, p in enumerate(one.points)][::every])
        axes.set_ylabel("latency [ms]")
        axes.set_title(f"{one.model} on {one.device}, {one.runtime}", fontsize=11)
        axes.grid(color="#e4e4e4", zorder=0)
        axes.legend(fontsize=8, framealpha=0.9)
    picture = io.BytesIO()
    canvas.print_figure(picture, format="png")
    write_atomic(path, picture.getvalue())
