"""A selection: which candidates a search may choose from: `--fix block3=SPEC`, `--forbid kind=ir`.

What is fixed is the only one of its block; what is forbidden is in no network.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from qaedge.candidate import LAYER_FIELDS, Candidate
from qaedge.errors import UsageError
from qaedge.space import Block, SearchSpace

#: What a `--forbid` may name beside a block.
KIND, SCHEME = "kind", "scheme"


class Selection(msgspec.Struct, frozen=True):
    """Per block of a space, the places of the candidates that may be chosen."""

    places: tuple[frozenset[int], ...]

    @staticmethod
    def read(space: SearchSpace, fixed: Sequence[str], forbidden: Sequence[str]) -> Selection:
        """Return what texts say.

        Args:
            space: what may be chosen at all.
            fixed: "BLOCK=WHAT": that block is this candidate, or one of those that the text names.
            forbidden: "BLOCK=WHAT", "kind=KIND" of a layer, or "scheme=SCHEME".

        Raises:
            UsageError: a text that names nothing of the space, or a block of which nothing is left.
        """
        left = [set(range(len(block.candidates))) for block in space.blocks]
        told: set[int] = set()
        for text in fixed:
            block, named = _named(space, text, "--fix")
            if block in told:
                raise UsageError(f"--fix gives the block {space.blocks[block].name} twice.", "Fix each block once.")
            told.add(block)
            left[block] &= named
        for text in forbidden:
            word, _, what = text.partition("=")
            if word in (KIND, SCHEME) and word not in (block.name for block in space.blocks):
                found = [{i for i, c in enumerate(b.candidates) if _is(c, word, what)} for b in space.blocks]
                if not any(found):
                    raise UsageError(
                        f"--forbid {text!r}: no candidate of the space has the {word} {what!r}.",
                        f"There are: {', '.join(_known(space, word))}.",
                    )
                left = [places - them for places, them in zip(left, found, strict=True)]
            else:
                block, named = _named(space, text, "--forbid")
                left[block] -= named
        for each, places in zip(space.blocks, left, strict=True):
            if not places:
                raise UsageError(
                    f"--fix and --forbid leave no candidate of block {each.name}.",
                    f"It has {len(each.candidates)}; fix one that is not forbidden, or forbid fewer.",
                )
        return Selection(tuple(frozenset(places) for places in left))


def _named(space: SearchSpace, text: str, flag: str) -> tuple[int, set[int]]:
    """Return the block, and the places of the candidates in it, that "BLOCK=WHAT" names."""
    name, equals, what = text.partition("=")
    what = what.strip()
    names = [block.name for block in space.blocks]
    if not equals or not what or name.strip() not in names:
        also = f" or {KIND}=KIND or {SCHEME}=SCHEME" if flag == "--forbid" else ""
        raise UsageError(
            f"{flag} {text!r} names no block and candidate.",
            f"Write BLOCK=SPEC, BLOCK=SPEC@SCHEME or BLOCK=INDEX{also}; blocks: {', '.join(names)}.",
        )
    number = names.index(name.strip())
    block = space.blocks[number]
    if what.isdecimal():
        if int(what) >= len(block.candidates):
            raise UsageError(
                f"{flag} {text!r}: block {block.name} has no candidate {what}.",
                f"It has {len(block.candidates)}, from 0, the teacher's own.",
            )
        return number, {int(what)}
    places = {i for i, c in enumerate(block.candidates) if what in _texts(c)}
    if not places:
        some = ", ".join(dict.fromkeys(str(c.spec) for c in block.candidates[:4]))
        raise UsageError(f"{flag} {text!r}: block {block.name} has no such candidate.", f"It has {some}, ...")
    return number, places


def _texts(candidate: Candidate) -> tuple[str, ...]:
    own = ("own", f"own@{candidate.scheme}") if candidate.spec.is_own else ()
    return (str(candidate.spec), f"{candidate.spec}@{candidate.scheme}", *own)


def _is(candidate: Candidate, word: str, what: str) -> bool:
    if word == SCHEME:
        return str(candidate.scheme) == what
    return any(layer.kind == what for layer in candidate.spec.layers)


def _known(space: SearchSpace, word: str) -> list[str]:
    everything = [c for block in space.blocks for c in block.candidates]
    if word == SCHEME:
        return list(dict.fromkeys(str(c.scheme) for c in everything))
    kinds = {layer.kind for c in everything for layer in c.spec.layers}
    return [kind for kind in LAYER_FIELDS if kind in kinds]


def allowed(selection: Selection | None, number: int, block: Block) -> frozenset[int]:
    """Return the places of a block that may be chosen; all of them where nothing was selected."""
    return frozenset(range(len(block.candidates))) if selection is None else selection.places[number]
