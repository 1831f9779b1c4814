"""Sessions on a board whose runtime misbehaves on demand, and what comes of them."""

from __future__ import annotations

import time

import pytest

from qaedge.errors import DeviceLost
from qaedge.hil.agent import AgentSession
from qaedge.hil.connect import target_for

#: Within this a device that is gone is found [s]: the promise.
FOUND_S = 15.0


def results(steps):
    return {step.result.artifact.name: step.result for step in steps if step.result is not None}


def open_stub(board, stub, **options) -> AgentSession:
    return AgentSession(board, target_for(board), folder=stub, **options)


def lost(steps) -> DeviceLost:
    """Go on until the device is lost, and return how; fail where it takes longer than promised."""
    start = time.monotonic()
    with pytest.raises(DeviceLost) as info:
        list(steps)
    assert time.monotonic() - start < FOUND_S
    return info.value
