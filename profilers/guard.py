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

#: How long the agent may take to end by itself after the host is gone [s].
PATIENCE_S = 3.0


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

    def end(_number: int, _frame: Any) -> None:
        os.kill(child, signal.SIGKILL)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, end)
    try:
        _wait(alive)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        status = _outcome(child, alive)
        shutil.rmtree(folder, ignore_errors=True)
    return status


def _wait(alive: int) -> None:
    """Return when the agent has ended, or when the host is gone and the agent's time is over."""
    poll = select.poll()
    poll.register(0, 0)  # no events asked for: POLLHUP comes unasked, and no byte is taken
    poll.register(alive, 0)
    gone_at = None
    while True:
        ready = {descriptor for descriptor, _ in poll.poll(None if gone_at is None else PATIENCE_S * 1000)}
        if alive in ready:
            return
        if 0 in ready and gone_at is None:
            gone_at = time.monotonic()
            poll.unregister(0)
        if gone_at is not None and time.monotonic() - gone_at >= PATIENCE_S:
            return


def _outcome(child: int, alive: int) -> int:
    poll = select.poll()
    poll.register(alive, 0)
    if not poll.poll(0):
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
