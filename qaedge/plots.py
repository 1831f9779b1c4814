"""Pictures as PNG: a front, predictions against measurements, block losses against what they do to networks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qaedge.errors import MissingExtra
from qaedge.files import write_atomic
from qaedge.metric import SIZE, format_cost, kind_of
from qaedge.report import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _GRAY, _RED = "#2f6db5", "#777777", "#d1372e"


def front_plot(
    path: Path,
    points: Sequence[tuple[float, float]],
    chosen: tuple[float, float] | None = None,
    teacher: tuple[float, float] | None = None,
    title: str = "Every network on the front",
    limit: float | None = None,
    summed: str = "block loss",
    metric: str = "latency",
) -> None:
    """Draw a front, what is summed of its blocks against latency or size, as PNG.

    Args:
        path: where the picture goes; written whole or not at all.
        points: (latency [s] or size [bytes], summed loss) of every network on the front.
        chosen: the point that was chosen; marked and labeled.
        teacher: the teacher itself in the same scheme; marked and labeled.
        title: what is shown, and where it was measured.
        limit: on latency [s] or size [bytes], a vertical line.
        summed: what the losses are sums of.
        metric: what the front is over.

    Raises:
        MissingExtra: matplotlib is not installed.
        DiskFull: there is no space for the picture.
    """
    figure, axes = _figure(8, 5)
    factor, unit = (1 / 1024, "KiB") if metric == SIZE else (1e3, "ms")
    ordered = sorted(points)
    axes.step(
        [factor * cost for cost, _ in ordered],
        [loss for _, loss in ordered],
        where="post",
        color="#9db4cf",
        linewidth=1.2,
        zorder=1,
    )
    axes.scatter(
        [factor * cost for cost, _ in ordered],
        [loss for _, loss in ordered],
        s=max(6, min(28, 4000 / max(1, len(ordered)))),
        color="#2f6db5",
        label=f"on the front: {len(ordered)} networks",
        zorder=2,
    )
    if limit is not None:
        label = f"limit: {format_cost(metric, limit)}"
        axes.axvline(factor * limit, color="#777777", linestyle="--", linewidth=1.2, label=label)
    for point, name, marker, color in ((teacher, "teacher", "s", "#444444"), (chosen, "chosen", "*", "#d1372e")):
        if point is not None:
            axes.scatter(
                [factor * point[0]],
                [point[1]],
                s=260 if marker == "*" else 70,
                marker=marker,
                color=color,
                edgecolors="white",
                linewidths=1.0,
                label=f"{name}: {format_cost(metric, point[0])}, {summed} {point[1]:.3g}",
                zorder=4,
            )
    _finish(axes, title, f"predicted {kind_of(metric)} [{unit}]", f"summed {summed} (0: a copy of the teacher)")
    _write(figure, path)


def predicted_plot(path: Path, networks: Sequence[tuple[float, float]], title: str) -> None:
    """Draw predicted against measured latency of whole networks, with the bands of 5 and 10 percent.

    Args:
        path: where the picture goes; written whole or not at all.
        networks: (measured [s], predicted [s]).
        title: what is shown, and where it was measured.

    Raises:
        MissingExtra: matplotlib is not installed.
        DiskFull: there is no space for the picture.
    """
    figure, axes = _figure(6.5, 6)
    points = [(1e3 * measured, 1e3 * predicted) for measured, predicted in networks]
    low, high = min(min(p) for p in points), max(max(p) for p in points)
    ends = [low - 0.05 * (high - low), high + 0.05 * (high - low)]
    for share, color in ((0.10, "#eef2f7"), (0.05, "#dbe5f1")):
        axes.fill_between(
            ends,
            [v * (1 - share) for v in ends],
            [v * (1 + share) for v in ends],
            color=color,
            linewidth=0,
            label=f"within {100 * share:.0f} %",
            zorder=1,
        )
    axes.plot(ends, ends, color=_GRAY, linewidth=1.2, linestyle="--", label="as measured", zorder=2)
    axes.scatter(
        [measured for measured, _ in points],
        [predicted for _, predicted in points],
        s=26,
        color=_BLUE,
        zorder=3,
        label=f"{len(points)} networks",
    )
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    _finish(axes, title, "measured latency [ms]", "predicted latency [ms]")
    _write(figure, path)


def ranking_plot(path: Path, networks: Sequence[tuple[float, float]], title: str, scored: str, wanted: str) -> None:
    """Draw what a network was scored before it was assembled against what it does.

    Args:
        path: where the picture goes; written whole or not at all.
        networks: (score, what it does), both the less the better.
        title: what is shown.
        scored: what the score is.
        wanted: what it is held against.

    Raises:
        MissingExtra: matplotlib is not installed.
        DiskFull: there is no space for the picture.
    """
    figure, axes = _figure(6.5, 6)
    axes.scatter(
        [score for score, _ in networks],
        [found for _, found in networks],
        s=30,
        color=_BLUE,
        zorder=3,
        label=f"{len(networks)} networks",
    )
    _finish(axes, title, scored, wanted)
    _write(figure, path)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty picture of so many inches; raise MissingExtra."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("nn", "matplotlib") from None
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    return figure, figure.add_subplot()


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(plain(title), fontsize=13)
    axes.set_xlabel(x, fontsize=12)
    axes.set_ylabel(y, fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(color="#e4e4e4", zorder=0)
    axes.set_axisbelow(True)
    axes.legend(fontsize=11, framealpha=0.95)


def _write(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomic(path, picture.getvalue())
