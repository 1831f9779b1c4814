"""The state of devices, all asked at once: free, busy, not set up, or not reachable, and why."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence

import msgspec

from qaedge.device import Device
from qaedge.errors import QaedgeError
from qaedge.hil import frames
from qaedge.hil.agent import AgentSession, left, owner
from qaedge.hil.connect import target_for

FREE, BUSY, NOT_SET_UP, UNREACHABLE = "free", "busy", "not set up", "unreachable"
#: How long a device may take to answer, and how long its agent to start, which imports a runtime [s].
ANSWER_S, START_S = 5.0, 25.0


class State(msgspec.Struct, frozen=True):
    """How a device is: one of free, busy, not set up, unreachable; and who or why."""

    state: str
    why: str = ""

    def __str__(self) -> str:
        """Write both."""
        return f"{self.state} ({self.why})" if self.why else self.state


def states(devices: Sequence[Device], answer_s: float = ANSWER_S, start_s: float = START_S) -> dict[str, State]:
    """Ask every device at once; none is waited for longer than its time."""
    asked = [_Question(device) for device in devices]
    for question in asked:
        question.start()
    began = time.monotonic()
    found = {}
    for question in asked:
        question.reached.wait(max(0.0, began + answer_s - time.monotonic()))
        if question.reached.is_set():
            question.join(max(0.0, began + answer_s + start_s - time.monotonic()))
            late = State(UNREACHABLE, f"its agent did not start within {answer_s + start_s:g} s")
        else:
            late = State(UNREACHABLE, f"no answer within {answer_s:g} s")
        found[question.device.name] = question.state or late
    return found


class _Question(threading.Thread):
    """One device that is being asked; dies with the process where it gets no answer."""

    def __init__(self, device: Device) -> None:
        super().__init__(name=f"qaedge state {device.name}", daemon=True)
        self.device = device
        self.reached = threading.Event()
        self.state: State | None = None

    def run(self) -> None:
        try:
            self.state = self._ask()
        except QaedgeError as error:
            self.state = State(UNREACHABLE, error.message.rstrip("."))
        finally:
            self.reached.set()

    def _ask(self) -> State:
        with contextlib.ExitStack() as stack:
            target = target_for(self.device)
            stack.callback(target.close)
            self.reached.set()
            session = AgentSession(self.device, target, lock=False, runtime=False)
            stack.enter_context(session)
            board = session.ask({"type": "board", "device": self.device.name}, frames.Board)
        if not any(name in session.hello.runtimes for name in self.device.runtimes):
            return State(NOT_SET_UP, f"qaedge device setup {self.device.name}")
        if board.holder:
            return State(BUSY, frames.clean(board.holder.get("holder") or board.holder.get("user", "somebody")))
        lease = {frames.clean(key): frames.clean(text) for key, text in board.lease.items()}
        if lease.get("owner") == owner():  # nobody else's, so it is not busy for us
            return State(FREE, f"locked by you{left(lease)}")
        if lease:
            return State(BUSY, f"{lease.get('owner', 'somebody')} has it for himself{left(lease)}")
        return State(FREE)
