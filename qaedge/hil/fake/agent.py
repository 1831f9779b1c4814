"""The agent of a fake board: answers each frame of docs/agent-protocol.md as profilers/agent.py does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from qaedge.hil import frames
from qaedge.hil.fake.board import VERSION, Board
from qaedge.hil.fake.chunk import Chunk, Reference
from qaedge.hil.fake.faults import Broken, Ended, suffer
from qaedge.hil.fake.line import Cancelled, FrameError, Gone, Line, Link, unpack

#: What must stay free on the disk beside a file, as profilers/uploads.py has it [bytes].
_SPARE = 1 << 24
_FOLDER, _PYTHON = "/fake/qaedge", "/fake/python"
Message = dict[str, Any]


class Agent:
    """One agent, from its greeting to its end."""

    def __init__(self, line: Line, board: Board, runtimes: Sequence[str]) -> None:
        """Serve `line`; nothing is done until `run`."""
        self._line = line
        self._link = Link(line, board)
        self._board = board
        self._runtimes = tuple(runtimes)
        self._files: dict[str, int] = {}
        self._references: dict[str, Reference] = {}
        self._locked = False

    def run(self) -> None:
        """Serve the host until one of both has had enough; whatever happens, the line has an end."""
        status: int | None = 1
        complaint = ""
        try:
            self._serve()
            status = 0
        except Gone:
            status = 128 + 9 if self._line.killed else 0
        except Ended as end:
            status, complaint = end.status, end.complaint
        except Exception as error:  # noqa: BLE001 - as the real one, which says what it dies of
            complaint = f"{type(error).__name__}: {error}\n"
            text = str(error) if isinstance(error, Broken) else complaint.strip()
            try:
                self._link.send("error", text=text[:2000])
            except Gone:
                status = 0
        finally:
            if self._locked:
                self._board.release()
            self._line.end(status, complaint)

    def _serve(self) -> None:
        acts: dict[str, Callable[[Message], None]] = {
            "begin": self._begin,
            "board": self._tell_board,
            "install": lambda message: self._link.send(
                "not_installed", stage="python", text="nothing can be installed on a fake board"
            ),
            "tune": lambda message: self._link.send(
                "tuned", commands=[], ran=0, failed="", needs_password=False, notes=["a fake board has no clocks"]
            ),
            "lease": self._lease,
            "have": self._have,
            "put": self._put,
            "measure": self._measure,
            "infer": lambda message: self._link.send("not_inferred", text="a fake board computes nothing"),
            "drop": self._drop,
            "conditions": self._tell_conditions,
            "cancel": lambda message: None,  # it came when all was done already
        }
        # The first frame holds the files of the real agent, which the bootstrap would run.
        if not isinstance(msgspec.json.decode(self._link.receive()[1]), dict):
            raise FrameError("no files")
        self._hello()
        while True:
            message = unpack(self._link.receive())
            if message["type"] == "shutdown":
                self._link.send("bye")
                return
            if message["type"] not in acts:
                raise FrameError(f"an unknown message {message['type'][:80]!r}")
            acts[message["type"]](message)

    def _hello(self) -> None:
        event = self._board.event("greeting")
        what = suffer(event, self._link, self._board)
        if event is not None and what == "login text":
            self._line.write(f"{event.text}\n".encode())
        self._link.send(
            "hello",
            protocol=frames.PROTOCOL + (what == "other protocol"),
            python="3.8.0",
            executable=_PYTHON,
            system="Linux",
            pid=1,
            folder=_FOLDER,
            runtimes=dict.fromkeys(self._runtimes, VERSION),
            runtime_failures={},
            **self._board.facts(),
        )

    def _begin(self, message: Message) -> None:
        event = self._board.event("begin")
        who = suffer(event, self._link, self._board)
        holder = {"user": "fake", "pid": "1", "holder": str(message["holder"])[:200], "since": "0"}
        if event is not None and who == "busy":
            self._link.send("busy", holder={**holder, "holder": event.text})
            return
        found = self._board.take(holder)
        if found:
            self._link.send("busy", holder=found)
            return
        self._locked = True
        self._link.beat_from_now(float(message["heartbeat_s"]))
        self._link.send("ready")

    def _tell_board(self, message: Message) -> None:
        free = self._board.read(sum(self._files.values()))["disk_free_bytes"]
        self._link.send(
            "board",
            libc="fake",
            libc_version="0",
            base_python=_PYTHON,
            home="/fake",
            home_free_bytes=free,
            tmp="/fake",
            tmp_free_bytes=free,
            route=False,
            installed={},
            holder=self._board.holder,
            lease=self._board.lease,
        )

    def _lease(self, message: Message) -> None:
        owner, held = str(message["owner"]), self._board.lease
        if held.get("owner", owner) == owner or message["force"]:
            seconds = float(message["seconds"])
            self._board.lease = {"owner": owner, "left_s": str(round(seconds))} if seconds else {}
        self._link.send("leased", holder=self._board.lease)

    def _have(self, message: Message) -> None:
        self._link.send("missing", sha256=[sha256 for sha256 in message["sha256"] if sha256 not in self._files])

    def _put(self, message: Message) -> None:
        event = self._board.event("upload", sha256=str(message["sha256"]))
        what = suffer(event, self._link, self._board)
        sha256, size = str(message["sha256"]), int(message["size"])
        digest, left = hashlib.sha256(b"damaged" if what == "damaged" else b""), size
        while left > 0:
            kind, data = self._link.receive()
            if kind != frames.BYTES:
                raise FrameError("a message in the middle of a file")
            digest.update(data)
            left -= len(data)
        free = self._board.read(sum(self._files.values()))["disk_free_bytes"]
        if free < size + _SPARE:
            text = f"{free} bytes free in {_FOLDER}/files, {size + _SPARE} needed"
            self._link.send("refused", sha256=sha256, reason="disk", text=text)
        elif left < 0 or digest.hexdigest() != sha256:
            text = f"what arrived has the hash {digest.hexdigest()}"
            self._link.send("refused", sha256=sha256, reason="hash", text=text)
        else:
            self._files[sha256] = size
            self._link.send("stored", sha256=sha256)

    def _drop(self, message: Message) -> None:
        for sha256 in message["sha256"]:
            self._files.pop(sha256, None)

    def _tell_conditions(self, message: Message) -> None:
        readings = self._board.read(sum(self._files.values()))
        readings["chip_c"] = max(readings["temperature_c"].values())
        self._link.send("conditions", facts=self._board.facts(), readings=readings)

    def _measure(self, message: Message) -> None:
        if not self._locked:
            raise FrameError("measure before begin")
        for name in (message["runtime"], *(entry["runtime"] for entry in message["entries"] if "runtime" in entry)):
            if name not in self._runtimes:
                raise Broken(f"KeyError: {name!r}")
        if message["energy"]:
            raise Broken("a fake board takes no power")
        reference: Reference | None = None
        if message["settings"]["reference"]:
            key = f"{message['runtime']} {message['threads']}"
            reference = self._references.setdefault(key, Reference(self._board))
        number = self._board.chunks
        try:
            done = Chunk(self._link, self._board, message, self._files, reference).measure()
        except Cancelled:
            done = {"measured": 0, "failed": 0, "measuring_ns": 0, "cancelled": True}
        if suffer(self._board.event("end", chunk=number), self._link, self._board) == "no done":
            raise Ended(0)
        self._link.send("done", **done)
