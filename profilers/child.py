"""A child: one candidate in a process of its own, so that whatever it does it does to itself.

It is forked from the agent, which has imported the runtime but never opened a session (a runtime's
threads do not survive a fork). It keeps its session over the rounds and waits for its turn.
"""

import ctypes
import os
import resource
import signal
import socket
import sys
import time
from typing import Any, Callable, Dict, Optional

import frames
from link import Link

PR_SET_PDEATHSIG = 1
Answer = Callable[[Dict[str, Any]], Dict[str, Any]]


class Died(Exception):
    """The child ended by itself: `kind` is crashed or timeout, the text says how."""

    def __init__(self, kind: str, text: str) -> None:
        """Keep both."""
        super().__init__(text)
        self.kind = kind
        self.text = text


class Child:
    """A forked process that answers messages, one at a time."""

    def __init__(self, work: Callable[[], Answer], limits: Dict[str, int], close: Callable[[], None]) -> None:
        """Fork; the child closes what is not its own (`close`), limits itself and calls `work`."""
        mine, its = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                mine.close()
                close()
                _live(work, limits, its)
                status = 0
            except BaseException:  # noqa: BLE001 - nothing may get past this process's end
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stderr.flush()
                os._exit(status)
        its.close()
        self._socket = mine
        self._splitter = frames.Splitter()

    @property
    def descriptor(self) -> int:
        """The agent's end of the line to the child."""
        return self._socket.fileno()

    def ask(
        self,
        link: Link,
        message: Dict[str, Any],
        deadline_s: float,
        between: Optional[Callable[[], None]] = None,
        every_s: float = 0.1,
    ) -> Dict[str, Any]:
        """Send a message and wait for the answer; raise Died where none comes within the deadline.

        The link keeps beating meanwhile, and `between` is called every so often; HostGone and
        Cancelled pass through.
        """
        until = time.monotonic() + deadline_s
        next_at = until if between is None else time.monotonic() + every_s
        try:
            self._socket.sendall(frames.pack_json(message))
        except OSError:
            raise self._death() from None
        while True:
            if not link.wait(self.descriptor, min(until, next_at)):
                if between is not None and time.monotonic() < until:
                    between()
                    next_at += every_s
                    continue
                self.end()
                raise Died("timeout", "no answer within %g s" % deadline_s)
            try:
                data = self._socket.recv(1 << 18)
            except OSError:
                data = b""
            if not data:
                raise self._death()
            for frame in self._splitter.feed(data):
                return frames.unpack_json(frame)

    def _death(self) -> Died:
        status = os.waitpid(self.pid, 0)[1]
        self.pid = 0
        self._socket.close()
        if not os.WIFSIGNALED(status):
            return Died("crashed", "it ended with exit status %d" % os.WEXITSTATUS(status))
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU:
            return Died("timeout", "it used up its processor time")
        name = signal.Signals(number).name if number in set(signal.Signals) else "signal %d" % number
        why = ", most likely because memory ran out" if number == signal.SIGKILL else ""
        return Died("crashed", "it was ended by %s%s" % (name, why))

    def forget(self) -> None:
        """Close the agent's end, in a process that is forked later: only the agent may hold it."""
        os.close(self.descriptor)

    def end(self) -> None:
        """Kill the child, if it lives, and wait until it is gone."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
            self._socket.close()


def _live(work: Callable[[], Answer], limits: Dict[str, int], line: socket.socket) -> None:
    """Answer messages until the agent hangs up."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    _limit(limits)
    answer = work()
    splitter = frames.Splitter()
    while True:
        data = line.recv(1 << 18)
        if not data:
            return
        for frame in splitter.feed(data):
            line.sendall(frames.pack_json(answer(frames.unpack_json(frame))))


def _limit(limits: Dict[str, int]) -> None:
    """Lower this process's limits, where they are above; and be the first to go when memory ends."""
    for name, value in dict(limits, RLIMIT_CORE=0).items():
        number: Optional[int] = getattr(resource, name, None)
        if number is not None:
            hard = resource.getrlimit(number)[1]
            if hard == resource.RLIM_INFINITY or value < hard:
                # SIGXCPU says what happened; SIGKILL, at the hard limit, does not.
                spare = 5 if name == "RLIMIT_CPU" else 0
                resource.setrlimit(number, (value, value if hard == value else value + spare))
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass  # not Linux: then there is nothing to ask for
