"""What lies between two blocks whose activations have unlike numbers of bits."""

import pytest
from synthetic import make_space
from widths import networks_of, widths_space

from qaedge.borders import Border, border, borders, borders_in
from qaedge.candidate import BlockSpec, Candidate, QuantScheme

SPEC = BlockSpec.parse("ir_k3_s1_e2_c8")


@pytest.mark.parametrize(
    ("left", "right", "bits"),
    [
        ("w8a8", "w8a8", None),
        ("w8a8", "w4a8", None),
        ("w8a16", "w4a16", None),
        ("w8a8", "w4a16", (8, 16)),
        ("w4dw8a16", "w8a8", (16, 8)),
        ("fp32", "w8a16", None),
        ("w8a8", "fp32", None),
        ("fp32", "fp32", None),
    ],
)
def test_a_border_is_where_integers_of_unlike_widths_meet(left, right, bits):
    shapes = (4, 32, 32), (8, 16, 16)
    one, other = (Candidate(SPEC, QuantScheme.parse(t), shape) for t, shape in zip((left, right), shapes, strict=True))
    assert border(one, other, (8, 16, 16)) == (None if bits is None else Border(*bits, (8, 16, 16)))


@pytest.mark.parametrize(("scheme", "bits"), [("w8a8", None), ("w8a16", (8, 16)), ("fp32", None)])
def test_outside_the_blocks_are_8_bits(scheme, bits):
    first = Candidate(SPEC, QuantScheme.parse(scheme), (3, 32, 32))
    assert border(None, first, (3, 32, 32)) == (None if bits is None else Border(*bits, (3, 32, 32)))
    assert border(first, None, (8, 16, 16)) == (None if bits is None else Border(*bits[::-1], (8, 16, 16)))


def test_its_key_tells_both_widths_and_what_is_brought_over():
    assert Border(8, 16, (24, 45, 60)).key == "border_a8a16@24x45x60"


def test_a_space_has_those_that_its_networks_have():
    space = widths_space([["w8a8", "w8a16"], ["w8a16"], ["w8a16", "w4a8"], ["fp32", "w8a8"]])
    found = {each.key for network in networks_of(space) for each in borders_in(space, network)}
    assert (
        set(borders(space))
        == found
        == {
            "border_a8a16@16x12x16",
            "border_a16a8@24x12x16",
            "border_a16a8@32x12x16",
            "border_a8a16@8x12x16",
        }
    )
    assert all(key == each.key for key, each in borders(space).items())
    assert borders(make_space()) == {}
