"""The page: one HTML file that opens without a server and without a network.

Text from outside is escaped wherever it goes, and the page's own policy lets no script run but those that
are in it as they were written (by their hashes), and nothing be fetched from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files
from string import Template

import msgspec

from qaedge.errors import MissingExtra
from qaedge.page import sections
from qaedge.page.content import Content

#: The page's scripts, in the order in which they need each other.
_SCRIPTS = ("words.js", "front.js", "compare.js", "drawing.js", "plots.js", "tables.js", "start.js")


def page(content: Content) -> str:
    """Return the whole page; raise MissingExtra where plotly is not installed."""
    code = '"use strict";\n' + "\n".join(_static(name) for name in _SCRIPTS)
    plotly = plotly_code()
    found = sections.all_sections(content)
    return Template(_static("page.html")).substitute(
        policy=_policy(plotly, code),
        version=escape(content.version),
        title=escape(content.title),
        css=_static("page.css"),
        lead=sections.lead(content),
        links="".join(f'<a href="#{one.name}">{escape(one.title)}</a>' for one in found),
        sections="\n".join(one.html for one in found),
        footer=sections.footer(content),
        content=embedded(content),
        plotly=plotly,
        code=code,
    )


def embedded(content: Content) -> str:
    """Return the data as JSON that ends no element, whatever text is in it."""
    # The pictures stand in the page already.
    data = msgspec.json.encode(msgspec.structs.replace(content, pictures=())).decode()
    for character in "<>&\u2028\u2029":
        data = data.replace(character, f"\\u{ord(character):04x}")
    return data


def plotly_code() -> str:
    """Return the library that draws, minified; raise MissingExtra."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingExtra("page", "plotly") from None
    code: str = get_plotlyjs()
    return code


def _policy(*scripts: str) -> str:
    """Return a policy that lets these scripts run and no others, and no request leave the page."""
    hashes = (base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts)
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _static(name: str) -> str:
    return (files("qaedge.page") / "static" / name).read_text("utf-8")
