"""The key of a whole network's row in a latency table: which candidates of which space it is made of."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qaedge.candidate import Candidate
from qaedge.space import SearchSpace

#: A network that tells how block differences add up, and one that is kept out of that to judge it.
FITTED, HELD_OUT = "network", "check"

_KEY = re.compile(rf"({FITTED}|{HELD_OUT})_([0-9a-f]+)_(\d+(?:-\d+)*)@[^@]+@\d+x\d+x\d+")


def network_key(space: SearchSpace, places: Sequence[int], role: str = FITTED) -> str:
    """Return the key of the network that has the candidates of these places, block by block.

    It tells the space, the places, the scheme ("mixed" where blocks differ in it), and what the first block takes.
    """
    schemes = {str(block.candidates[at].scheme) for block, at in zip(space.blocks, places, strict=True)}
    scheme = schemes.pop() if len(schemes) == 1 else "mixed"
    shape = "x".join(map(str, space.blocks[0].input_shape))
    return f"{role}_{space.hash}_{'-'.join(map(str, places))}@{scheme}@{shape}"


def network_of(space: SearchSpace, key: str, role: str = FITTED) -> tuple[Candidate, ...] | None:
    """Return the candidates that a key of this role names; None where it is no such key, or of another space."""
    found = _KEY.fullmatch(key)
    if found is None or found[1] != role or found[2] != space.hash:
        return None
    places = [int(place) for place in found[3].split("-")]
    if len(places) != len(space.blocks):
        return None
    pairs = list(zip(space.blocks, places, strict=True))
    if any(place >= len(block.candidates) for block, place in pairs):
        return None
    return tuple(block.candidates[place] for block, place in pairs)


def places_of(space: SearchSpace, network: Sequence[Candidate]) -> tuple[int, ...]:
    """Return where in its block each candidate of a network stands."""
    return tuple(block.candidates.index(c) for block, c in zip(space.blocks, network, strict=True))
