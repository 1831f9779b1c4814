"""The agent, from the host: ships `profilers/` to a target, starts it there and speaks its protocol.

One agent lives as long as the session. It is told everything by frames on its input; the command
line is a constant. docs/agent-protocol.md describes both.
"""

from __future__ import annotations

import contextlib
import getpass
import platform
import queue
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from qaedge.device import RUNTIMES, Device
from qaedge.errors import (
    AgentFailed,
    AgentKilled,
    DeviceBusy,
    DeviceLost,
    DiskFull,
    MeasurementError,
    ProtocolError,
)
from qaedge.hil import frames
from qaedge.hil.target import Remote, Target

M = TypeVar("M", bound=frames.Message)

#: Reads the agent's files from its input into a private folder and runs them under the guard.
#: Standard library only, no quotes that a shell would see, and never a word that depends on a file.
BOOTSTRAP = """
import sys
sys.path[:] = [p for p in sys.path if p]
sys.dont_write_bytecode = True
import json, os, re, shutil, struct, tempfile
def read(n):
    data = b""
    while len(data) < n:
        more = os.read(0, n - len(data))
        if not more:
            sys.exit(1)
        data += more
    return data
os.umask(63)
length, kind = struct.unpack(">IB", read(5))
if kind != 74 or length > 1 << 20:
    sys.exit(1)
files = json.loads(read(length).decode())["files"]
folder = tempfile.mkdtemp(prefix="qaedge-")
try:
    for name, text in files.items():
        if not re.fullmatch("[a-z_]+[.]py", name):
            sys.exit(1)
        with open(os.path.join(folder, name), "wb") as file:
            file.write(text.encode())
    sys.path.insert(0, folder)
    import agent, guard
    status = guard.run(agent.main, folder)
finally:
    shutil.rmtree(folder, ignore_errors=True)
sys.exit(status)
"""

_ERROR_TAIL = 1 << 14
_HAS_NONE = f"This version measures with {', '.join(RUNTIMES)}: name it under runtimes in the device's description."
#: How many heartbeats may be missing before a device is lost.
_MISSED = 3


def profilers_folder() -> Path:
    """Return the folder with the agent's files: in the package, or beside it in a checkout."""
    package = Path(str(files("qaedge")))
    inside = package / "profilers"
    return inside if inside.is_dir() else package.parent / "profilers"


