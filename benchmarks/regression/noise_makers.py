"""Makers of noise: another process's work on the core that is measured on, as on boards that do other work, too.

Each takes a share of the core in pieces of a millisecond, which is shorter than a sample: while it does, all samples
are longer, and not some of them by much.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator

#: A piece, of which the share is worked and the rest slept [s].
PIECE_S = 1e-3
#: What is worked on: more than a first-level cache holds, and some 40 us long.
BLOCK = bytes(1 << 16)


def ramp(seed: int) -> Iterator[tuple[float, float]]:
    """Yield shares of the core, and for how long each holds [s]: slowly up from nothing, slowly down, and again."""
    draw = random.Random(seed)
    while True:
        top, half_s = draw.uniform(0.25, 0.45), draw.uniform(12.0, 20.0)
        steps = round(half_s / 0.1)
        for step in (*range(steps), *range(steps, 0, -1)):
            yield top * step / steps, 0.1


def bursts(seed: int) -> Iterator[tuple[float, float]]:
    """Yield shares of the core, and for how long each holds [s]: nothing, and from time to time a lot for a while."""
    draw = random.Random(seed)
    while True:
        yield 0.0, draw.uniform(0.5, 5.0)
        yield draw.uniform(0.3, 0.7), draw.uniform(0.1, 2.0)


def drifting(seed: int) -> None:
    """Work as `ramp` says, until killed."""
    _work(ramp(seed))


def bursty(seed: int) -> None:
    """Work as `bursts` says, until killed."""
    _work(bursts(seed))


def _work(plan: Iterator[tuple[float, float]]) -> None:
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])  # the core that one thread is measured on
    if os.sched_getscheduler(0) == os.SCHED_FIFO:  # what is measured was put before all others: so is this before it
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(os.sched_getparam(0).sched_priority + 1))
    clock = time.perf_counter
    for share, lasts_s in plan:
        end = clock() + lasts_s
        while share and (began := clock()) < end:
            time.sleep(PIECE_S * (1 - share))
            until = clock() + (clock() - began) * share / (1 - share)
            while clock() < until:
                hashlib.sha256(BLOCK)
        time.sleep(max(0.0, end - clock()))


#: What is recorded: the machine as it is, and with one of these beside the file.
MAKERS: dict[str, Callable[[int], None] | None] = {"quiet": None, "drifting": drifting, "bursty": bursty}
