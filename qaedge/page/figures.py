"""Pictures for papers: each plot of the page as PNG, by matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from qaedge.errors import MissingExtra
from qaedge.page.content import BlockView, CandidateView, Content, Network

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colors, told apart by color-blind people, too.
_FRONT, _CHOSEN, _MEASURED, _TEACHER = ("#0072b2", "#56b4e9", "#3b4a9c"), "#d55e00", "#009e73", "#222222"
_KINDS = (("o", "#0072b2"), ("D", "#d55e00"), ("s", "#009e73"), ("P", "#a8437f"))
_GRID = "#e4e4e4"
#: (x, y) of marks.
Points: TypeAlias = list[tuple[float, float]]


def figures(content: Content) -> dict[str, bytes]:
    """Return every plot that there are data for, as PNG by the name of its file; raise MissingExtra."""
    drawn: dict[str, bytes] = {}
    for over, places in content.fronts.items():
        if places:
            drawn[f"front-{over}.png"] = _png(_front, content, over, 8, 5)
    if any(m.network.latency_s for m in content.measured):
        drawn["predicted-measured.png"] = _png(_agreement, content, "", 6, 6)
    tall = 0.5 + 0.3 * len(content.blocks)
    for name in content.formats:
        drawn[f"candidates-{name}.png"] = _png(_candidates, content, name, 9, 0.9 + 2 * tall)
    if not content.formats and any(c.loss is not None for block in content.blocks for c in block.candidates):
        drawn["candidates.png"] = _png(_candidates, content, "", 9, 0.9 + tall)
    return drawn


def _png(
    draw: Callable[[Figure, Content, str], None], content: Content, what: str, width: float, height: float
) -> bytes:
    """Return a figure of so many inches as PNG; `what` tells the plot which of several it is."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as NewFigure
    except ImportError:
        raise MissingExtra("page", "matplotlib") from None
    figure = NewFigure(figsize=(width, height), dpi=200, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    draw(figure, content, what)
    picture = io.BytesIO()
    canvas.print_figure(picture, format="png")
    return picture.getvalue()


def _plain(text: str) -> str:
    """Return a text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")


def _front(figure: Figure, content: Content, over: str) -> None:
    axes = figure.add_subplot()
    in_ms, scale = over == "latency", 1e3 if over == "latency" else 1 / 1024

    def points(networks: Iterable[Network]) -> Points:
        costs = ((n.latency_s if in_ms else n.size_bytes, n.loss) for n in networks)
        return [(scale * cost, loss) for cost, loss in costs if cost is not None and loss]

    on_front = [content.networks[place] for place in content.fronts[over]]
    axes.step(*_columns(points(on_front)), where="post", color="#b9c8d6", linewidth=1, zorder=1)
    there = [at for at in range(len(content.kinds)) if any(n.kind == at for n in on_front)]
    for place, at in enumerate(there):
        mine = points(n for n in on_front if n.kind == at)
        name, color = content.kinds[at].name, _FRONT[place % len(_FRONT)]
        size = max(8, min(28, 4000 / len(on_front)))
        label = f"front: {len(mine)} as {name}"
        axes.scatter(*_columns(mine), size, color, linewidths=0, label=label, zorder=2)
    teachers = [
        (scale * (k.teacher_latency_s if in_ms else k.teacher_size_bytes), k.teacher_loss) for k in content.kinds
    ]
    whole = [(scale * (m.measured_s if in_ms else m.size_bytes), m.network.loss) for m in content.measured]
    for known, marker, area, color, label in (
        ([(x, y) for x, y in teachers if y], "s", 60, _TEACHER, "teacher, measured"),
        ([(x, y) for x, y in whole if y], "D", 50, _MEASURED, "measured whole"),
        (points(c.network for c in content.chosen), "*", 220, _CHOSEN, "chosen, predicted"),
    ):
        if known:
            axes.scatter(*_columns(known), area, color, marker=marker, edgecolors="white", label=label, zorder=4)
    axes.set_yscale("log")
    axes.set_title(_plain(f"{content.space} on {content.device}"), fontsize=13)
    axes.set_xlabel("predicted latency [ms]" if in_ms else "size of the file [KiB]", fontsize=12)
    axes.set_ylabel(f"summed {content.summed} (0: a copy of the teacher)", fontsize=12)
    _finish(axes)
    axes.legend(fontsize=10, framealpha=0.95)


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _agreement(figure: Figure, content: Content, what: str) -> None:
    axes = figure.add_subplot()
    shown = [(m, m.network.latency_s) for m in content.measured if m.network.latency_s]
    values = [1e3 * value for m, predicted in shown for value in (m.measured_s, predicted)]
    ends = [0.92 * min(values), 1.05 * max(values)]
    axes.plot(ends, ends, color="#777777", linewidth=1, label="as measured")
    axes.fill_between(ends, [0.9 * v for v in ends], [1.1 * v for v in ends], color="#eef2f5", label="within 10 %")
    for at, kind in enumerate(content.kinds):
        mine = [(m, predicted) for m, predicted in shown if m.network.kind == at]
        if mine:
            marker, color = _KINDS[at % len(_KINDS)]
            axes.errorbar(
                [1e3 * m.measured_s for m, _ in mine],
                [1e3 * predicted for _, predicted in mine],
                xerr=[1e3 * m.error_s for m, _ in mine],
                yerr=[1e3 * (m.network.error_s or 0) for m, _ in mine],
                fmt=marker,
                color=color,
                capsize=3,
                label=kind.name,
            )
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.set_title(_plain(f"Whole networks on {content.device}"), fontsize=13)
    axes.set_xlabel("measured latency [ms]", fontsize=12)
    axes.set_ylabel("predicted latency [ms]", fontsize=12)
    _finish(axes)
    axes.legend(fontsize=10, loc="upper left")


def _heat_size(content: Content, maps: int) -> tuple[float, float]:
    return 9.0, 0.9 + maps * (0.5 + 0.3 * len(content.blocks))


def _candidates(figure: Figure, content: Content, name: str) -> None:
    """Draw loss and latency of each candidate, the fastest first; without a format the loss alone."""

    def log_loss(at: int, candidate: CandidateView) -> float:
        return math.log10(candidate.loss) if candidate.loss else math.nan

    if not name:
        orders = [_order(at, block, log_loss) for at, block in enumerate(content.blocks)]
        _heat(figure.add_subplot(), content, orders, log_loss, "block loss", "candidates, the least loss first")
        return
    place = content.formats.index(name)
    kind = next((k for k in content.kinds if k.format == place), None)
    owns = [block.candidates[kind.own[at] if kind else 0].costs[place] for at, block in enumerate(content.blocks)]

    def log_share(at: int, candidate: CandidateView) -> float:
        cost, own = candidate.costs[place], owns[at]
        return math.log10(100 * cost.latency_s / own.latency_s) if cost and own else math.nan

    orders = [_order(at, block, log_share) for at, block in enumerate(content.blocks)]
    upper, lower = figure.subplots(2, 1, sharex=True)
    _heat(upper, content, orders, log_loss, "block loss", "")
    _heat(lower, content, orders, log_share, "latency, % of\nthe teacher's own", "candidates, the fastest first")
    upper.set_title(_plain(f"Candidates of each block on {content.device}, {name}"), fontsize=12)


def _order(at: int, block: BlockView, value: Callable[[int, CandidateView], float]) -> list[int]:
    """Return the places of a block's candidates by rising value, those without one last."""
    values = [value(at, candidate) for candidate in block.candidates]
    return sorted(range(len(values)), key=lambda i: (math.isnan(values[i]), values[i]))


def _heat(
    axes: Axes,
    content: Content,
    orders: Sequence[Sequence[int]],
    value: Callable[[int, CandidateView], float],
    unit: str,
    below: str,
) -> None:
    """Draw a map with a row for each block; values are logarithms to the base of 10."""
    columns = max(len(order) for order in orders)
    rows = []
    for at, (block, order) in enumerate(zip(content.blocks, orders, strict=True)):
        rows.append([value(at, block.candidates[i]) for i in order] + [math.nan] * (columns - len(order)))
    extent = (0.5, columns + 0.5, len(rows) - 0.5, -0.5)
    image = axes.imshow(rows, aspect="auto", cmap="cividis", interpolation="nearest", extent=extent)
    chosen: Points = [
        (order.index(c.network.indices[at]) + 1, at) for c in content.chosen for at, order in enumerate(orders)
    ]
    if chosen:
        axes.scatter(*_columns(chosen), 70, "white", marker="*", edgecolors=_CHOSEN, linewidths=1, label="chosen")
        axes.legend(fontsize=9, loc="lower right")
    axes.set_yticks(range(len(rows)), [_plain(block.name) for block in content.blocks], fontsize=10)
    if below:
        axes.set_xlabel(below, fontsize=11)
    scale = axes.figure.colorbar(image, ax=axes, pad=0.01)
    scale.set_label(unit, fontsize=10)
    known = [v for row in rows for v in row if not math.isnan(v)]
    ticks = [math.log10(k * 10**e) for e in range(-6, 4) for k in (1, 3)]
    ticks = [tick for tick in ticks if known and min(known) <= tick <= max(known)]
    scale.set_ticks(ticks, labels=[f"{10**tick:.3g}" for tick in ticks])


def _finish(axes: Axes) -> None:
    axes.tick_params(labelsize=11)
    axes.grid(color=_GRID, zorder=0)
    axes.set_axisbelow(True)
