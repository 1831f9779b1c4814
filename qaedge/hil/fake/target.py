"""FakeTarget: a board that follows a script, in this process; for tests, and for trying things out.

Its agent speaks the whole protocol, on a clock that nobody waits for. Every number that it tells is
made up, and says so: runtime version "fake", board "fake board".
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from pathlib import Path

from qaedge.device import Device
from qaedge.errors import AgentFailed, MeasurementError, Unreachable
from qaedge.hil.fake.agent import Agent
from qaedge.hil.fake.board import Board
from qaedge.hil.fake.line import Line
from qaedge.hil.fake.script import Script, read_script

__all__ = ["Board", "FakeRemote", "FakeTarget", "Script", "fake_target", "read_script"]

#: How long the end of a thread is waited for that has been told to end [s].
_END_S = 2.0


class FakeRemote:
    """The agent of a fake board, as a command that runs there; see Remote for its methods."""

    def __init__(self, board: Board, runtimes: Sequence[str]) -> None:
        """Start it."""
        self._line = Line()
        agent = Agent(self._line, board, runtimes)
        self._thread = threading.Thread(target=agent.run, name=f"qaedge fake {board.name}", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """See Remote."""
        with self._line.changed:
            if self._line.cut:
                raise ConnectionResetError("the script cut the connection")
            if self._line.ended or self._line.closed:
                raise BrokenPipeError("the fake agent has ended")
            self._line.up += data
            self._line.tell()

    def read(self, timeout_s: float) -> bytes:
        """See Remote. A board that hangs is silent for as long as anybody would wait, so nobody has to."""
        line = self._line
        with line.changed:
            line.changed.wait_for(lambda: line.down or line.cut or line.silent or line.ended, timeout_s)
            if line.down:
                data = bytes(line.down)
                line.down.clear()
                return data
            if line.cut:
                raise ConnectionResetError("the script cut the connection")
            if line.silent or not line.ended:
                raise TimeoutError
            return b""

    def read_error(self) -> bytes:
        """See Remote."""
        line = self._line
        with line.changed:
            line.changed.wait_for(lambda: line.errors or line.ended or line.cut)
            data = bytes(line.errors)
            line.errors.clear()
            return data

    def close_input(self) -> None:
        """See Remote."""
        with self._line.changed:
            self._line.closed = True
            self._line.tell()

    def wait(self, timeout_s: float) -> int | None:
        """See Remote; of an agent at the other end of a line that was cut, nobody knows."""
        if self._line.cut:
            return None
        self._thread.join(timeout_s)
        return None if self._thread.is_alive() else self._line.status

    def kill(self) -> None:
        """See Remote."""
        with self._line.changed:
            self._line.killed = True
            self._line.tell()
        self._thread.join(_END_S)

    def close(self) -> None:
        """See Remote. Nothing is held."""


class FakeTarget:
    """The way to a fake board; several ways may lead to the same one."""

    def __init__(self, board: Board, runtimes: Sequence[str] = ("onnxruntime",)) -> None:
        """Lead to `board`, which has `runtimes`."""
        self.name = board.name
        self.python = "fake python"
        self._board = board
        self._runtimes = tuple(runtimes)

    def run(self, command: Sequence[str]) -> FakeRemote:
        """Raise AgentFailed: nothing but the agent runs on a fake board."""
        raise AgentFailed(f"{self.name} is a fake board, and runs no commands.")

    def run_python(self, code: str) -> FakeRemote:
        """Start the agent, whatever the code; raise Unreachable while the script says that the board is away."""
        if self._board.away:
            self._board.away -= 1
            raise Unreachable(f"{self.name} does not answer: its script says that it is away.", "Connect again.")
        return FakeRemote(self._board, self._runtimes)

    def put(self, source: Path, destination: str) -> None:
        """Raise MeasurementError: files reach a fake board by its agent alone."""
        raise MeasurementError(f"{self.name} is a fake board, and has no files.")

    def get(self, source: str, destination: Path) -> None:
        """Raise MeasurementError, as `put`."""
        raise MeasurementError(f"{self.name} is a fake board, and has no files.")

    def close(self) -> None:
        """Nothing is held."""


def fake_target(device: Device) -> FakeTarget:
    """Return the way to the fake board that a description speaks of; raise MissingFile or InvalidFile.

    Its `script` is looked for in the current folder; without one the board is a calm one.
    """
    path = Path(device.script)
    script = read_script(path) if device.script else Script()
    return FakeTarget(_board(device.name, path.resolve(), script), device.runtimes)


@functools.cache
def _board(name: str, path: Path, script: Script) -> Board:
    """Return the board of that name and script: the same one for each connection, as a real one would be.

    It lives as long as this process. Without this, a board that was lost would be a new one when it
    is connected to again, and would be lost again, for ever.
    """
    return Board(name, script)
