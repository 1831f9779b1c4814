"""A step of long work: what library functions yield, and report turns into a progress bar."""

from __future__ import annotations

from typing import Any

import msgspec


class Step(msgspec.Struct, frozen=True):
    """One thing finished: `done` of `total`, what it was, and, where there is one, its result.

    `warning` is something the user should read, now and not only at the end.
    """

    done: int
    total: int
    what: str
    result: Any = None
    warning: str = ""
