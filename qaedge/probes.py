"""Probes: whole networks that are measured beside the teacher, to tell how block differences add up."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from qaedge.borders import borders
from qaedge.candidate import Candidate
from qaedge.network_key import HELD_OUT, network_key, places_of
from qaedge.space import Block, SearchSpace

#: How many networks are drawn beside the least one, at least and at most: with it, as many as a fit wants that is
#: judged (`qaedge.fit`), and enough for a slope of each block where the blocks differ much.
DRAWN = 11, 23
#: One more is drawn for each so many candidates.
_CANDIDATES = 8
#: A space of which so many draws in a row were known already has no more to draw.
_TRIES = 1000


def probes(space: SearchSpace) -> dict[str, tuple[Candidate, ...]]:
    """Return the networks to measure whole, by the keys of their rows: the least one, and some drawn ones.

    The same each time, all in the scheme of the teacher's row (`LatencyTable.anchor`), and none of
    them the teacher; a space without a choice has none. But where activations are of two widths, every other one is in
    any schemes: blocks of one width may take many times as long as those of the other, and how much of such a
    difference is left in a network, no network of one width tells. The teacher itself is among them only where its
    blocks come first in schemes that are not alike (`origin_network`).
    """
    options = _alike(space)
    turns = (options, _integers(space) if borders(space) and not _kind(space) else options)
    least = [min(mine, key=lambda i: _work(block, i)) for mine, block in zip(options, space.blocks, strict=True)]
    draw = random.Random(space.hash)
    count = min(max(sum(map(len, options)) // _CANDIDATES, DRAWN[0]), DRAWN[1])
    found = [least, *([draw.choice(mine) for mine in turns[number % 2]] for number in range(count))]
    drawn = {network_key(space, chosen): _network(space, chosen) for chosen in found if any(chosen)}
    return drawn | dict([origin] if (origin := origin_network(space)) else [])


def origin_network(space: SearchSpace) -> tuple[str, tuple[Candidate, ...]] | None:
    """Return the teacher's own blocks in integers, each in its first scheme, and the key of their row.

    From this network all predictions start where these schemes differ; None where they do not, as the whole teacher in
    one scheme is the same then.
    """
    places = [block.own(False) for block in space.blocks]
    known = [place for place in places if place is not None]
    if len(known) < len(places):
        return None
    network = _network(space, known)
    alike = len({candidate.scheme for candidate in network}) == 1
    return None if alike else (network_key(space, known), network)


def held_out(space: SearchSpace, seed: int = 0) -> Iterator[tuple[str, tuple[Candidate, ...]]]:
    """Yield networks to judge predictions by, with the keys of their rows: drawn at random, no two alike, no probe.

    All are in float or in integers, as the space's first candidate is, in whatever schemes. Ends where the space
    has no more, or a thousand draws found none.
    """
    kind = _kind(space)
    options = [[i for i, c in enumerate(b.candidates) if c.scheme.is_float == kind] or [0] for b in space.blocks]
    seen = {places_of(space, network) for network in probes(space).values()}
    draw, missed = random.Random(f"{space.hash} {seed}"), 0
    while missed < _TRIES:
        chosen = tuple(draw.choice(mine) for mine in options)
        if chosen in seen or not any(chosen):
            missed += 1
            continue
        seen.add(chosen)
        missed = 0
        yield network_key(space, chosen, HELD_OUT), _network(space, chosen)


def _alike(space: SearchSpace) -> list[list[int]]:
    """Return, for each block, the places of the candidates in the scheme of the teacher's row."""
    scheme = space.blocks[0].candidates[0].scheme
    return [
        [i for i, c in enumerate(block.candidates) if c.scheme == scheme] or [0]  # its own, in whatever scheme
        for block in space.blocks
    ]


def _kind(space: SearchSpace) -> bool:
    """Return whether the teacher's row is in float."""
    return space.blocks[0].candidates[0].scheme.is_float


def _integers(space: SearchSpace) -> list[list[int]]:
    """Return, for each block, the places of the candidates in integers."""
    return [[i for i, c in enumerate(block.candidates) if not c.scheme.is_float] or [0] for block in space.blocks]


def _network(space: SearchSpace, places: Sequence[int]) -> tuple[Candidate, ...]:
    return tuple(block.candidates[place] for block, place in zip(space.blocks, places, strict=True))


def _work(block: Block, index: int) -> tuple[bool, int]:
    """Order candidates by hidden channels times kernel, summed over layers; the teacher's own, not told, comes last."""
    spec = block.candidates[index].spec
    wide = (layer.expansion * (layer.channels or block.output_shape[0]) * layer.kernel for layer in spec.layers)
    return spec.is_own, sum(wide)
