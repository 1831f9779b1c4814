"""TensorRT, from 8.5 on: load(path, threads, options) -> a session that runs when called, timed by CUDA events.

https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/. An engine is built on the
board, from the ONNX file. Building and the look at the GPU happen in a forked process: its memory and its heat are not
the candidate's, and CUDA is started in no process that forks afterwards.
"""

import contextlib
import ctypes
import os
import re
import signal
import sys
from typing import Any, Callable, Dict, List, Optional, Sequence

import engines
import numpy
from cudart import Cuda, Memory
from onnx_files import reference
from tensors import Tensor, Unsupported, draw, given

try:
    import tensorrt
except ImportError as error:
    raise ImportError(
        "%s. TensorRT comes with JetPack: sudo apt install python3-libnvinfer; a virtual environment "
        "finds it where it was made with --system-site-packages, by the same Python" % error
    ) from error

NAME = "tensorrt"
VERSION = str(tensorrt.__version__)

#: How long building may take, beside the candidate's own deadline [s].
BUILD_S = 600.0
#: The least warm-up of a GPU, whose clocks rise slowly [s] (R4).
WARMUP_S = 0.5
#: What building may use beside the engine [bytes]; a Jetson's GPU shares its memory with everything else.
WORKSPACE = 1 << 30
#: TensorRT's word -> numpy's. (Its own `nptype` fails in 8.5 with numpy from 1.24 on.)
TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
#: What to do about the refusal that a user of INT8 files meets first.
SYMMETRIC = (
    "TensorRT wants symmetric quantization, every zero point 0, and the INT8 files that qaedge exports have others: "
    "measure them with --runtime onnxruntime, and float files with TensorRT"
)
_ZERO_POINT = re.compile(r"zero.?point", re.IGNORECASE)
_PR_SET_PDEATHSIG = 1


class Failed(Exception):
    """TensorRT refused the file, or failed; the text holds its own words."""


