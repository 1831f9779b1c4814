"""The page in a headless Chromium: hovering, clicking, exporting, narrow and wide, and not a word in the console."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from small_page import NASTY

from qaedge.page.html import page as write_page

pytestmark = pytest.mark.slow
pytest.importorskip("plotly", reason="plotly is not installed: qaedge[page]")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: Where the points of a trace lie on the screen.
PLACE = """([plot, name, point]) => {
  const drawn = document.getElementById(plot);
  drawn.scrollIntoView({ block: "center", behavior: "instant" });
  const trace = drawn.data.find((t) => t.customdata && t.name.startsWith(name));
  const [layout, box] = [drawn._fullLayout, drawn.getBoundingClientRect()];
  const at = [layout.xaxis.d2p(trace.x[point]), layout.yaxis.d2p(trace.y[point])];
  return { x: box.x + layout._size.l + at[0], y: box.y + layout._size.t + at[1] };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)} (Debian: apt install chromium)")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=arguments)
        yield opened
        opened.close()


class Opened:
    """A page in a tab, what it said, and what it asked for."""

    def __init__(self, browser: Any, file: Any, width: int) -> None:
        self.tab = browser.new_page(viewport={"width": width, "height": 900}, accept_downloads=True)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.goto(file.as_uri())
        self.tab.wait_for_function("document.documentElement.dataset.drawn === 'yes'")
        self.tab.wait_for_function(
            "[...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.main-svg'))"
        )

    def point(self, name: str, at: int = 0, plot: str = "front-plot") -> dict[str, float]:
        return self.tab.evaluate(PLACE, [plot, name, at])

    def hover(self, name: str, at: int = 0) -> str:
        place = self.point(name, at)
        self.tab.mouse.move(place["x"] - 2, place["y"])
        self.tab.mouse.move(place["x"], place["y"])
        label = self.tab.locator("#front-plot .hoverlayer .hovertext")
        label.first.wait_for()
        return label.first.text_content()

    def click(self, name: str, at: int = 0) -> None:
        place = self.point(name, at)
        self.tab.mouse.move(place["x"], place["y"])
        self.tab.wait_for_timeout(150)
        self.tab.mouse.click(place["x"], place["y"])
        self.tab.wait_for_timeout(150)

    def save(self, table: str, kind: str) -> str:
        with self.tab.expect_download() as download:
            self.tab.click(f'#table-{table} [data-export="{kind}"]')
        return download.value.path().read_text("utf-8")


@pytest.fixture(params=[1280, 400])
def opened(request, browser, content, tmp_path) -> Iterator[Opened]:
    file = tmp_path / "report.html"
    file.write_text(write_page(content), "utf-8")
    page = Opened(browser, file, request.param)
    yield page
    page.tab.close()
    assert page.said == []
    assert [url for url in page.asked if not url.startswith(("data:", "blob:"))] == [file.as_uri()]


def fits(tab: Any) -> bool:
    return tab.evaluate("document.scrollingElement.scrollWidth <= window.innerWidth")


def test_everything_is_drawn_and_nothing_is_cut(opened, content):
    tab = opened.tab
    assert fits(tab)
    assert tab.locator(".plot .main-svg").count() >= 3
    assert tab.locator("#heat-plot .hm").count() == 2  # loss and latency; all candidates have the same bits
    assert tab.locator("#agreement-plot .scatterlayer .point").count() == len(content.measured)
    assert tab.locator("#drawing .block").count() == len(content.blocks)
    assert tab.locator("#pictures img").evaluate_all("all => all.every((i) => i.complete && i.naturalWidth === 8)")
    texts = tab.locator("#summary li").all_text_contents()
    assert NASTY in texts
    assert tab.locator("h1").text_content() == content.title


def test_hovering_shows_the_blocks(opened, content):
    text = opened.hover("chosen, predicted")
    assert "chosen: student" in text and NASTY in text
    for block, place in zip(content.blocks, (1, 2, 3), strict=True):
        assert block.candidates[place].spec in text.replace("\xa0", "")


