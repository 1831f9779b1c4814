"""docs/schemes.md: each scheme that it names parses, and means what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qaedge.candidate import QuantScheme, expand_family
from qaedge.space import SpaceFile

PAGE = (Path(__file__).parents[1] / "docs" / "schemes.md").read_text()
NAMED = sorted(set(re.findall(r"`(w[2-8][0-9a-z.]*a(?:8|16))`", PAGE)))
SHAPE = (16, 16, 16)
#: An inverted residual: expansion, depthwise, projection; and how sensitive each is.
DEPTHWISE, COSTS = (False, True, False), (0.1, 0.5, 0.2)
BITS = {
    "w8a8": (8, 8, 8),
    "w7a8": (7, 7, 7),
    "w4a8": (4, 4, 4),
    "w2a8": (2, 2, 2),
    "w4dw8a8": (4, 8, 4),
    "w4fl8a8": (8, 4, 8),
    "w4dw8fl8a8": (8, 8, 8),
    "w4s2a8": (4, 8, 8),
    "w2dw8fl8s1a8": (8, 8, 8),
    "w8a16": (8, 8, 8),
    "w4a16": (4, 4, 4),
    "w4dw8a16": (4, 8, 4),
    "w4s2a16": (4, 8, 8),
    "w8.4.4.8a8": (8, 4, 4, 8),
}


def test_every_scheme_of_the_page_is_checked_here():
    assert set(NAMED) == set(BITS)


@pytest.mark.parametrize("text", NAMED)
def test_a_scheme_of_the_page_gives_its_bits(text):
    count = len(BITS[text])
    depthwise, costs = (*DEPTHWISE, False)[:count], (*COSTS, 0.0)[:count]
    assert QuantScheme.parse(text).layer_bits(depthwise, costs) == BITS[text]


def test_families_are_those_of_the_page():
    family = re.search(r"\| `w4\*` \| in a space file: (.*?);", PAGE).group(1)
    assert re.findall(r"`(\S+)`", family) == list(expand_family("w4*"))
    assert all(len(expand_family(f"w{bits}*")) == 5 for bits in range(2, 8))


@pytest.mark.parametrize("text", [*NAMED, "fp32", "w4*"])
def test_a_space_file_takes_every_scheme_of_the_page(text, tmp_path):
    path = tmp_path / "space.toml"
    schemes = ", ".join(f'"{one}"' for one in dict.fromkeys(("w8a8", text, "w8.4.8a8")))
    path.write_text(f'name = "s"\n[[block]]\nname = "one"\ndepths = [1, 2]\nschemes = [{schemes}]\n')
    layers = {"one": 4 if text == "w8.4.4.8a8" else 3}  # layers of the teacher's own block
    space = SpaceFile.read(path).resolve({"one": (SHAPE, SHAPE)}, {"one": "abcdef"}, "t", layers=layers)
    found = {str(c.scheme) for c in space.blocks[0].candidates}
    assert set(expand_family(text)) <= found and "w8.4.8a8" in found
