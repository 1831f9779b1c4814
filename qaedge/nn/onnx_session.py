"""An ONNX file on this machine's ONNX Runtime: to check numerics and accuracy, never to time."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from qaedge.errors import InvalidFile
from qaedge.nn.export_onnx import IR_VERSION, OPSET, PRODUCER

#: What a file's signed integers are shifted by to be unsigned ones.
_SHIFT = 128
_TYPES = {
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(float)": "float32",
}


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
            source, shifted = _source(path)
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises a dozen types of its own
            raise InvalidFile(
                path, "", "an ONNX file that ONNX Runtime can load", str(error).splitlines()[0]
            ) from error
        given = self._session.get_inputs()[0]
        #: the input's name, and the numpy type of its numbers
        self.name, self.dtype = given.name, _TYPES[given.type]
        #: what was made of the file takes, and puts out, what the file itself does plus this
        self._shift_in = self._shift_out = 0
        if shifted:
            self._shift_in = _SHIFT if self.dtype == "uint8" else 0
            self._shift_out = _SHIFT if _TYPES[self._session.get_outputs()[0].type] == "uint8" else 0
            self.dtype = "int8" if self._shift_in else self.dtype
        self._shape = tuple(int(size) for size in given.shape)

    def zeros(self) -> np.ndarray[Any, Any]:
        """Return what the file takes, all of it 0."""
        return np.zeros(self._shape, self.dtype)

    def feed(self, x: Tensor | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return a batch as the file takes it: in its own type, converted exactly."""
        value = x.numpy() if isinstance(x, Tensor) else x
        return value.astype(self.dtype)

    def read(self, output: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return what the file puts out as torch would have it: the same."""
        return output

    def run_raw(self, given: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Run on what the file itself takes; return what it itself puts out."""
        if self._shift_in:
            given = (given.astype(np.int16) + self._shift_in).astype(np.uint8)
        output: np.ndarray[Any, Any] = self._session.run(None, {self.name: given})[0]
        return (output.astype(np.int16) - self._shift_out).astype(np.int8) if self._shift_out else output

    def run(self, x: Tensor | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Run one batch; the input has the file's own type, or is converted from it exactly."""
        return self.read(self.run_raw(self.feed(x)))


def _source(path: Path) -> tuple[str | bytes, bool]:
    """Return the path, or the bytes of what is to be run here in its place, and whether its integers were shifted.

    Packed weights are unpacked to INT8, as boards do it on loading: ONNX Runtime 1.32 computes with weights of 4 bits
    in float, and refuses those of 2 bits. Signed activations of our own files become unsigned ones on x86.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    few = [t for t in model.graph.initializer if t.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.INT2)]
    shifted = platform.machine() in ("x86_64", "AMD64") and model.producer_name == PRODUCER and _make_unsigned(model)
    if not few and not shifted:
        return str(path), False
    for tensor in few:
        integers = onnx.numpy_helper.to_array(tensor).astype(np.int8)
        tensor.CopyFrom(onnx.numpy_helper.from_array(integers, tensor.name))
    if few:
        model.ir_version = min(model.ir_version, IR_VERSION)
        for imported in model.opset_import:
            if imported.domain in ("", "ai.onnx"):
                imported.version = min(imported.version, OPSET)
    data: bytes = model.SerializeToString()
    return data, shifted


def _make_unsigned(model: Any) -> bool:
    """Make unsigned what is signed of a model's activations; return whether there was any.

    The integers mean the same. But ONNX Runtime 1.32 on x86 turns signed activations into unsigned ones itself, all
    but those that two operators read, and then computes a third of a network's convolutions in float: sums that end
    between two steps are rounded otherwise, and after fifty layers 0.7 % of the pixels get another class. On Arm,
    where signed files go, it leaves them as they are.
    """
    import onnx

    known = {tensor.name: tensor for tensor in model.graph.initializer}
    zeros = {
        node.input[2]
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] not in known
    }
    signed = [name for name in zeros if known[name].data_type == onnx.TensorProto.INT8]
    for name in signed:
        value = onnx.numpy_helper.to_array(known[name]).astype(np.int16) + _SHIFT
        known[name].CopyFrom(onnx.numpy_helper.from_array(value.astype(np.uint8), name))
    if signed:
        for end in (*model.graph.input, *model.graph.output):
            if end.type.tensor_type.elem_type == onnx.TensorProto.INT8:
                end.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    return bool(signed)
