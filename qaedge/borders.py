"""Borders: where neighbouring blocks have activations of other numbers of bits, something brings one to the other.

It costs time, which is measured by itself: a file that takes integers of so many bits and puts out those of the others.
Between blocks in float, and between blocks of equal bits, there is nothing. What lies outside the blocks has 8 bits, so
a first or last block of 16 has a border there, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

from qaedge.candidate import Candidate
from qaedge.space import SearchSpace, Shape

#: Bits of activations outside the blocks.
OUTSIDE = 8
#: format -> what a border takes in a whole file [bytes], about: operators, a scale, a zero point and names.
SIZE_BYTES = {"onnx": 560, "tflite": 180}


class Border(msgspec.Struct, frozen=True):
    """A change from activations of `before` bits to `after`, of tensors of a `shape` (channels, height, width)."""

    before: int
    after: int
    shape: Shape

    @property
    def key(self) -> str:
        """The name under which latency tables keep it."""
        return f"border_a{self.before}a{self.after}@{'x'.join(map(str, self.shape))}"


def border(left: Candidate | None, right: Candidate | None, shape: Shape) -> Border | None:
    """Return what lies between two neighbours, where a tensor of a shape goes; None where nothing does.

    None as a neighbour is what lies outside the blocks, before the first or behind the last.
    """
    if any(side is not None and side.scheme.is_float for side in (left, right)):
        return None
    before, after = (OUTSIDE if side is None else side.scheme.activation_bits for side in (left, right))
    return None if before == after else Border(before, after, shape)


def shapes(space: SearchSpace) -> tuple[Shape, ...]:
    """Return what goes into each block of a space, and what leaves the last."""
    return (*(block.input_shape for block in space.blocks), space.blocks[-1].output_shape)


def places(space: SearchSpace, network: Sequence[Candidate]) -> list[Border | None]:
    """Return what lies before each block of a network, and behind the last; None where nothing does."""
    around = pairwise((None, *network, None))
    return [border(left, right, shape) for (left, right), shape in zip(around, shapes(space), strict=True)]


def borders_in(space: SearchSpace, network: Sequence[Candidate]) -> list[Border]:
    """Return the borders of a network of a space, in order."""
    return [found for found in places(space, network) if found is not None]


def borders(space: SearchSpace) -> dict[str, Border]:
    """Return every border that a network of a space can have, by its key."""
    each: list[list[Candidate | None]] = [[None], *(_one_each(block.candidates) for block in space.blocks), [None]]
    found = (
        border(left, right, shape)
        for (first, second), shape in zip(pairwise(each), shapes(space), strict=True)
        for left in first
        for right in second
    )
    return {each.key: each for each in found if each is not None}


def _one_each(candidates: Iterable[Candidate]) -> list[Candidate | None]:
    """Return a candidate of each number of activation bits."""
    return list({candidate.scheme.activation_bits: candidate for candidate in candidates}.values())