def test_clicks_pin_and_compare_and_escape_clears(opened, content):
    tab = opened.tab
    opened.click("chosen, predicted", 0)
    heads = tab.locator("#pinned-table thead").text_content()
    assert "chosen: student" in heads and "B against A" not in heads
    opened.click("chosen, predicted", 1)
    heads = tab.locator("#pinned-table thead").text_content()
    assert "chosen: student" in heads and "chosen: within 75%" in heads and "B against A" in heads
    one, other = (chosen.network.indices for chosen in content.chosen)
    differing = sum(a != b for a, b in zip(one, other, strict=True))
    assert tab.locator("#pinned-table td.differs").count() == 2 * differing
    assert f"differ in {differing} of 3 blocks" in tab.locator("#pinned .hint").text_content()
    assert any("pinned B" in text for text in tab.locator("#drawn option").all_text_contents())
    assert fits(tab)
    tab.keyboard.press("Escape")
    assert tab.locator("#pinned-table").count() == 0
    opened.click("chosen, predicted", 0)
    tab.click("#clear-pins")
    assert tab.locator("#pinned-table").count() == 0


def test_the_keyboard_pins_from_the_table(opened):
    button = opened.tab.locator("#table-front tbody button").first
    button.focus()
    opened.tab.keyboard.press("Enter")
    assert "network 1" in opened.tab.locator("#pinned-table thead").text_content()


def test_the_front_is_over_size_too(opened, content):
    opened.tab.select_option("#front-axis", "size")
    opened.tab.wait_for_function("document.getElementById('front-plot').layout.xaxis.title.text.startsWith('size')")
    shown = opened.tab.evaluate("document.getElementById('front-plot').data[0].x.length")
    assert shown == len(content.fronts["size"])
    assert fits(opened.tab)


def test_candidates_are_exported_as_csv(opened, content):
    rows = list(csv.DictReader(io.StringIO(opened.save("candidates", "csv"))))
    assert len(rows) == sum(len(block.candidates) for block in content.blocks)
    first, wanted = rows[1], content.blocks[0].candidates[1]
    assert first["block"] == NASTY and first["candidate"] == wanted.spec and first["scheme"] == wanted.scheme
    assert float(first["loss"]) == wanted.loss
    assert float(first["onnx_latency_s"]) == wanted.costs[0].latency_s
    assert int(first["tflite_size_bytes"]) == wanted.costs[1].size_bytes


def test_tables_sort_and_are_exported_as_they_stand(opened, content):
    tab = opened.tab
    head = tab.locator("#table-front th", has_text="loss").first
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    losses = [row["loss"] for row in json.loads(opened.save("front", "json"))]
    assert losses == sorted(n.loss for n in content.networks)
    head.locator("button").click()
    losses = [row["loss"] for row in json.loads(opened.save("front", "json"))]
    assert losses == sorted((n.loss for n in content.networks), reverse=True)


def test_what_begins_like_a_formula_stays_text(browser, content, tmp_path):
    file = tmp_path / "report.html"
    blocks = (msgspec.structs.replace(content.blocks[0], name='=cmd("x"),1'), *content.blocks[1:])
    file.write_text(write_page(msgspec.structs.replace(content, blocks=blocks)), "utf-8")
    opened = Opened(browser, file, 1280)
    rows = list(csv.DictReader(io.StringIO(opened.save("candidates", "csv"))))
    opened.tab.close()
    assert rows[0]["block"] == '\'=cmd("x"),1'


@pytest.mark.parametrize("width", [1280, 400])
def test_a_page_with_nothing_but_a_space_is_quiet_and_fits(width, browser, content, tmp_path):
    blocks = tuple(
        msgspec.structs.replace(
            block, candidates=tuple(msgspec.structs.replace(c, loss=None, costs=()) for c in block.candidates)
        )
        for block in content.blocks
    )
    bare = msgspec.structs.replace(
        content, blocks=blocks, kinds=(), formats=(), networks=(), fronts={}, chosen=(), measured=(), agreement=(),
        pictures=(), conditions=(), doubts=(),
    )  # fmt: skip
    file = tmp_path / "report.html"
    file.write_text(write_page(bare), "utf-8")
    tab = browser.new_page(viewport={"width": width, "height": 900})
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(file.as_uri())
    tab.wait_for_function("document.documentElement.dataset.drawn === 'yes'")
    assert said == [] and fits(tab)
    assert "No candidate has a row" in tab.locator("#heat-plot").text_content()
    tab.close()


def test_a_page_that_becomes_narrow_is_drawn_anew(browser, content, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(write_page(content), "utf-8")
    opened = Opened(browser, file, 1280)
    opened.click("chosen, predicted")
    opened.tab.set_viewport_size({"width": 400, "height": 800})
    opened.tab.wait_for_timeout(500)
    assert fits(opened.tab)
    assert opened.tab.locator("#pinned-table").count() == 1 and opened.said == []
    opened.tab.close()
