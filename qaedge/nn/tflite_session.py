"""A TFLite file on this machine's LiteRT: to check numerics and accuracy, never to time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from qaedge.errors import InvalidFile, MissingExtra
from qaedge.files import read_bytes
from qaedge.nn.litert_greeting import hear


class TfliteSession:
    """A loaded file with one input and one output; channels come first here, as everywhere in `nn`."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Load a file; raise InvalidFile where the runtime refuses it, MissingExtra where there is none."""
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise MissingExtra("tflite", "ai-edge-litert") from error
        hear(Interpreter)
        try:
            self._interpreter = Interpreter(model_content=read_bytes(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InvalidFile(path, "", "a TFLite file that LiteRT can load", str(error).splitlines()[0]) from error
        self._given = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]
        #: the input's name, and the numpy type of its numbers
        self.name, self.dtype = str(self._given["name"]), np.dtype(self._given["dtype"]).name

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators of the graph as it was prepared: those a delegate took come first, then it, as DELEGATE."""
        return tuple(str(found["op_name"]) for found in self._interpreter._get_ops_details())

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images it takes."""
        _, height, width, _ = self._given["shape"]
        return int(height), int(width)

    @property
    def input_grid(self) -> tuple[float, int] | None:
        """Scale and zero point of the input; None where it is float."""
        return _grid(self._given)

    @property
    def output_grid(self) -> tuple[float, int] | None:
        """Scale and zero point of the output; None where it is float."""
        return _grid(self._output)

    def feed(self, x: Tensor | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return a batch as the file takes it: channels last, float numbers on the file's own grid."""
        value = x.numpy() if isinstance(x, Tensor) else x
        value = value.transpose(0, 2, 3, 1) if value.ndim == 4 else value
        if value.dtype.kind == "f" and self.input_grid is not None:
            scale, zero = self.input_grid
            limits = np.iinfo(self.dtype)
            # In float32, as torch does it: another rounding would be another number.
            value = np.clip(np.round(value / np.float32(scale)) + zero, limits.min, limits.max)
        return np.ascontiguousarray(value.astype(self.dtype))

    def read(self, output: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return what the file puts out as torch would have it: channels first, in float."""
        if self.output_grid is not None:
            scale, zero = self.output_grid
            output = (output.astype(np.float32) - zero) * np.float32(scale)
        return output.transpose(0, 3, 1, 2) if output.ndim == 4 else output

    def zeros(self) -> np.ndarray[Any, Any]:
        """Return what the file takes, all of it 0."""
        return np.zeros(tuple(int(size) for size in self._given["shape"]), self.dtype)

    def run_raw(self, given: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Run on what the file itself takes; return what it itself puts out."""
        self._interpreter.set_tensor(self._given["index"], given)
        self._interpreter.invoke()
        output: np.ndarray[Any, Any] = self._interpreter.get_tensor(self._output["index"])
        return output

    def run(self, x: Tensor | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Run one batch, channels first: float in, float out; integers of the file's own grid in, such integers out."""
        output = self.run_raw(self.feed(x))
        if x.is_floating_point() if isinstance(x, Tensor) else x.dtype.kind == "f":
            return self.read(output)
        return output.transpose(0, 3, 1, 2) if output.ndim == 4 else output


def _grid(details: dict[str, Any]) -> tuple[float, int] | None:
    if np.dtype(details["dtype"]).kind == "f":
        return None
    scale, zero = details["quantization"]
    return float(scale), int(zero)