class Messages(tensorrt.ILogger):  # type: ignore[misc]
    """What TensorRT says of errors; the rest of its talk is dropped."""

    def __init__(self) -> None:
        """Nothing was said yet."""
        tensorrt.ILogger.__init__(self)
        self.errors: List[str] = []

    def log(self, severity: Any, msg: str) -> None:
        """Keep an error; called by TensorRT."""
        if severity in (tensorrt.ILogger.Severity.ERROR, tensorrt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(str(msg))

    def failure(self, what: str, *more: str) -> Failed:
        """Return what failed, with what TensorRT said."""
        said = list(dict.fromkeys([*more, *self.errors]))
        text = "; ".join(said)[:1500] if said else "TensorRT gave no reason"
        if _ZERO_POINT.search(text):
            text = "%s. %s" % (text.rstrip("."), SYMMETRIC)
        return Failed("%s: %s" % (what, text))


class Session:
    """Work for the GPU with its inputs and outputs in place; calling it runs it once."""

    def __init__(self, cuda: Cuda, enqueue: Callable[[], None], stream: int) -> None:
        """Keep what runs it; `enqueue` puts one run into the stream."""
        self.inputs: List[Tensor] = []
        self.outputs: List[Tensor] = []
        self.memory: Dict[str, Memory] = {}
        self.kept: List[Any] = []
        self._cuda = cuda
        self._enqueue = enqueue
        self._stream = stream
        self._start, self._end = cuda.event(), cuda.event()

    def __call__(self) -> None:
        """Run one inference, and wait for it."""
        self._enqueue()
        self._cuda.wait(self._stream)

    def timed(self, repeats: int) -> int:
        """Return the time of `repeats` back-to-back runs [ns], between two marks that the GPU itself sets.

        What the processor takes to wake up, or to copy inputs and outputs, is not in it.
        """
        enqueue = self._enqueue
        self._cuda.record(self._start, self._stream)
        for _ in range(repeats):
            enqueue()
        self._cuda.record(self._end, self._stream)
        return self._cuda.elapsed_ns(self._start, self._end)

    def settle(self) -> None:
        """Nothing: shapes are known, and outputs have their memory, from the beginning."""

    def values(self) -> Dict[str, Any]:
        """Return the outputs of the last run."""
        found = {}
        for tensor in self.outputs:
            found[tensor.name] = numpy.empty(tensor.shape, tensor.dtype)
            self.memory[tensor.name].read_into(found[tensor.name])
        return found


def warmup_s(options: Dict[str, Any]) -> float:
    """Return the least warm-up [s]."""
    return WARMUP_S


def prepare(path: str, threads: int, options: Dict[str, Any]) -> bytes:
    """Return a file's engine, kept or newly built: what an application would ship. Raises Failed or Unsupported."""
    with open(path, "rb") as file:
        return _engine(file.read(), options)


def load(
    path: str,
    threads: int,
    options: Dict[str, Any],
    inputs: Optional[Dict[str, Any]] = None,
    prepared: Optional[bytes] = None,
) -> Session:
    """Load a file, or what `prepare` made of it, and put its inputs in place: those given, or random ones.

    `options`: `fp16` (default: yes) lets TensorRT compute in half precision; `seed` for the random
    inputs. INT8 is what the file's Q/DQ nodes say. `threads` means nothing to a GPU.
    """
    return _load(prepared if prepared is not None else prepare(path, threads, options), options, inputs)


def load_reference(threads: int, options: Dict[str, Any]) -> Session:
    """Load the reference model: the same work in every session (R14)."""
    return _load(_engine(reference(), options), options, None)


def load_identity(tensors: Sequence[Tensor], threads: int, options: Dict[str, Any]) -> Session:
    """Return a session that copies such tensors within the GPU: what any network of that shape has to do (R12).

    TensorRT has an Identity for some types only, and builds for seconds; a copy is the same work.
    """
    cuda = Cuda()
    stream = cuda.stream()
    random = numpy.random.RandomState(0)
    pairs = []
    for tensor in tensors:
        value = draw(random, tensor.shape, tensor.dtype)
        pairs.append((Memory(cuda, value.nbytes), Memory(cuda, value.nbytes)))
        pairs[-1][0].fill(value)

    def enqueue() -> None:
        for source, sink in pairs:
            source.copy_to(sink, stream)

    session = Session(cuda, enqueue, stream)
    for number, (tensor, (_, sink)) in enumerate(zip(tensors, pairs)):  # noqa: B905 - Python 3.8
        session.inputs.append(Tensor("x%d" % number, tensor.dtype, tensor.shape))
        session.outputs.append(Tensor("x%d_" % number, tensor.dtype, tensor.shape))
        session.memory["x%d_" % number] = sink
    return session


def _load(engine: bytes, options: Dict[str, Any], inputs: Optional[Dict[str, Any]]) -> Session:
    messages = Messages()
    runtime = tensorrt.Runtime(messages)
    loaded = runtime.deserialize_cuda_engine(engine)
    context = loaded.create_execution_context() if loaded is not None else None
    if context is None:
        raise messages.failure("The engine could not be loaded")
    cuda = Cuda()
    stream = cuda.stream()

    def enqueue() -> None:
        if not context.execute_async_v3(stream):
            raise messages.failure("The engine did not run")

    session = Session(cuda, enqueue, stream)
    session.kept = [runtime, loaded]  # both must outlive what runs
    random = numpy.random.RandomState(int(options.get("seed", 0)))
    names = [loaded.get_tensor_name(number) for number in range(loaded.num_io_tensors)]
    wanted = [name for name in names if loaded.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT]
    for name in names:
        tensor = Tensor(name, _dtype(name, loaded.get_tensor_dtype(name)), tuple(loaded.get_tensor_shape(name)))
        if -1 in tensor.shape:
            raise Unsupported("The shape of %r depends on the data: %s." % (name, list(tensor.shape)))
        if loaded.get_tensor_location(name) != tensorrt.TensorLocation.DEVICE:
            raise Unsupported("%r is a shape, which TensorRT wants in the processor's memory." % name)
        count = 1
        for size in tensor.shape:
            count *= size
        memory = Memory(cuda, count * numpy.dtype(tensor.dtype).itemsize)
        if loaded.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT:
            if inputs is not None:
                value = given(inputs, wanted, name, tensor.dtype, tensor.shape)
            else:
                value = draw(random, tensor.shape, tensor.dtype)
            memory.fill(numpy.ascontiguousarray(value))
            session.inputs.append(tensor)
        else:
            session.outputs.append(tensor)
        if not context.set_tensor_address(name, memory.address):
            raise messages.failure("%r has no place" % name)
        session.memory[name] = memory
    return session


def _engine(contents: bytes, options: Dict[str, Any]) -> bytes:
    """Return the engine for a file's contents; the work is done in a process of its own."""

    def work() -> bytes:
        half = bool(options.get("fp16", True))
        name, capability = Cuda().device()
        cache = engines.Engines()
        key = engines.key(contents, [VERSION, name, capability, "fp16=%s" % half])
        found = cache.read(key)
        if found is None or not _loads(found):
            found = _build(contents, half)
            cache.write(key, found)
        return found

    return apart(work)


def _loads(engine: bytes) -> bool:
    """Whether TensorRT takes a kept engine: after an update of the driver it may not."""
    return tensorrt.Runtime(Messages()).deserialize_cuda_engine(engine) is not None


def _build(contents: bytes, half: bool) -> bytes:
    """Return the engine that TensorRT builds; raise Failed with its words, or Unsupported."""
    messages = Messages()
    builder = tensorrt.Builder(messages)
    # From 10 on every network has an explicit batch, and from 11 on the precision that its file says: no flags.
    explicit = getattr(tensorrt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    network = builder.create_network(1 << int(explicit) if explicit is not None else 0)
    parser = tensorrt.OnnxParser(network, messages)
    if not parser.parse(contents):
        said = [str(parser.get_error(number).desc()) for number in range(parser.num_errors)]
        raise messages.failure("TensorRT cannot read this file", *said)
    for number in range(network.num_inputs):
        _fix(network.get_input(number))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, WORKSPACE)
    if half and hasattr(tensorrt.BuilderFlag, "FP16"):
        config.set_flag(tensorrt.BuilderFlag.FP16)
    if _is_quantized(network) and hasattr(tensorrt.BuilderFlag, "INT8"):
        config.set_flag(tensorrt.BuilderFlag.INT8)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise messages.failure("TensorRT cannot build this network")
    return bytes(memoryview(engine))


def _fix(tensor: Any) -> None:
    """Make a dynamic batch 1; raise Unsupported for other dynamic dimensions."""
    shape = list(tensor.shape)
    unknown = [axis for axis, size in enumerate(shape) if size < 0 and axis > 0]
    if unknown:
        raise Unsupported(
            "The input %r has dynamic dimensions: %s. Export it with fixed ones."
            % (tensor.name, ", ".join("axis %d" % axis for axis in unknown))
        )
    if shape and shape[0] < 0:
        tensor.shape = [1, *shape[1:]]


def _is_quantized(network: Any) -> bool:
    """Whether there are Q/DQ nodes: the flag is an error without them, and its lack is one with them."""
    kinds = (tensorrt.LayerType.QUANTIZE, tensorrt.LayerType.DEQUANTIZE)
    return any(network.get_layer(number).type in kinds for number in range(network.num_layers))


def apart(work: Callable[[], bytes]) -> bytes:
    """Return what `work` returns in a forked process; raise what it raised there, by its text."""
    source, sink = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(source)
            _begin(parent)
            try:
                answer = b"+" + work()
            except Unsupported as reason:
                answer = b"?" + str(reason).encode()
            except BaseException as reason:  # noqa: BLE001 - told to the parent
                answer = b"-" + (str(reason) or type(reason).__name__).encode()
            with os.fdopen(sink, "wb") as file:
                file.write(answer)
        finally:
            os._exit(0)
    os.close(sink)
    with os.fdopen(source, "rb") as file:
        answer = file.read()
    status = os.waitpid(pid, 0)[1]
    if answer[:1] == b"+":
        return answer[1:]
    if answer[:1] == b"?":
        raise Unsupported(answer[1:].decode(errors="replace"))
    if answer:
        raise Failed(answer[1:].decode(errors="replace"))
    raise Failed("The process that builds the engine ended: wait status %d. Memory may have run out." % status)


def _begin(parent: int) -> None:
    """In the process that builds: die with the candidate's, and use every core, since nothing is timed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, range(os.cpu_count() or 1))


def _dtype(name: str, kind: Any) -> str:
    if kind.name not in TYPES:
        raise Unsupported("%r is %s; known: %s." % (name, kind.name, ", ".join(TYPES)))
    return TYPES[kind.name]
