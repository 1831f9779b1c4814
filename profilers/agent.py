"""The agent: reads a frame, acts, answers; docs/agent-protocol.md says which frames there are.

It runs on the board with Python's standard library and one runtime, in a private folder that is
gone when it ends. It ends when its host does.
"""

import getpass
import importlib
import os
import platform
import shutil
import signal
import sys
import tempfile
from typing import Any, Callable, Dict, List

import conditions
import frames
from chunks import Chunk
from link import Cancelled, HostGone, Link
from lock import BoardLock, Busy
from uploads import Refused, Uploads

PROTOCOL = 1
#: Runtime -> the module here that has `load` and `load_identity` for it.
RUNTIMES = {"onnxruntime": "runtime_onnx"}

Message = Dict[str, Any]


class Agent:
    """What the agent knows between two frames."""

    def __init__(self, link: Link, folder: str, alive: List[int]) -> None:
        """Serve `link` from `folder`; `alive` are descriptors that children must not keep."""
        self._link = link
        self._folder = folder
        self._alive = alive
        self._uploads = Uploads(os.path.join(folder, "files"))
        self._runtimes: Dict[str, Any] = {}
        self._overheads: Dict[str, Dict[str, int]] = {}
        self._lock: Any = None

    def serve(self) -> None:
        """Say hello, then answer frames until the host has had enough."""
        acts: Dict[str, Callable[[Message], None]] = {
            "begin": self._begin,
            "have": self._have,
            "put": self._put,
            "measure": self._measure,
            "drop": self._drop,
            "cancel": self._cancel,
        }
        self._hello()
        try:
            while True:
                message = frames.unpack_json(self._link.receive())
                if message["type"] == "shutdown":
                    self._link.send("bye")
                    return
                if message["type"] not in acts:
                    raise frames.FrameError("an unknown message %r" % message["type"][:80])
                acts[message["type"]](message)
        finally:
            if self._lock is not None:
                self._lock.release()

    def _hello(self) -> None:
        failures = {}
        for name, module in RUNTIMES.items():
            try:
                self._runtimes[name] = importlib.import_module(module)
            except Exception as error:  # noqa: BLE001 - a broken installation raises anything; the host is told
                failures[name] = "%s: %s" % (type(error).__name__, str(error)[:500])
        readings = conditions.read()
        self._link.send(
            "hello",
            protocol=PROTOCOL,
            python=platform.python_version(),
            executable=sys.executable,
            system=platform.system(),
            pid=os.getpid(),
            folder=self._folder,
            runtimes={name: module.VERSION for name, module in self._runtimes.items()},
            runtime_failures=failures,
            **conditions.facts(),
            **{name: readings[name] for name in ("governor", "clock_limits_khz") if name in readings},
        )

    def _begin(self, message: Message) -> None:
        lock = BoardLock(str(message["device"]))
        try:
            lock.take({"user": _user(), "holder": str(message["holder"])[:200]})
        except Busy as busy:
            self._link.send("busy", holder={key: str(value)[:200] for key, value in busy.holder.items()})
            return
        self._lock = lock
        self._link.heartbeat_s = float(message["heartbeat_s"])
        self._link.send("ready")

    def _have(self, message: Message) -> None:
        self._link.send("missing", sha256=self._uploads.missing(message["sha256"]))

    def _put(self, message: Message) -> None:
        self._uploads.begin(message["sha256"], int(message["size"]))
        while self._uploads.arriving:
            kind, data = self._link.receive()
            if kind != frames.BYTES:
                raise frames.FrameError("a message in the middle of a file")
            self._uploads.add(data)
        try:
            self._link.send("stored", sha256=self._uploads.finish())
        except Refused as refused:
            self._link.send("refused", sha256=message["sha256"], reason=refused.reason, text=refused.text)

    def _drop(self, message: Message) -> None:
        self._uploads.drop(message["sha256"])

    def _measure(self, message: Message) -> None:
        if self._lock is None:
            raise frames.FrameError("measure before begin")
        chunk = Chunk(self._link, self._runtimes[message["runtime"]], self._uploads, message, self._release)
        # What a call costs depends on the runtime and its threads as well as on the tensors.
        known = self._overheads.setdefault("%s %s" % (message["runtime"], message["threads"]), {})
        try:
            chunk.measure(known)
        except Cancelled:
            self._link.send("done", measured=0, failed=0, measuring_ns=0, cancelled=True)

    def _cancel(self, message: Message) -> None:
        """A cancel that came when all was done already: the host has its `done`."""

    def _release(self) -> None:
        """In a child: let go of what is the agent's, or the host would take the child for it."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, self._link.source)
        os.close(nothing)
        os.close(self._link.sink)
        for descriptor in self._alive:
            os.close(descriptor)
        if self._lock is not None:
            self._lock.forget()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return str(os.getuid())


def main(folder: str, alive: int = -1) -> int:
    """Serve the host on standard input and output from `folder`; return the exit status."""
    sink = os.dup(1)
    os.dup2(2, 1)  # whatever a runtime prints must not come between frames

    def leave(_number: int, _frame: Any) -> None:
        raise HostGone()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # or numpy starts threads when it is imported, and a fork loses them
    # From 1.29 on, ONNX Runtime writes an id to TMPDIR and calls home, by a thread, unless told before its import.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    link = Link(0, sink)
    try:
        Agent(link, folder, [alive] if alive >= 0 else []).serve()
    except HostGone:
        return 0
    except Exception as error:
        try:
            link.send("error", text=("%s: %s" % (type(error).__name__, error))[:2000])
        except HostGone:
            return 0
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    os.umask(0o77)
    sys.exit(main(tempfile.mkdtemp(prefix="qaedge-")))
