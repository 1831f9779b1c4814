"""Fake boards for tests: one that follows a script, and what it says of some files."""

from __future__ import annotations

from qaedge.device import Device
from qaedge.hil.agent import AgentSession
from qaedge.hil.fake import Board, FakeTarget, Script
from qaedge.hil.fake.script import Event, Noise
from qaedge.hil.profile import Settings, measure

STILL = Noise(sigma=0.0)
FAKE = Device(name="fake", description="a test", connection="fake")


def run(files, script=None, settings=None, board=None, **options):
    """Measure on a fake board; return the results by name, and what was said meanwhile."""
    board = board or Board("fake", script or Script())
    with AgentSession(FAKE, FakeTarget(board)) as session:
        steps = list(measure(session, files, settings or Settings(), threads=1, **options))
    return {step.result.artifact.name: step.result for step in steps if step.result is not None}, steps


def event(what, **where):
    """A script in which one thing happens."""
    return Script(event=(Event(what, **where),))
