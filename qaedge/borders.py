"""Borders: where two neighbouring blocks have activations of other numbers of bits, something brings one to the other.

It costs time, which is measured by itself: a file that takes integers of so many bits and puts out those of the others.
Between blocks in float, and between blocks of equal bits, there is nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import msgspec

from qaedge.candidate import Candidate
from qaedge.space import SearchSpace


class Border(msgspec.Struct, frozen=True):
    """A change from activations of `before` bits to `after`, of tensors of a `shape` (channels, height, width)."""

    before: int
    after: int
    shape: tuple[int, int, int]

    @property
    def key(self) -> str:
        """The name under which latency tables keep it."""
        return f"border_a{self.before}a{self.after}@{'x'.join(map(str, self.shape))}"


def border(left: Candidate, right: Candidate) -> Border | None:
    """Return what lies between two neighbours; None where nothing does."""
    before, after = left.scheme.activation_bits, right.scheme.activation_bits
    if before == after or left.scheme.is_float or right.scheme.is_float:
        return None
    return Border(before, after, right.input_shape)


def borders_in(network: Iterable[Candidate]) -> list[Border]:
    """Return the borders of a network, in order."""
    return [found for left, right in pairwise(network) if (found := border(left, right)) is not None]


def borders(space: SearchSpace) -> dict[str, Border]:
    """Return every border that a network of a space can have, by its key."""
    found = (
        border(left, right)
        for first, second in pairwise(space.blocks)
        for left in _one_each(first.candidates)
        for right in _one_each(second.candidates)
    )
    return {each.key: each for each in found if each is not None}


def _one_each(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return a candidate of each number of activation bits."""
    return list({candidate.scheme.activation_bits: candidate for candidate in candidates}.values())
