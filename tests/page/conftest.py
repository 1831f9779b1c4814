"""A small space with tables, two kinds of files, chosen and measured networks, and what the page shows of it."""

from __future__ import annotations

import base64
import io

import msgspec
import pytest
from small_page import NASTY, choose, collected
from synthetic import make_measurement, make_space, make_tables

from qaedge.page.collect import Source
from qaedge.page.content import Built, ClassColor, Content, Panel, Picture
from qaedge.probes import probes
from qaedge.tables import LatencyRow, LatencyTable


@pytest.fixture
def source() -> Source:
    space = make_space(blocks=3, candidates=6)
    losses, onnx = make_tables(space, anchor_s=0.08)
    _, other = make_tables(space, seed=1, anchor_s=0.075)
    tables = []
    for name, table in (("onnx", onnx), ("tflite", other)):
        rows = [msgspec.structs.replace(row, format=name) for row in table.rows.values()]
        for key, network in probes(space).items():
            seconds = 1.04 * table.predict_latency(space, network)[0]
            measurement = make_measurement(seconds, doubts=("unstable",))
            rows.append(LatencyRow(key, "u8u8", 100_000, 90_000, measurement, name))
        tables.append(LatencyTable("local", rows, name))
    return Source(
        space=space,
        losses=losses,
        tables=tuple(tables),
        device="local",
        description="a machine",
        architectures={"student": choose(space, 1, 2, 3)},
        origins={"student": "student.json"},
        limits=("75%",),
        built={"student": Built("student.onnx", 123_456, 0.61)},
        teacher_built={"onnx": Built("teacher.onnx", 200_000, 0.62)},
    )


@pytest.fixture
def content(source: Source) -> Content:
    """The content with two pictures, and with names that would do harm as markup."""
    found = collected(source)
    panels = tuple(
        Panel(title, _pixel(), 0.5 if title == "student" else None) for title in ("image", "label", "student")
    )
    blocks = (msgspec.structs.replace(found.blocks[0], name=NASTY), *found.blocks[1:])
    return msgspec.structs.replace(
        found,
        title=f"small {NASTY}",
        blocks=blocks,
        warnings=(*found.warnings, NASTY),
        pictures=(Picture(NASTY, panels), Picture("two", panels)),
        classes=(ClassColor("road", "#804080"), ClassColor(NASTY, "#000000")),
    )


def _pixel() -> str:
    image = pytest.importorskip("PIL.Image")
    written = io.BytesIO()
    image.new("RGB", (8, 6), (200, 10, 10)).save(written, "PNG")
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"
