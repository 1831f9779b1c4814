"""A board that follows a script and speaks the agent protocol, for tests and for trying things."""

from qaedge.hil.fake.board import Board
from qaedge.hil.fake.script import Script, read_script
from qaedge.hil.fake.target import FakeTarget, fake_target

__all__ = ["Board", "FakeTarget", "Script", "fake_target", "read_script"]
