"""TFLite (LiteRT): load(path, threads, options) -> a session that runs when called, on the processor.

The package is ai-edge-litert, or tflite-runtime where there is no other for the board's Python or processor.
"""

import re
from typing import Any, Dict, List, Optional, Sequence

import numpy
from tensors import Shape, Tensor, Unsupported, draw, given
from tflite_files import CODES, identity, reference

try:
    import ai_edge_litert as package
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    _PACKAGE = "ai-edge-litert"
except ImportError as _error:
    try:
        import tflite_runtime as package
        from tflite_runtime.interpreter import Interpreter, OpResolverType

        _PACKAGE = "tflite-runtime"
    except ImportError as _other:
        raise ImportError(
            "%s; %s. Install one of both: pip install ai-edge-litert (Python 3.10 or newer), "
            "or pip install tflite-runtime 'numpy<2'" % (_error, _other)
        ) from _other
    if int(numpy.__version__.split(".")[0]) >= 2:
        # It imports, and fails much later in words that nobody understands.
        raise ImportError("tflite-runtime needs numpy below 2, and here is %s" % numpy.__version__) from _error

NAME = "tflite"
VERSION = "%s %s" % (_PACKAGE, getattr(package, "__version__", "unknown"))

_CUSTOM = re.compile(r"unresolved custom op: (\S+?)\.?(?:\s|$)")
#: What an interpreter says of a tensor whose type came after it, by number: the operator that files hold it in (a
#: convolution of 1x1 is written as one), and the type's name (the schema of TFLite files numbers them).
_TYPE = re.compile(r"Unsupported data type (\d+) in tensor")
_TYPES = {"17": ("FULLY_CONNECTED", "INT4"), "19": ("FULLY_CONNECTED", "INT2")}
#: What tflite-runtime 2.14 says of weights that its FULLY_CONNECTED does not take.
_WEIGHTS = re.compile(r"filter->type == kTfLiteInt8\) was not true\..*?number (\d+) \((\w+)\) failed to prepare", re.S)


class Failed(Exception):
    """The runtime refused the file, or failed; the text holds its own words."""


class Session:
    """A loaded file with its inputs set; calling it runs one inference."""

    def __init__(self, interpreter: Any, inputs: List[Tensor], kept: Any = None) -> None:
        """Take an interpreter whose tensors are allocated; `kept` must outlive it."""
        self.inputs = inputs
        self.outputs: List[Tensor] = []
        #: Which operators something else runs than TFLite's own kernels, in words.
        self.delegate = _delegate(interpreter)
        self._interpreter = interpreter
        self._invoke = interpreter.invoke
        self.kept = kept

    def __call__(self) -> None:
        """Run one inference; inputs stay in the interpreter's memory, which no operator writes to."""
        self._invoke()

    def settle(self) -> None:
        """After the first run: read the outputs' shapes, which may depend on the data."""
        # A shape of no number at all is an array of float numbers in older versions.
        self.outputs = [
            Tensor(str(found["name"]), _dtype(found), tuple(int(size) for size in found["shape"]))
            for found in self._interpreter.get_output_details()
        ]

    def values(self) -> Dict[str, Any]:
        """Return the outputs of the last run."""
        found = self._interpreter.get_output_details()
        return {str(one["name"]): self._interpreter.get_tensor(one["index"]) for one in found}


def load(path: str, threads: int, options: Dict[str, Any], inputs: Optional[Dict[str, Any]] = None) -> Session:
    """Load a file and set its inputs: those given, or random ones of the right type and shape.

    `options`: `xnnpack` (default: yes) lets XNNPACK run what it can, `sizes` (NAME[AXIS] -> size of a dynamic
    dimension) and `seed` for the random inputs. Raises Failed, or Unsupported where it is known why.
    """
    interpreter = None
    try:
        interpreter = _interpreter(threads, options, model_path=path)
        return _filled(interpreter, options, inputs)
    except (RuntimeError, ValueError) as error:
        known = _reason(str(error), interpreter)
        if known:
            raise Unsupported(known) from error
        raise Failed(_words(error)) from error


def load_identity(tensors: Sequence[Tensor], threads: int, options: Dict[str, Any]) -> Session:
    """Load a model that does nothing to such tensors: what is left is the cost of calling (R12)."""
    names = [t._replace(name="x%d" % i) for i, t in enumerate(tensors)]
    contents = identity(names)
    interpreter = _interpreter(threads, options, model_content=contents)
    interpreter.allocate_tensors()
    return Session(interpreter, names, contents)


def load_reference(threads: int, options: Dict[str, Any]) -> Session:
    """Load the reference model: the same work on every board and in every session (R14)."""
    contents = reference()
    session = _filled(_interpreter(threads, options, model_content=contents), options, None)
    session.kept = contents  # the interpreter reads it where it lies
    return session


def _interpreter(threads: int, options: Dict[str, Any], **source: Any) -> Any:
    if not options.get("xnnpack", True):
        source["experimental_op_resolver_type"] = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return Interpreter(num_threads=threads, **source)