class AgentSession:
    """A living agent on a device, and the only line to it; a context manager that leaves nothing behind."""

    def __init__(
        self,
        device: Device,
        target: Target,
        *,
        folder: Path | None = None,
        wait_s: float = 0.0,
        heartbeat_s: float = 2.0,
        start_timeout_s: float = 60.0,
        lock: bool = True,
    ) -> None:
        """Start the agent and take the device's lock.

        Args:
            device: which device it is; its name is the name of the lock.
            target: how to get there.
            folder: other files for the agent than the ones that come with the package.
            wait_s: how long to wait where somebody else measures.
            heartbeat_s: how often the agent says that it lives; three missed are too many.
            start_timeout_s: how long the agent may take to import its runtime.
            lock: whether to take the lock; without it the agent has only said hello, and measures nothing.

        Raises:
            AgentFailed, DeviceLost, DeviceBusy, ProtocolError.
        """
        self.device = device
        self.measuring_s = 0.0  # time inside warm-ups and samples, as the agent counted it
        self._target = target
        self._queue: queue.Queue[frames.Message | MeasurementError | None] = queue.Queue()
        self._errors = bytearray()
        self._patience_s = start_timeout_s
        self._patience_when_ready_s = _MISSED * heartbeat_s
        self._greeted = False
        self._process: Remote = target.run([target.python, "-u", "-c", BOOTSTRAP])
        self._threads = [
            threading.Thread(target=work, name=f"qaedge {work.__name__}", daemon=True)
            for work in (self._read, self._read_errors)
        ]
        for thread in self._threads:
            thread.start()
        try:
            texts = {path.name: path.read_text("utf-8") for path in sorted((folder or profilers_folder()).glob("*.py"))}
            self._send({"files": texts})
            self.hello: frames.Hello = self._greet()
            self._greeted = True
            if lock:
                self._begin(wait_s, heartbeat_s)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> AgentSession:
        """Nothing more to do: the agent lives."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the agent."""
        self.close()

    def close(self) -> None:
        """End the agent, whatever it is doing; its folder and its processes are gone when this returns."""
        if not self._threads:
            return
        with contextlib.suppress(OSError):
            self._process.write(frames.pack({"type": "shutdown"}))
        with contextlib.suppress(OSError):
            self._process.close_input()
        if self._process.wait(5.0) is None:
            self._process.kill()
        for thread in self._threads:
            thread.join(5.0)
        self._threads = []
        self._process.close()
        self._target.close()

    def missing(self, hashes: Iterable[str]) -> set[str]:
        """Return those files that are not on the device."""
        asked = list(hashes)
        found: set[str] = set()
        for start in range(0, len(asked), 8192):
            self._send({"type": "have", "sha256": asked[start : start + 8192]})
            found |= set(self._expect(frames.Missing).sha256)
        return found

    def put(self, contents: Mapping[str, bytes]) -> None:
        """Send files by their hashes, all in one stream; one that arrives damaged is sent once more.

        Raises DiskFull, or ProtocolError where a file was damaged twice.
        """
        damaged = self._put_once(contents)
        if damaged:
            again = self._put_once({sha256: contents[sha256] for sha256 in damaged})
            for sha256, text in again.items():
                raise ProtocolError(
                    f"The file {sha256[:12]} arrived damaged at {self.device.name}, twice: {text}.",
                    "The connection or the device's memory corrupts data. Try another cable, port or supply.",
                )

    def drop(self, hashes: Iterable[str]) -> None:
        """Let the device forget files."""
        self._send({"type": "drop", "sha256": list(hashes)})

    def measure(
        self, order: Mapping[str, Any]
    ) -> Iterator[frames.Samples | frames.Measured | frames.Failed | frames.Round]:
        """Have a chunk measured; yield what the agent says until its end-of-result frame.

        A caller that stops early cancels the chunk; the session can be used again.
        """
        self._send({"type": "measure", **order})
        done = False
        try:
            while not done:
                message = self._receive()
                if isinstance(message, frames.Done):
                    done = True
                    self.measuring_s += message.measuring_ns * 1e-9
                elif isinstance(message, frames.Samples | frames.Measured | frames.Failed | frames.Round):
                    yield message
                else:
                    raise self._unexpected(message, "results")
        except MeasurementError:
            done = True
            raise
        finally:
            if not done and self._threads:
                # Where the device is lost meanwhile, the next call says so.
                with contextlib.suppress(MeasurementError):
                    self._send({"type": "cancel"})
                    while not isinstance(self._receive(), frames.Done):
                        pass

    def _greet(self) -> frames.Hello:
        hello = self._expect(frames.Hello)
        if hello.protocol != frames.PROTOCOL:
            raise ProtocolError(
                f"The agent on {self.device.name} speaks protocol {hello.protocol}, not {frames.PROTOCOL}."
            )
        texts = {f: frames.clean(v) for f in hello.__struct_fields__ if isinstance(v := getattr(hello, f), str)}
        tables = {
            f: _clean_table(getattr(hello, f)) for f in ("runtimes", "runtime_failures", "governor", "clock_limits_khz")
        }
        hello = msgspec.structs.replace(hello, **texts, **tables)
        self._check_facts(hello)
        wanted = self.device.runtimes
        if not any(name in hello.runtimes for name in wanted):
            known = [name for name in wanted if name in RUNTIMES]
            reasons = "; ".join(f"{name}: {hello.runtime_failures.get(name, 'unknown here')}" for name in wanted)
            reasons = reasons or "Its description names none"
            raise AgentFailed(
                f"No runtime on {self.device.name} ({hello.executable}, Python {hello.python}). {reasons}.",
                f"Install one there: {hello.executable} -m pip install {known[0]}" if known else _HAS_NONE,
            )
        return hello

    def _check_facts(self, hello: frames.Hello) -> None:
        """Raise AgentFailed where the description speaks of another board than this one."""
        device = self.device
        if device.arch not in ("any", hello.arch):
            raise AgentFailed(
                f"{device.name} is described as {device.arch}, and the machine there is {hello.arch}.",
                'Is it the right machine? If so, write that arch, or "any", into the device\'s description.',
            )
        if device.threads > hello.cores:
            raise AgentFailed(
                f"{device.name} is described with {device.threads} threads, and the machine there has "
                f"{hello.cores} core{'s' if hello.cores > 1 else ''}.",
                f"Set threads to at most {hello.cores} in the device's description.",
            )

    def _begin(self, wait_s: float, heartbeat_s: float) -> None:
        until = time.monotonic() + wait_s
        while True:
            holder = f"{_user()}@{platform.node()}"
            self._send({"type": "begin", "device": self.device.name, "heartbeat_s": heartbeat_s, "holder": holder})
            message = self._receive()
            if isinstance(message, frames.Ready):
                return
            if not isinstance(message, frames.Busy):
                raise self._unexpected(message, "ready or busy")
            if time.monotonic() >= until:
                who = _clean_table(message.holder)
                raise DeviceBusy(
                    f"{who.get('user', 'Somebody')} is measuring on {self.device.name} "
                    f"(process {who.get('pid', 'unknown')}, for {who.get('holder', 'an unknown host')}).",
                    "Wait until that has ended, or end it. The device is free when its process is gone.",
                )
            time.sleep(min(0.25, wait_s))

    def _put_once(self, contents: Mapping[str, bytes]) -> dict[str, str]:
        for sha256, data in contents.items():
            self._send({"type": "put", "sha256": sha256, "size": len(data)})
            for frame in frames.pack_bytes(data):
                self._write(frame)
        damaged: dict[str, str] = {}
        for _ in contents:
            message = self._receive()
            if isinstance(message, frames.Refused) and message.reason == "disk":
                raise DiskFull(
                    f"No space on {self.device.name}: {frames.clean(message.text)}.",
                    "Free some there, or let TMPDIR name a folder on a larger disk.",
                )
            if isinstance(message, frames.Refused):
                damaged[message.sha256] = frames.clean(message.text)
            elif not isinstance(message, frames.Stored):
                raise self._unexpected(message, "stored")
        return damaged

    def _send(self, message: dict[str, Any]) -> None:
        self._write(frames.pack(message))

    def _write(self, data: bytes) -> None:
        try:
            self._process.write(data)
        except (OSError, ValueError):
            # Nobody reads: the reader knows why, or is about to.
            while True:
                self._receive()

    def _expect(self, kind: type[M]) -> M:
        message = self._receive()
        if not isinstance(message, kind):
            raise self._unexpected(message, kind.__name__.lower())
        return message

    def _unexpected(self, message: frames.Message, wanted: str) -> ProtocolError:
        return ProtocolError(
            f"{self.device.name} said {type(message).__name__.lower()!r} where {wanted} was due.", self._complaint()
        )

    def _receive(self) -> frames.Message:
        """Return the next message, or raise what ended the session; once ended, always."""
        item = self._queue.get()
        if item is None:
            item = self._ended()
        elif isinstance(item, frames.Error):
            item = AgentFailed(f"The agent on {self.device.name} failed: {frames.clean(item.text)}.", self._complaint())
        if isinstance(item, MeasurementError):
            self._queue.put(item)
            raise item
        return item

    def _ended(self) -> MeasurementError:
        status = self._process.wait(2.0)
        how = "its connection ended" if status is None else f"exit status {status}"
        if status is not None and status > 128:
            how = f"signal {status - 128}"
        if not self._greeted:
            return AgentFailed(
                f"The agent could not start on {self.device.name} ({self._target.python}): {how}.",
                self._complaint() or "Is that a Python from 3.8, on Linux?",
            )
        return AgentKilled(
            f"The agent on {self.device.name} ended without a word: {how}.",
            self._complaint() or "What was finished is kept; run the same command again for the rest.",
        )

    def _complaint(self) -> str:
        lines = bytes(self._errors).decode(errors="replace").strip().splitlines()
        return "\n".join(f"The device says: {frames.clean(line)[:300]}" for line in lines[-5:])

    def _read(self) -> None:
        """The reader thread: every message into the queue; a silence that is too long is the end."""
        splitter = frames.Splitter()
        try:
            while data := self._process.read(self._patience_s):
                for message in splitter.feed(data):
                    if isinstance(message, frames.Ready):  # from here on there are heartbeats
                        self._patience_s = self._patience_when_ready_s
                    if not isinstance(message, frames.Heartbeat):
                        self._queue.put(message)
        except TimeoutError:
            silence = f"nothing came for {self._patience_s:g} s"
            self._queue.put(
                DeviceLost(
                    f"{self.device.name} is lost: {silence}.",
                    "Check its power and its cable. What was finished is kept; run the same command again.",
                )
            )
            self._process.kill()
        except MeasurementError as error:
            self._queue.put(error)
            self._process.kill()
        except OSError as error:
            self._queue.put(DeviceLost(f"The connection to {self.device.name} ended: {error}."))
        else:
            self._queue.put(None)

    def _read_errors(self) -> None:
        """The other thread: always drained, or a runtime that complains a lot would block; the end is kept."""
        with contextlib.suppress(OSError):
            while data := self._process.read_error():
                self._errors += data
                del self._errors[:-_ERROR_TAIL]


def _clean_table(table: Mapping[str, str]) -> dict[str, str]:
    return {frames.clean(key): frames.clean(value) for key, value in table.items()}


def _user() -> str:
    try:
        return re.sub(r"[^\w.-]", "_", getpass.getuser())
    except (KeyError, OSError):  # a user id without a name
        return "somebody"
