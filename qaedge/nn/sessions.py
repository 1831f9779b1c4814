"""Sessions: an exported file on this machine's own runtime, whatever its format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from qaedge.errors import UnsupportedOperator
from qaedge.nn.onnx_session import OnnxSession
from qaedge.nn.tflite_session import TfliteSession


class Session(Protocol):
    """A loaded file with one input and one output, fed with what torch is fed with."""

    name: str
    dtype: str

    def feed(self, x: Tensor | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return a batch as the file itself takes it."""

    def read(self, output: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return what the file itself puts out as torch would have it."""

    def zeros(self) -> np.ndarray[Any, Any]:
        """Return what the file itself takes, all of it 0."""

    def run_raw(self, given: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Run on what the file itself takes; return what it itself puts out."""

    def run(self, x: Tensor | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Run one batch (batch, channels, height, width)."""


#: suffix of a file -> what loads it: (path, threads).
SESSIONS: dict[str, Callable[[Path, int], Session]] = {".onnx": OnnxSession, ".tflite": TfliteSession}


def load_file(path: Path, threads: int = 1) -> Session:
    """Load an exported file.

    Raises:
        InvalidFile: its runtime refuses it.
        MissingExtra: its runtime is not installed.
        UnsupportedOperator: no runtime here takes such files.
    """
    load = SESSIONS.get(path.suffix)
    if load is None:
        raise UnsupportedOperator(f"{path}: no runtime here takes such files.", f"Known: {', '.join(SESSIONS)}.")
    return load(path, threads)
