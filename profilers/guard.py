"""The guard: watches the agent from outside, and clears up after it however it ends.

The agent may be killed, and then cannot remove its folder; it may hang, and then does not notice
that its host is gone. The guard is a process that does nothing but wait for either.
"""

import os
import select
import shutil
import signal
import sys
import time
from typing import Any, Callable

#: How long the agent may take to end by itself after the host is gone, or has said so by SIGTERM [s].
PATIENCE_S = 2.0


def run(agent: Callable[[str, int], int], folder: str) -> int:
    """Run `agent(folder, held)` in a child, `held` being what shows that it lives.

    Returns its exit status, or 128 + signal, when its folder is gone.
    """
    alive, held = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(alive)
            status = agent(folder, held)
        except BaseException:  # noqa: BLE001 - nothing may get past this process's end
            sys.excepthook(*sys.exc_info())
        finally:
            # Not sys.exit: what the guard still has to do is not this process's to do.
            sys.stderr.flush()
            os._exit(status)
    os.close(held)
    os.close(1)  # or the host would not see that the agent has ended
    told, tell = os.pipe()

    def hear(_number: int, _frame: Any) -> None:
        os.write(tell, b"!")

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, hear)
    try:
        _wait(alive, told)
    finally:
        status = _outcome(child, alive)
        shutil.rmtree(folder, ignore_errors=True)
    return status


def _wait(alive: int, told: int) -> None:
    """Return when the agent has ended, or when the host is gone, or asks, and the agent's time is over."""
    poll = select.poll()
    poll.register(0, 0)  # no events asked for: POLLHUP comes unasked, and no byte is taken
    poll.register(alive, 0)
    poll.register(told, select.POLLIN)
    until = None
    while until is None or time.monotonic() < until:
        timeout = None if until is None else max(0.0, until - time.monotonic()) * 1000 + 1
        ready = {descriptor for descriptor, _ in poll.poll(timeout)}
        if alive in ready:
            return
        for descriptor in ready:
            poll.unregister(descriptor)
        if ready and until is None:
            until = time.monotonic() + PATIENCE_S


def _outcome(child: int, alive: int) -> int:
    poll = select.poll()
    poll.register(alive, 0)
    if not poll.poll(0):
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
