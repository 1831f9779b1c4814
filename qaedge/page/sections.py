"""The sections of the page that need no script: what was chosen, pictures, conditions; and the places of the others."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import msgspec

from qaedge.page.content import Chosen, Content, Kind, Measured
from qaedge.units import format_bytes, format_seconds

#: What stands in a table where nothing is known.
_NONE = "&ndash;"


class Section(msgspec.Struct, frozen=True):
    """A part of the page: the name to link to, its heading, and all of its HTML."""

    name: str
    title: str
    html: str


def lead(content: Content) -> str:
    """Return the line below the heading."""
    described = f" ({escape(content.device_description)})" if content.device_description else ""
    return (
        f"{len(content.blocks)} blocks, {sum(len(b.candidates) for b in content.blocks)} candidates, "
        f"{_power(content.networks_in_all)} networks. Device: <b>{escape(content.device)}</b>{described}."
    )


def footer(content: Content) -> str:
    """Return what was shown, for those who want to find it again."""
    return escape(
        f"Space {content.space} {content.space_hash}, teacher {content.teacher}. Written by qaedge {content.version}; "
        "drawn by plotly.js (MIT licence), which is inside this file."
    )


def all_sections(content: Content) -> list[Section]:
    """Return every section that there is something to say in, in their order."""
    made = [_summary(content)]
    if content.fronts:
        made.append(_front(content))
    if content.kinds or content.chosen:
        made.append(_drawing())
    if content.measured:
        made.append(_agreement(content))
    made.append(_heat())
    if content.pictures:
        made.append(_pictures(content))
    made.append(_tables())
    if content.formats:
        made.append(_conditions(content))
    return made


def _section(name: str, title: str, *parts: str) -> Section:
    body = "\n".join(part for part in parts if part)
    heading = f'<h2 id="{name}-title">{escape(title)}</h2>'
    return Section(name, title, f'<section id="{name}" aria-labelledby="{name}-title">{heading}\n{body}</section>')


def _plot(name: str, label: str) -> str:
    """Return the place of a plot, and what a screen reader says of it."""
    return f'<div class="plot" id="{name}" role="img" aria-label="{escape(label)}"></div>'


def _select(name: str, label: str, **options: str) -> str:
    """Return something to choose with; without options a script fills it."""
    made = "".join(f'<option value="{value}">{escape(text)}</option>' for value, text in options.items())
    return f'<label>{escape(label)} <select id="{name}">{made}</select></label>'


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str | None]], numbers: Sequence[int] = (), stack: bool = False
) -> str:
    """Return a table of texts, escaped; None is a dash.

    Args:
        columns: headings.
        rows: a cell for each.
        numbers: places of the columns that stand to the right.
        stack: on a narrow page each row becomes a list.
    """

    def cell(at: int, text: str | None) -> str:
        kinds = " ".join((*(("number",) if at in numbers else ()), *(("none",) if text is None else ())))
        shown = _NONE if text is None else escape(text)
        return f'<td class="{kinds}" data-label="{escape(columns[at])}">{shown}</td>'

    head = "".join(
        f'<th scope="col" class="{"number" if at in numbers else ""}">{escape(text)}</th>'
        for at, text in enumerate(columns)
    )
    body = "".join(f"<tr>{''.join(cell(at, text) for at, text in enumerate(row))}</tr>" for row in rows)
    classes = "wide stack" if stack else "wide"
    return f'<div class="{classes}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


#: What is summed -> what it is.
_SUMMED = {
    "block loss": "Block loss: noise over signal",
    "harm": "Harm: how far the classes of the teacher diverge with that candidate alone in its place, to a power of "
    "about a half and with a weight for its block, as networks drawn at random tell them",
}


def _summary(content: Content) -> Section:
    columns = ("", "file", "latency, predicted", "latency, measured", "change", "size", content.summed, "mIoU")
    best = min(content.kinds, key=lambda kind: kind.teacher_latency_s, default=None)
    rows = [_teacher_row(content, kind) for kind in content.kinds]
    rows += [_chosen_row(content, chosen, best) for chosen in content.chosen]
    notes = "".join(f'<li class="warning">{escape(text)}</li>' for text in content.warnings)
    notes += "".join(f'<li class="missing">{escape(text)}</li>' for text in content.missing)
    return _section(
        "summary",
        "Summary",
        table(columns, rows, numbers=range(2, 8), stack=True) if rows else "",
        f'<p class="small">Change: of the predicted latency, against the fastest teacher. {_SUMMED[content.summed]}, '
        "summed over the blocks; 0 is a copy of the float teacher. mIoU: of the exported file, on all validation "
        "images.</p>"
        if rows
        else "",
        f'<ul class="notes" aria-label="Warnings and what is missing">{notes}</ul>' if notes else "",
    )


def _teacher_row(content: Content, kind: Kind) -> tuple[str | None, ...]:
    built = content.teacher_built.get(content.formats[kind.format])
    return (
        "teacher",
        kind.name,
        None,
        _within(kind.teacher_latency_s, kind.teacher_error_s),
        None,
        format_bytes(kind.teacher_size_bytes),
        None if kind.teacher_loss is None else f"{kind.teacher_loss:.4f}",
        f"{built.miou:.3f}" if built else None,
    )


def _chosen_row(content: Content, chosen: Chosen, best: Kind | None) -> tuple[str | None, ...]:
    network = chosen.network
    kind = None if network.kind is None else content.kinds[network.kind]
    whole = measured_of(content, chosen)
    change = network.latency_s / best.teacher_latency_s - 1 if best and network.latency_s else None
    return (
        chosen.name if chosen.name in chosen.origin else f"{chosen.name}, {chosen.origin}",
        kind.name if kind else None,
        _within(network.latency_s, network.error_s),
        _within(whole.measured_s, whole.error_s) if whole else None,
        None if change is None else f"{100 * change:+.1f} %",
        None if network.size_bytes is None else format_bytes(round(network.size_bytes)),
        None if network.loss is None else f"{network.loss:.4f}",
        f"{chosen.built.miou:.3f}" if chosen.built else None,
    )


def measured_of(content: Content, chosen: Chosen) -> Measured | None:
    """Return the row of a chosen network that was measured whole, as the same kind of file; None where none is."""
    mine = chosen.network
    same = (m for m in content.measured if (m.network.kind, m.network.indices) == (mine.kind, mine.indices))
    return next(same, None)


def _front(content: Content) -> Section:
    return _section(
        "front",
        "Front",
        "<p>Every network that no other beats in both. Point at one to see its blocks; click to pin it, and click a "
        "second one to compare the two. <kbd>Esc</kbd> lets go of both.</p>",
        f"""<p>{_select("front-axis", "Over", latency="predicted latency", size="size of the file")}
{_select("front-scale", "Loss", log="on a log scale", linear="on a linear scale")}</p>""",
        _plot("front-plot", f"Summed {content.summed} against cost; the table of the front has the same networks"),
        '<div id="pinned" aria-live="polite"></div>',
    )


def _drawing() -> Section:
    return _section(
        "network",
        "Block by block",
        f'<p>{_select("drawn", "Network")} <span class="legend" id="bits-legend"></span></p>',
        '<div id="drawing"></div>',
        '<p class="small">Latency of each block alone, without the call that measured it, and its loss; in gray, those '
        "of the teacher's own block. Borders between blocks, input and output are in the whole network only, so "
        "the sum is not its latency.</p>",
    )


def _agreement(content: Content) -> Section:
    columns = ("file", "networks", "mean error", "within 5 %", "within 10 %", "rank correlation", "worst")
    rows = [
        (
            content.kinds[a.kind].name,
            str(a.networks),
            f"{100 * a.mape:.1f} %",
            f"{100 * a.within_5:.0f} %",
            f"{100 * a.within_10:.0f} %",
            None if a.spearman is None else f"{a.spearman:.3f}",
            f"{a.worst}: {100 * a.worst_error:+.1f} %",
        )
        for a in content.agreement
    ]
    fitted = sum(a.fitted for a in content.agreement)
    told = (
        f"{fitted} of the networks in the table took part in the fit of what predicts, so their errors are a little "
        "too small."
        if fitted
        else "Those in the table took no part in the fit of what predicts."
    )
    return _section(
        "agreement",
        "Predicted against measured",
        f"<p>Whole networks that were measured on the device, held against what the table of candidates predicts. "
        f"{told} A network is called by the place of its candidate in each block.</p>",
        _plot("agreement-plot", "Predicted against measured latency of whole networks"),
        table(columns, rows, numbers=range(1, 7), stack=True),
    )


def _heat() -> Section:
    orders = {"latency": "latency", "loss": "loss", "space": "place in the space"}
    return _section(
        "candidates",
        "Candidates",
        "<p>A row for each block, a column for each candidate, in the same order in each map.</p>",
        f"<p>{_select('heat-order', 'Sorted by', **orders)} {_select('heat-format', 'Files')}</p>",
        _plot("heat-plot", "Loss, latency and bits of each candidate; the table of candidates has the same numbers"),
    )


def _pictures(content: Content) -> Section:
    legend = "".join(
        f'<span class="class"><i style="background:{escape(c.color)}"></i>{escape(c.name)}</span>'
        for c in content.classes
    )
    rows = []
    for picture in content.pictures:
        panels = "".join(
            f'<figure><img src="{escape(p.source)}" alt="{escape(f"{p.title} of {picture.name}")}">'
            f"<figcaption>{escape(p.title)}{'' if p.miou is None else f', mIoU {p.miou:.3f}'}</figcaption></figure>"
            for p in picture.panels
        )
        rows.append(f'<h3>{escape(picture.name)}</h3><div class="panels">{panels}</div>')
    return _section(
        "pictures",
        "Pictures",
        "<p>Validation images; each network is run as its exported file, on the machine that wrote this page. mIoU is "
        "that of the one image, over the classes that occur in it.</p>",
        f'<p class="classes">{legend}</p>',
        *rows,
    )


def _tables() -> Section:
    return _section("tables", "Tables", '<div id="all-tables"></div>')


def _conditions(content: Content) -> Section:
    doubts = [(d.name, d.format, str(d.rows), d.meaning) for d in content.doubts]
    return _section(
        "conditions",
        "Conditions of the measurements",
        table(("", *content.formats), [(c.name, *c.values) for c in content.conditions]),
        "<h3>Doubts</h3>",
        table(("doubt", "file", "rows", "what it means"), doubts, numbers=(2,), stack=True)
        if doubts
        else "<p>No row is doubted.</p>",
    )


def _within(value: float | None, error: float | None) -> str | None:
    if value is None:
        return None
    return format_seconds(value) + (f" ± {format_seconds(error)}" if error else "")


def _power(count: int) -> str:
    """Return a count that people can read: as it is, or as a power of ten."""
    return f"{count:,}" if count < 10**7 else f"about 10^{len(str(count)) - 1}"
