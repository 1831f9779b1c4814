"""The ONNX Runtime: load(path, threads, options) -> a session that runs when called."""

import struct
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy
import onnxruntime

NAME = "onnxruntime"
VERSION = str(onnxruntime.__version__)

#: ONNX Runtime's word -> (numpy's word, the number in ONNX files)
TYPES = {
    "tensor(float)": ("float32", 1),
    "tensor(uint8)": ("uint8", 2),
    "tensor(int8)": ("int8", 3),
    "tensor(uint16)": ("uint16", 4),
    "tensor(int16)": ("int16", 5),
    "tensor(int32)": ("int32", 6),
    "tensor(int64)": ("int64", 7),
    "tensor(bool)": ("bool", 9),
    "tensor(float16)": ("float16", 10),
    "tensor(double)": ("float64", 11),
}

Shape = Tuple[int, ...]


class Tensor(NamedTuple):
    """What goes in or comes out: its name, numpy's word for its type, its shape."""

    name: str
    dtype: str
    shape: Shape


class Unsupported(Exception):
    """Something in the file that cannot be run as it is; the text says what and what to do."""


class Session:
    """A loaded file with its inputs and outputs bound; calling it runs one inference."""

    def __init__(self, session: Any, inputs: List[Tensor], binding: Any) -> None:
        """Keep what `load` has made."""
        self.inputs = inputs
        self.outputs: List[Tensor] = []
        self._kept: List[Any] = []
        self._session = session
        self._binding = binding

    def __call__(self) -> None:
        """Run one inference."""
        self._session.run_with_iobinding(self._binding)

    def settle(self) -> None:
        """After the first run: read the outputs' shapes and let later runs write into the same memory."""
        found = []
        for node, value in zip(self._session.get_outputs(), self._binding.get_outputs()):  # noqa: B905 - Python 3.8
            if not value.is_tensor():
                raise Unsupported("The output %r is %s, not a tensor." % (node.name, value.data_type()))
            found.append(Tensor(node.name, _dtype(node.name, value.data_type()), tuple(value.shape())))
        # Memory of our own: the values just read belong to the binding, and are gone when it is cleared.
        make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        self._kept = [make(list(t.shape), numpy.dtype(t.dtype).type, "cpu") for t in found]
        self._binding.clear_binding_outputs()
        for tensor, value in zip(found, self._kept):  # noqa: B905 - Python 3.8
            self._binding.bind_ortvalue_output(tensor.name, value)
        self.outputs = found

    def values(self) -> Dict[str, Any]:
        """Return the outputs of the last run."""
        names = [tensor.name for tensor in self.outputs]
        return dict(zip(names, self._binding.copy_outputs_to_cpu()))  # noqa: B905 - Python 3.8


def load(path: str, threads: int, options: Dict[str, Any], inputs: Optional[Dict[str, Any]] = None) -> Session:
    """Load a file and bind its inputs: those given, or random ones of the right type and shape.

    `options`: `providers` (default: the processor), `sizes` (name of a dynamic dimension -> size)
    and `seed` for the random inputs. Raises Unsupported, or whatever the runtime raises.
    """
    session = _session(path, threads, options.get("providers") or ["CPUExecutionProvider"])
    random = numpy.random.RandomState(int(options.get("seed", 0)))
    binding = session.io_binding()
    tensors = []
    for node in session.get_inputs():
        dtype = _dtype(node.name, node.type)
        shape = _fixed(node.name, node.shape, options.get("sizes") or {})
        value = inputs[node.name] if inputs else draw(random, shape, dtype)
        tensors.append(Tensor(node.name, dtype, shape))
        binding.bind_ortvalue_input(node.name, onnxruntime.OrtValue.ortvalue_from_numpy(value))
    for node in session.get_outputs():
        binding.bind_output(node.name, "cpu")
    return Session(session, tensors, binding)


def _session(source: Any, threads: int, providers: Sequence[Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A spinning pool burns the cores that the next candidate needs (R11).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    missing = [p for p in providers if (p if isinstance(p, str) else p[0]) not in onnxruntime.get_available_providers()]
    if missing:
        raise Unsupported(
            "This onnxruntime has no %s; it has %s." % (missing, ", ".join(onnxruntime.get_available_providers()))
        )
    return onnxruntime.InferenceSession(source, options, providers=list(providers))


def _dtype(name: str, word: str) -> str:
    if word not in TYPES:
        raise Unsupported("%r is %s; known: %s." % (name, word, ", ".join(TYPES)))
    return TYPES[word][0]


def _fixed(name: str, shape: Sequence[Any], sizes: Dict[str, int]) -> Shape:
    """Return the shape with its dynamic dimensions filled in: as told, the batch as 1."""
    fixed = []
    unknown = []
    for axis, size in enumerate(shape):
        if isinstance(size, int) and size >= 0:
            fixed.append(size)
        elif isinstance(size, str) and size in sizes:
            fixed.append(int(sizes[size]))
        else:
            fixed.append(1)
            if axis > 0:
                unknown.append("%s (axis %d)" % (size or "unnamed", axis))
    if unknown:
        raise Unsupported(
            "The input %r has dynamic dimensions: %s. Export it with fixed ones, or give their sizes."
            % (name, ", ".join(unknown))
        )
    return tuple(fixed)


def draw(random: Any, shape: Shape, dtype: str) -> Any:
    """Return a random array: the whole range of 8-bit integers, 0 or 1 for wider ones, else normal.

    Wider integers are mostly indices, and 0 and 1 are in range nearly everywhere.
    """
    if dtype in ("uint8", "int8"):
        limits = numpy.iinfo(dtype)
        return random.randint(limits.min, limits.max + 1, size=shape).astype(dtype)
    if dtype.startswith("float"):
        return random.standard_normal(shape).astype(dtype)
    return random.randint(0, 2, size=shape).astype(dtype)


def load_identity(tensors: Sequence[Tensor], threads: int, options: Dict[str, Any]) -> Session:
    """Load a model that does nothing to such tensors: what is left is the cost of calling (R12)."""
    names = [t._replace(name="x%d" % i) for i, t in enumerate(tensors)]
    session = _session(identity(names), threads, options.get("providers") or ["CPUExecutionProvider"])
    random = numpy.random.RandomState(0)
    binding = session.io_binding()
    for tensor in names:
        value = draw(random, tensor.shape, tensor.dtype)
        binding.bind_ortvalue_input(tensor.name, onnxruntime.OrtValue.ortvalue_from_numpy(value))
        binding.bind_output(tensor.name + "_", "cpu")
    return Session(session, names, binding)


def identity(tensors: Sequence[Tensor]) -> bytes:
    """Return an ONNX file with one Identity node per tensor, `NAME` in and `NAME_` out.

    Written by hand, because boards have no `onnx` package; the numbers are the field numbers of
    https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
    """
    codes = {dtype: code for dtype, code in TYPES.values()}
    graph = b""
    for name, dtype, shape in tensors:
        source, sink = name.encode(), name.encode() + b"_"
        graph += _field(1, _field(1, source) + _field(2, sink) + _field(4, b"Identity"))
        dims = b"".join(_field(1, _number(1, size)) for size in shape)
        kind = _field(2, _field(1, _number(1, codes[dtype]) + _field(2, dims)))
        graph += _field(11, _field(1, source) + kind) + _field(12, _field(1, sink) + kind)
    graph += _field(2, b"identity")
    return _number(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _number(2, 13))


def _varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data += struct.pack("B", value & 127 | 128)
        value >>= 7
    return data + struct.pack("B", value)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)
