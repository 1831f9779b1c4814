"""The agent, from the host: ships `profilers/` to a target, starts it there and speaks its protocol.

One agent lives as long as the session. It is told everything by frames on its input; the command
line is a constant. docs/agent-protocol.md describes both.
"""

from __future__ import annotations

import contextlib
import getpass
import platform
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from qaedge.device import Device
from qaedge.errors import (
    AgentFailed,
    DeviceBusy,
    DiskFull,
    MeasurementError,
    ProtocolError,
)
from qaedge.hil import frames
from qaedge.hil.bootstrap import BOOTSTRAP, agent_files
from qaedge.hil.inbox import Inbox
from qaedge.hil.target import Remote, Target
from qaedge.runtime import RUNTIMES

M = TypeVar("M", bound=frames.Message)

#: How long a silence of the host the agent bears [s], and how often the host says in that time that it lives.
HOST_PATIENCE_S, _BEATS = 25.0, 5
_HAS_NONE = f"This version measures with {', '.join(RUNTIMES)}: name it under runtimes in the device's description."
#: How many heartbeats may be missing before a device is lost.
_MISSED = 3


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
        host_patience_s: float = HOST_PATIENCE_S,
        lock: bool = True,
        runtime: bool = True,
    ) -> None:
        """Start the agent and take the device's lock.

        Args:
            device: which device it is, as its description says.
            target: how to get there.
            folder: other files for the agent than the ones that come with the package.
            wait_s: how long to wait where somebody else measures.
            heartbeat_s: how often the agent says that it lives; three missed are too many.
            start_timeout_s: how long the agent may take to import its runtime.
            host_patience_s: how long the agent bears a silence of ours, before it ends and the lock is free.
            lock: whether to take the lock; without it the agent has only said hello, and measures nothing.
            runtime: whether one of the device's runtimes has to be there.

        Raises:
            AgentFailed, DeviceLost, DeviceBusy, ProtocolError.
        """
        self.device = device
        self.measuring_s = 0.0  # time inside warm-ups and rounds, as the agent counted it
        self._target = target
        self._open = True
        self._host_patience_s = host_patience_s
        self._writing = threading.Lock()
        self._closing = threading.Event()
        self._process: Remote = target.run_python(BOOTSTRAP)
        patience_s = device.patience_s or _MISSED * heartbeat_s
        self._inbox = Inbox(self._process, device.name, target.python, max(start_timeout_s, patience_s), patience_s)
        try:
            self._send({"files": agent_files(folder)})
            self.hello: frames.Hello = self._greet(runtime)
            if lock:
                self._begin(wait_s, heartbeat_s)
                threading.Thread(target=self._beat, name="qaedge beat", daemon=True).start()
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
        if not self._open:
            return
        self._open = False
        self._closing.set()
        with contextlib.suppress(OSError):
            self._process.write(frames.pack({"type": "shutdown"}))
        with contextlib.suppress(OSError):
            self._process.close_input()
        if self._process.wait(5.0) is None:
            self._process.kill()
        self._inbox.join()
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

    def ask(self, message: Mapping[str, Any], answer: type[M]) -> M:
        """Send a message and return its answer; raise ProtocolError where another one comes."""
        self._send(dict(message))
        return self._expect(answer)

    def follow(
        self, message: Mapping[str, Any], between: type[frames.Message], *ends: type[frames.Message]
    ) -> Iterator[frames.Message]:
        """Send a message that starts long work; yield what comes, of kind `between`, until one of `ends` has come."""
        self._send(dict(message))
        while True:
            found = self._receive()
            if not isinstance(found, (between, *ends)):
                raise self._unexpected(found, between.__name__.lower())
            yield found
            if isinstance(found, ends):
                return

    def conditions(self) -> dict[str, Any]:
        """Return all that the agent can tell of its board now: `facts` and `readings`."""
        found = self.ask({"type": "conditions"}, frames.Conditions)
        return {"facts": frames.cleaned(found.facts), "readings": frames.cleaned(found.readings)}

    def measure(self, order: Mapping[str, Any]) -> Iterator[frames.Result]:
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
                elif isinstance(message, frames.Result):
                    yield message
                else:
                    raise self._unexpected(message, "results")
        except MeasurementError:
            done = True
            raise
        finally:
            if not done and self._open:
                # Where the device is lost meanwhile, the next call says so.
                with contextlib.suppress(MeasurementError):
                    self._send({"type": "cancel"})
                    while not isinstance(self._receive(), frames.Done):
                        pass

    def _greet(self, runtime: bool) -> frames.Hello:
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
        if runtime and not any(name in hello.runtimes for name in wanted):
            known = [name for name in wanted if name in RUNTIMES]
            reasons = "; ".join(f"{name}: {hello.runtime_failures.get(name, 'unknown here')}" for name in wanted)
            reasons = reasons or "Its description names none"
            raise AgentFailed(
                f"No runtime on {self.device.name} ({hello.executable}, Python {hello.python}). {reasons}.",
                "\n".join(RUNTIMES[name].advice.format(python=hello.executable) for name in known) or _HAS_NONE,
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
            holder = owner()
            self._send(
                {
                    "type": "begin",
                    "device": self.device.name,
                    "heartbeat_s": heartbeat_s,
                    "host_patience_s": self._host_patience_s,
                    "holder": holder,
                }
            )
            message = self._receive()
            if isinstance(message, frames.Ready):
                return
            if not isinstance(message, frames.Busy):
                raise self._unexpected(message, "ready or busy")
            if time.monotonic() >= until:
                who = _clean_table(message.holder)
                if "owner" in who:
                    raise leased(self.device.name, who)
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
            with self._writing:
                self._process.write(data)
        except (OSError, ValueError):
            # Nobody reads: the reader knows why, or is about to.
            while True:
                self._receive()

    def _beat(self) -> None:
        """Tell the agent that its host lives, or it would hold the device for a host whose cable was pulled."""
        while not self._closing.wait(self._host_patience_s / _BEATS):
            try:
                with self._writing:
                    self._process.write(frames.pack({"type": "alive"}))
            except (OSError, ValueError):
                return

    def _expect(self, kind: type[M]) -> M:
        message = self._receive()
        if not isinstance(message, kind):
            raise self._unexpected(message, kind.__name__.lower())
        return message

    def _unexpected(self, message: frames.Message, wanted: str) -> ProtocolError:
        return ProtocolError(
            f"{self.device.name} said {type(message).__name__.lower()!r} where {wanted} was due.",
            self._inbox.complaint(),
        )

    def _receive(self) -> frames.Message:
        """Return the next message, or raise what ended the session; once ended, always."""
        return self._inbox.receive()


def _clean_table(table: Mapping[str, str]) -> dict[str, str]:
    return {frames.clean(key): frames.clean(value) for key, value in table.items()}


def owner() -> str:
    """Return who we are to others who use the same device."""
    return f"{_user()}@{platform.node()}"


def leased(device: str, who: Mapping[str, str]) -> DeviceBusy:
    """Return the error for a device that somebody has for himself."""
    return DeviceBusy(
        f"{who['owner']} has {device} for himself{left(who)}.",
        f"Wait (--wait), or ask. If nobody needs that any more: qaedge device unlock {device} --force",
    )


def left(who: Mapping[str, str]) -> str:
    """Say for how long yet somebody has a device, to go on after that; nothing where that is not known."""
    found = who.get("left_s", "")
    return f", for another {_minutes(found)}" if found else ""


def _minutes(seconds: str) -> str:
    try:
        minutes = float(seconds) / 60
    except ValueError:
        return "while"
    return f"{minutes:.0f} min" if minutes >= 1 else "minute"


def _user() -> str:
    try:
        return re.sub(r"[^\w.-]", "_", getpass.getuser())
    except (KeyError, OSError):  # a user id without a name
        return "somebody"
