"""An ONNX file on this machine's ONNX Runtime: to check numerics and accuracy, never to time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from qaedge.errors import InvalidFile

FLOAT = "tensor(float)"
_TYPES = {"tensor(uint8)": np.uint8, "tensor(int8)": np.int8, FLOAT: np.float32}


class OnnxSession:
    """A loaded file with one input and one output."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Load a file; raise InvalidFile where the runtime refuses it."""
        # From 1.29 on it reports home and leaves a file in TMPDIR, unless told before it is imported.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Exact products also on x86 without VNNI, where 8-bit weights would saturate: a file made
        # for a board must mean here what it means there.
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises a dozen types of its own
            raise InvalidFile(
                path, "", "an ONNX file that ONNX Runtime can load", str(error).splitlines()[0]
            ) from error
        given = self._session.get_inputs()[0]
        self.name, self.kind = given.name, given.type

    def run(self, x: Tensor | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Run one batch; the input has the file's own type, or is converted from it exactly."""
        value = x.numpy() if isinstance(x, Tensor) else x
        output: np.ndarray[Any, Any] = self._session.run(None, {self.name: value.astype(_TYPES[self.kind])})[0]
        return output
