"""The page as text: nothing from outside becomes markup, nothing is asked for; and the pictures for papers."""

from __future__ import annotations

import html.parser
import json
import re
import sys

import msgspec
import pytest
from small_page import NASTY

from qaedge.errors import MissingExtra
from qaedge.page.figures import figures
from qaedge.page.html import embedded, page

pytest.importorskip("plotly", reason="plotly is not installed: qaedge[page]")


class Reader(html.parser.HTMLParser):
    """Every element with its attributes, and the text inside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data


@pytest.fixture
def read(content) -> Reader:
    return Reader(page(content))


def test_nothing_from_outside_is_markup(read):
    assert not any("onerror" in attributes for _, attributes in read.elements)
    images = [attributes["src"] for tag, attributes in read.elements if tag == "img"]
    assert len(images) == 6 and all(source.startswith("data:image/") for source in images)
    assert len(read.scripts) == 3


def test_the_data_are_in_the_page(content, read):
    data = json.loads(read.scripts[0])
    assert data["blocks"][0]["name"] == NASTY
    assert len(data["networks"]) == len(content.networks)
    assert data["pictures"] == []  # they stand in the page already
    assert not re.search("[<>&\u2028\u2029]", embedded(content))


def test_nothing_is_asked_for(read):
    outside = [
        (tag, name, value)
        for tag, attributes in read.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "srcset") and not str(value).startswith(("#", "data:"))
    ]
    assert outside == []
    policy = next(a["content"] for tag, a in read.elements if tag == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy and policy.count("'sha256-") == 2


def test_the_same_content_is_the_same_page(content):
    assert page(content) == page(content)


def test_what_is_missing_is_on_the_page(content):
    bare = msgspec.structs.replace(
        content, kinds=(), formats=(), networks=(), fronts={}, chosen=(), measured=(), agreement=(), pictures=(),
        missing=("no pictures: torch is <gone>",),
    )  # fmt: skip
    text = page(bare)
    assert "no pictures: torch is &lt;gone&gt;" in text
    assert 'id="front-plot"' not in text and 'id="pictures"' not in text and 'id="heat-plot"' in text


def test_without_plotly_the_extra_is_named(content, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(MissingExtra, match=r"plotly") as raised:
        page(content)
    assert 'pip install "qaedge[page]"' in raised.value.hint


def test_every_plot_is_drawn_for_papers(content):
    pytest.importorskip("matplotlib")
    found = figures(msgspec.structs.replace(content, title="$x$", device="$b"))
    assert set(found) == {
        "front-latency.png",
        "front-size.png",
        "predicted-measured.png",
        "candidates-onnx.png",
        "candidates-tflite.png",
    }
    assert all(picture.startswith(b"\x89PNG") for picture in found.values())
    losses = msgspec.structs.replace(content, formats=(), kinds=(), fronts={}, measured=(), chosen=())
    assert set(figures(losses)) == {"candidates.png"}
