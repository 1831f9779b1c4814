"""One inference on given inputs, in a child of its own: what the host compares with its own outputs.

Outputs go back in pieces of base64.
"""

import base64
import os
from typing import Any, Callable, Dict

import inputs
from child import Child
from link import Link
from uploads import Uploads

Message = Dict[str, Any]

#: Bytes of an output in one message: in base64, well below what a frame holds.
_PIECE = 1 << 18
#: What a child may write, and a host is sent [bytes].
_LARGEST = 1 << 28


class Inference:
    """One `infer` message."""

    def __init__(
        self, link: Link, runtime: Any, uploads: Uploads, order: Message, folder: str, release: Callable[[], None]
    ) -> None:
        """Keep what is needed; `release` closes in a child what belongs to the agent."""
        self._link = link
        self._runtime = runtime
        self._order = order
        self._folder = folder
        self._release = release
        self._path = uploads.path(order["sha256"])
        self._inputs = inputs.described(order["inputs"], uploads) or []

    def run(self) -> None:
        """Send each output in pieces, then `inferred`; raise Died where the child does, Failed where it says so."""
        limits = {"RLIMIT_CPU": int(self._order["deadline_s"]) + 1, "RLIMIT_NOFILE": 256, "RLIMIT_FSIZE": _LARGEST}
        child = Child(lambda: self._answer, limits, self._release)
        try:
            answer = child.ask(self._link, {"type": "infer"}, float(self._order["deadline_s"]))
        finally:
            child.end()
        if answer["type"] == "failed":
            raise Failed(str(answer["text"]))
        for number in range(len(answer["outputs"])):
            path = self._file(number)
            with open(path, "rb") as file:
                while True:
                    data = file.read(_PIECE)
                    if not data:
                        break
                    self._link.send("output", number=number, data=base64.b64encode(data).decode())
            os.unlink(path)
        self._link.send("inferred", outputs=answer["outputs"])

    def _file(self, number: int) -> str:
        return os.path.join(self._folder, "output-%d" % number)

    def _answer(self, _message: Message) -> Message:
        """In the child: load, run, write."""
        try:
            given = inputs.read(self._inputs, self._runtime.numpy) if self._inputs else {}
            session = self._runtime.load(self._path, int(self._order["threads"]), self._order["options"], given)
            session()
            session.settle()
            session()
            outputs = []
            for number, (name, value) in enumerate(session.values().items()):
                value = self._runtime.numpy.ascontiguousarray(value)
                value.tofile(self._file(number))
                outputs.append({"name": name, "dtype": str(value.dtype), "shape": list(value.shape)})
            return {"type": "outputs", "outputs": outputs}
        except Exception as error:  # noqa: BLE001 - a runtime raises what it likes
            return {"type": "failed", "text": (str(error) or type(error).__name__)[:2000]}


class Failed(Exception):
    """The runtime refused the file, or its inputs; the text says why."""
