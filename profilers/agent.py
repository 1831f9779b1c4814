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
from typing import Any, Callable, Dict, List, Optional

import canary
import conditions
import frames
import infer
import install
from child import Died
from chunks import Chunk
from lease import Lease
from link import Cancelled, HostGone, Link
from lock import BoardLock, Busy
from reference import Reference
from tune import Tuner
from uploads import Refused, Uploads

PROTOCOL = 2
#: Runtime -> the module here that has `load` and `load_identity` for it, and `load_reference` where it can.
RUNTIMES = {"onnxruntime": "runtime_onnx", "tensorrt": "runtime_tensorrt", "tflite": "runtime_tflite"}

#: Below this the board is looked at.
ROOT = "/"

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
        self._references: Dict[str, Reference] = {}
        #: What is known of the canary on these cores.
        self._canaries: Dict[str, canary.Known] = {}
        self._conditions = conditions.Board(ROOT, folder)
        self._lock: Any = None

    def serve(self) -> None:
        """Say hello, then answer frames until the host has had enough."""
        acts: Dict[str, Callable[[Message], None]] = {
            "begin": self._begin,
            "board": self._board,
            "install": self._install,
            "tune": self._tune,
            "lease": self._lease,
            "have": self._have,
            "put": self._put,
            "measure": self._measure,
            "infer": self._infer,
            "drop": self._drop,
            "conditions": self._tell_conditions,
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
            for reference in self._references.values():
                reference.end()
            if self._lock is not None:
                self._lock.release()

    def _hello(self) -> None:
        failures = {}
        for name, module in RUNTIMES.items():
            try:
                self._runtimes[name] = importlib.import_module(module)
            except Exception as error:  # noqa: BLE001 - a broken installation raises anything; the host is told
                failures[name] = "%s: %s" % (type(error).__name__, str(error)[:500])
        readings = self._conditions.read()
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
            **self._conditions.facts(),
            **{name: readings[name] for name in ("governor", "clock_limits_khz") if name in readings},
        )

    def _begin(self, message: Message) -> None:
        lock = BoardLock()
        try:
            lock.take({"user": _user(), "holder": str(message["holder"])[:200]})
        except Busy as busy:
            self._busy(busy.holder)
            return
        leased = Lease().holder()
        if leased and leased["owner"] != message["holder"]:
            lock.release()
            self._busy(leased)
            return
        self._lock = lock
        self._link.heartbeat_s = float(message["heartbeat_s"])
        self._link.patience_s = float(message["host_patience_s"])
        self._link.send("ready")

    def _busy(self, holder: Message) -> None:
        self._link.send("busy", holder={key: str(value)[:200] for key, value in holder.items()})

    def _board(self, message: Message) -> None:
        found = {"holder": BoardLock().peek(), "lease": Lease().holder()}
        told = {name: {key: str(value)[:200] for key, value in table.items()} for name, table in found.items()}
        self._link.send("board", **install.look(), **told)

    def _install(self, message: Message) -> None:
        if self._lock is None:
            raise frames.FrameError("install before begin")
        try:
            self._link.send("installed", **install.Install(self._link, self._uploads, message).make())
        except install.CannotInstall as reason:
            self._link.send("not_installed", stage=reason.stage, text=reason.text)
        except OSError as error:
            where = " (%s)" % error.filename if error.filename else ""
            self._link.send("not_installed", stage="disk", text="%s%s" % (error.strerror, where))

    def _tune(self, message: Message) -> None:
        if self._lock is None:
            raise frames.FrameError("tune before begin")
        tuner = Tuner(self._link, root=ROOT)
        if message["reset"]:
            self._link.send("tuned", **tuner.reset(bool(message["do"])))
        else:
            self._link.send("tuned", **tuner.tune(str(message["governor"]), message["power_mode"], bool(message["do"])))

    def _lease(self, message: Message) -> None:
        lease, owner = Lease(), str(message["owner"])
        if message["seconds"]:
            found = lease.take(owner, float(message["seconds"]))
        else:
            found = lease.give_back(owner, bool(message["force"]))
        self._link.send("leased", holder={key: str(value) for key, value in found.items()})

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
        runtime = self._runtimes[message["runtime"]]
        chunk = Chunk(
            self._link, runtime, self._uploads, message, self._conditions, self._release, runtimes=self._runtimes
        )
        # What a call costs depends on the runtime and its threads as well as on the tensors.
        known = self._overheads.setdefault("%s %s" % (message["runtime"], message["threads"]), {})
        try:
            chunk.measure(known, self._reference(runtime, message, chunk.cores), self._canary(chunk.cores))
        except Cancelled:
            self._link.send("done", measured=0, failed=0, measuring_ns=0, cancelled=True)

    def _infer(self, message: Message) -> None:
        if self._lock is None:
            raise frames.FrameError("infer before begin")
        runtime = self._runtimes[message["runtime"]]
        try:
            infer.Inference(self._link, runtime, self._uploads, message, self._folder, self._release).run()
        except Died as death:
            self._link.send("not_inferred", kind=death.kind, text=death.text)
        except infer.Failed as failure:
            self._link.send("not_inferred", kind="failed", text=str(failure))

    def _reference(self, runtime: Any, order: Message, cores: List[int]) -> Optional[Reference]:
        """Return the session's reference model for such an order; None where none is wanted or the runtime has none."""
        if not order["settings"]["reference"] or not hasattr(runtime, "load_reference"):
            return None
        options = [order["options"].get(name) for name in ("providers", "fp16", "xnnpack")]
        key = repr([order["runtime"], order["threads"], options, cores])
        if key not in self._references:
            self._references[key] = Reference(runtime, order, cores, self._release, self._canary(cores))
        return self._references[key]

    def _canary(self, cores: List[int]) -> canary.Known:
        return self._canaries.setdefault(repr(cores), {})

    def _tell_conditions(self, message: Message) -> None:
        self._link.send("conditions", facts=self._conditions.facts(), readings=self._conditions.read_all())

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
        for reference in self._references.values():
            reference.forget()
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