def _filled(interpreter: Any, options: Dict[str, Any], inputs: Optional[Dict[str, Any]]) -> Session:
    """Give each input its shape and its values."""
    random = numpy.random.RandomState(int(options.get("seed", 0)))
    tensors, values = [], []
    details = interpreter.get_input_details()
    names = [str(found["name"]) for found in details]
    for name, found in zip(names, details):  # noqa: B905 - Python 3.8
        dtype = _dtype(found)
        told = [int(size) for size in found["shape_signature"]] or [int(size) for size in found["shape"]]
        if inputs is not None:
            value = given(inputs, names, name, dtype, [size if size >= 0 else None for size in told])
        else:
            value = draw(random, _fixed(name, told, options.get("sizes") or {}), dtype)
        if tuple(value.shape) != tuple(found["shape"]):
            interpreter.resize_tensor_input(found["index"], list(value.shape), strict=True)
        tensors.append(Tensor(name, dtype, tuple(value.shape)))
        values.append(value)
    interpreter.allocate_tensors()
    for found, value in zip(details, values):  # noqa: B905 - Python 3.8
        interpreter.set_tensor(found["index"], value)
    return Session(interpreter, tensors)


def _dtype(found: Dict[str, Any]) -> str:
    name = str(numpy.dtype(found["dtype"]))
    if name not in CODES:
        raise Unsupported("%r is %s; known: %s." % (str(found["name"]), name, ", ".join(CODES)))
    return name


def _fixed(name: str, shape: Sequence[int], sizes: Dict[str, int]) -> Shape:
    """Return the shape with its dynamic dimensions filled in: as told, the batch as 1."""
    fixed, unknown = [], []
    for axis, size in enumerate(shape):
        key = "%s[%d]" % (name, axis)
        if size < 0 and axis > 0 and key not in sizes:
            unknown.append(key)
        fixed.append(size if size >= 0 else int(sizes.get(key, 1)))
    if unknown:
        raise Unsupported(
            "The input %r has dynamic dimensions: %s. Export it with fixed ones, or give their sizes."
            % (name, ", ".join(unknown))
        )
    return tuple(fixed)


def _delegate(interpreter: Any) -> str:
    """Return which operators a delegate runs; "none" where it runs none.

    The interpreter lists the file's operators first, and behind them a DELEGATE for each part of the graph that was
    taken. Which operators such a part holds is found from its outputs backwards, to its inputs.
    """
    operators = interpreter._get_ops_details()
    parts = [one for one in operators if one["op_name"] == "DELEGATE"]
    own = [one for one in operators if one["op_name"] != "DELEGATE"]
    if not parts:
        return "none"
    makers = {int(tensor): number for number, one in enumerate(own) for tensor in one["outputs"]}
    taken = set()
    for part in parts:
        ends = {int(tensor) for tensor in part["inputs"]}
        open_ends = [int(tensor) for tensor in part["outputs"]]
        while open_ends:
            maker = makers.get(open_ends.pop())
            if maker is not None and maker not in taken:
                taken.add(maker)
                open_ends += [int(tensor) for tensor in own[maker]["inputs"] if int(tensor) not in ends]
    left = [str(one["op_name"]) for number, one in enumerate(own) if number not in taken]
    text = "XNNPACK, %d of %d operators" % (len(taken), len(own))
    if len(parts) > 1:
        text += " in %d parts" % len(parts)
    if left:
        counts = {name: left.count(name) for name in sorted(set(left))}
        text += "; not " + ", ".join("%s%s" % (n, " (%d)" % c if c > 1 else "") for n, c in counts.items())
    return text[:1000]


def _reason(text: str, interpreter: Any = None) -> str:
    """Return why a runtime that says this cannot run a file, where that is known: the operator, and what to do."""
    custom = _CUSTOM.search(text)
    if custom:
        return (
            "The operator %s is a custom one, which %s does not have. It runs only where it was built in: "
            "export the network without it" % (custom.group(1), VERSION)
        )
    unknown, other = _TYPE.search(text), _WEIGHTS.search(text)
    if unknown and unknown.group(1) in _TYPES:
        operator, kind = _TYPES[unknown.group(1)]
    elif other and interpreter is not None:
        operator, kind = other.group(2), _kind_of_weights(interpreter, int(other.group(1)))
    else:
        return ""
    return (
        "The operator %s has weights of the type %s, which %s does not know: use more bits, or a newer runtime "
        "(ai-edge-litert)" % (operator, kind, VERSION)
    )


def _kind_of_weights(interpreter: Any, number: int) -> str:
    """Return the type of an operator's second input, which is not INT8: 2.14 calls INT4 by numpy's nearest, int8."""
    operator = interpreter._get_ops_details()[number]
    tensors = {found["index"]: found for found in interpreter.get_tensor_details()}
    name = str(numpy.dtype(tensors[int(operator["inputs"][1])]["dtype"]))
    return "INT4" if name == "int8" else name.upper()


def _words(error: Exception) -> str:
    """Return what the runtime says, once, and in one line; it repeats itself, and sends people to pages."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("See instructions")]
    return "; ".join(dict.fromkeys(lines)) or type(error).__name__
