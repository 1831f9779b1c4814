"""The ONNX Runtime: load(path, threads, options) -> a session that runs when called."""

from typing import Any, Dict, List, Optional, Sequence, Union

import numpy
import onnxruntime
from onnx_files import identity, reference
from tensors import Shape, Tensor, Unsupported, draw, given
from unpack import unpacked

NAME = "onnxruntime"
VERSION = str(onnxruntime.__version__)

#: ONNX Runtime's word -> numpy's.
TYPES = {
    "tensor(float)": "float32",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(uint16)": "uint16",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
}

#: The provider that needs nothing but the processor.
PROCESSOR = "CPUExecutionProvider"
#: The least warm-up with any other [s] (R4).
GPU_WARMUP_S = 0.5


class Session:
    """A loaded file with its inputs and outputs bound; calling it runs one inference."""

    def __init__(self, session: Any, inputs: List[Tensor], binding: Any) -> None:
        """Keep what `load` has made."""
        # A GPU's provider may come back from a run before its outputs are in the processor's memory.
        self.on_gpu = session.get_providers() != [PROCESSOR]
        self.inputs = inputs
        self.outputs: List[Tensor] = []
        self._kept: List[Any] = []
        self._session = session
        self._binding = binding

    def __call__(self) -> None:
        """Run one inference."""
        self._session.run_with_iobinding(self._binding)
        if self.on_gpu:
            self._binding.synchronize_outputs()

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


def warmup_s(options: Dict[str, Any]) -> float:
    """Return the least warm-up [s]: clocks of a GPU rise slowly."""
    return GPU_WARMUP_S if set(options.get("providers") or [PROCESSOR]) != {PROCESSOR} else 0.0


def prepare(path: str, threads: int, options: Dict[str, Any]) -> Union[str, bytes]:
    """Return what is loaded: the file, or its bytes with weights unpacked that lie packed in it."""
    with open(path, "rb") as file:
        data = file.read()
    plain = unpacked(data)
    return path if plain is data else plain


def load(
    path: str,
    threads: int,
    options: Dict[str, Any],
    inputs: Optional[Dict[str, Any]] = None,
    prepared: Union[str, bytes, None] = None,
) -> Session:
    """Load a file, or what `prepare` made of it, and bind its inputs: those given, or random ones that fit.

    `options`: `providers` (default: the processor), `sizes` (name of a dynamic dimension -> size)
    and `seed` for the random inputs. Raises Unsupported, or whatever the runtime raises.
    """
    source = prepare(path, threads, options) if prepared is None else prepared
    session = _session(source, threads, options.get("providers") or [PROCESSOR])
    return _bound(session, options, inputs)


def _bound(session: Any, options: Dict[str, Any], inputs: Optional[Dict[str, Any]] = None) -> Session:
    random = numpy.random.RandomState(int(options.get("seed", 0)))
    binding = session.io_binding()
    tensors = []
    names = [node.name for node in session.get_inputs()]
    for node in session.get_inputs():
        dtype = _dtype(node.name, node.type)
        if inputs is not None:
            sizes = [size if isinstance(size, int) and size >= 0 else None for size in node.shape]
            value = given(inputs, names, node.name, dtype, sizes)
        else:
            value = draw(random, _fixed(node.name, node.shape, options.get("sizes") or {}), dtype)
        tensors.append(Tensor(node.name, dtype, tuple(value.shape)))
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
    return TYPES[word]


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


def load_identity(tensors: Sequence[Tensor], threads: int, options: Dict[str, Any]) -> Session:
    """Load a model that does nothing to such tensors: what is left is the cost of calling (R12)."""
    names = [t._replace(name="x%d" % i) for i, t in enumerate(tensors)]
    session = _session(identity(names), threads, options.get("providers") or [PROCESSOR])
    random = numpy.random.RandomState(0)
    binding = session.io_binding()
    for tensor in names:
        value = draw(random, tensor.shape, tensor.dtype)
        binding.bind_ortvalue_input(tensor.name, onnxruntime.OrtValue.ortvalue_from_numpy(value))
        binding.bind_output(tensor.name + "_", "cpu")
    return Session(session, names, binding)


def load_reference(threads: int, options: Dict[str, Any]) -> Session:
    """Load the reference model: the same work on every board and in every session (R14)."""
    session = _session(reference(), threads, options.get("providers") or [PROCESSOR])
    return _bound(session, options)
