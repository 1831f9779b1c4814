"""Makers of noise: what disturbs the core that is measured on, as it happens on boards that do other work, too."""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable


def drifting(seed: int) -> None:
    """Take a share of the core that slowly goes up and down, 0 to 4 % in 40 s, in pieces shorter than a sample."""
    _on_the_core()
    phase = random.Random(seed).uniform(0, 2 * math.pi)
    while True:
        share = 0.02 * (1 + math.sin(phase + 2 * math.pi * time.monotonic() / 40.0))
        began = time.perf_counter()
        time.sleep(0.0005)
        slept = time.perf_counter() - began
        until = time.perf_counter() + slept * share
        while time.perf_counter() < until:
            pass


def bursty(seed: int) -> None:
    """Take the core for 20 to 400 ms, from time to time: 0.2 to 3 s apart."""
    _on_the_core()
    draw = random.Random(seed)
    while True:
        time.sleep(draw.uniform(0.2, 3.0))
        until = time.perf_counter() + draw.uniform(0.02, 0.4)
        while time.perf_counter() < until:
            pass


def _on_the_core() -> None:
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    if os.sched_getscheduler(0) == os.SCHED_FIFO:  # what is measured was put before all others: so is this before it
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(os.sched_getparam(0).sched_priority + 1))


#: What is recorded: the machine as it is, and with one of these beside the file.
MAKERS: dict[str, Callable[[int], None] | None] = {"quiet": None, "drifting": drifting, "bursty": bursty}
