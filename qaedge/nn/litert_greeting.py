"""LiteRT's greeting: a line on stderr when a process first uses XNNPACK, which is no news to anybody.

Nothing in Python turns it off. So a network of one operator is loaded first, which brings it out, and stderr is
held back for that moment alone: what LiteRT says of files that matter goes where it always goes.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from qaedge.nn.tflite_file import TfliteFile

#: How the line begins.
GREETING = b"INFO: Created TensorFlow Lite XNNPACK delegate"
_STDERR = 2
_lock = threading.Lock()
_heard = False


def hear(interpreter: Any) -> None:
    """Let LiteRT say its line, once in a process; `interpreter` is its class.

    Raises MissingExtra where its schema is not there.
    """
    global _heard
    with _lock:  # stderr is the process's: two threads must not turn it aside at once
        if _heard:
            return
        with without_line(GREETING):
            interpreter(model_content=_smallest(), num_threads=1).allocate_tensors()
        _heard = True


@contextlib.contextmanager
def without_line(beginning: bytes) -> Iterator[None]:
    """Hold back what goes to stderr meanwhile, and then pass it on, but for lines that begin so."""
    try:
        kept = os.dup(_STDERR)
    except OSError:  # closed: nothing can be written there anyway
        yield
        return
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)
            aside.seek(0)
            rest = b"".join(line for line in aside if not line.startswith(beginning))
            if rest:
                os.write(_STDERR, rest)


def _smallest() -> bytes:
    """A network that XNNPACK takes: one number, clamped."""
    file = TfliteFile()
    given, output = (file.tensor(name, (1, 1), "FLOAT32") for name in ("x", "y"))
    file.operator("RELU", [given], output)
    return file.data({"x": given}, {"y": output})
