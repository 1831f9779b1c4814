"""A step of long work: what library functions yield, and report turns into a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class Step(msgspec.Struct, frozen=True):
    """One thing finished: `done` of `total`, what it was, and, where there is one, its result.

    `warning` is something the user should read, now and not only at the end.
    """

    done: int
    total: int
    what: str
    result: Any = None
    warning: str = ""


def changed(steps: Generator[Step, None, T], change: Callable[[Step], Step]) -> Generator[Step, None, T]:
    """Yield each step as `change` returns it; return what the steps return."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        yield change(step)
