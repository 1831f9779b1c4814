"""A name that would do harm as markup, a network by its places, and a page's content collected to its end."""

from __future__ import annotations

from qaedge.architecture import Architecture, BlockChoice
from qaedge.page.collect import Source, collect
from qaedge.page.content import Content
from qaedge.space import SearchSpace

NASTY = "</script><img src=x onerror=alert(1)>"


def collected(source: Source) -> Content:
    steps = collect(source)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def choose(space: SearchSpace, *places: int) -> Architecture:
    choices = tuple(
        BlockChoice(block.name, str(block.candidates[at].spec), str(block.candidates[at].scheme), at)
        for block, at in zip(space.blocks, places, strict=True)
    )
    return Architecture(space.name, space.hash, space.teacher, choices, 0.1, {}, {"latency@local": 0.06})
