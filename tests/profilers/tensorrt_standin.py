"""A stand-in for the Python package `tensorrt`: the calls of a real one, for networks that do nothing.

It follows https://docs.nvidia.com/deeplearning/tensorrt/archives/tensorrt-861/api/python_api/ and the
same pages of 10.x: named tensors, a serialized network, an ILogger that is derived from, a parser with
errors to ask for, `None` instead of an exception where building or loading fails. What it refuses, and
in which words, is what users of the real one report; it proves nothing about the real one. An engine is
JSON here, and running one copies the first input to the outputs and takes RUN_NS.
"""

import ctypes
import enum
import json
import math

import cuda_standin

__version__ = "8.6.2"
RUN_NS = 2_000_000
#: How often something was built.
builds = 0


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, BF16 = range(7)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class LayerType(enum.Enum):
    CONVOLUTION, QUANTIZE, DEQUANTIZE, IDENTITY = range(4)


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class BuilderFlag:
    FP16, INT8 = 0, 1


class NetworkDefinitionCreationFlag:
    EXPLICIT_BATCH = 0


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self):
        self.made = True


def _take(logger):
    assert isinstance(logger, ILogger) and logger.made, "ILogger.__init__ was not called"
    status = cuda_standin.LIBRARY.start()
    if status:
        logger.log(ILogger.Severity.INTERNAL_ERROR, f"CUDA initialization failure with error: {status}")
    return status


#: ONNX's numbers of types.
ONNX_TYPES = {1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 9: "BOOL", 10: "HALF", 16: "BF16"}
LAYERS = {"QuantizeLinear": LayerType.QUANTIZE, "DequantizeLinear": LayerType.DEQUANTIZE}
KNOWN = {"Identity", "Relu", "Conv", "Softmax", "NonZero", *LAYERS}


class Layer:
    def __init__(self, kind):
        self.type = LAYERS.get(kind, LayerType.IDENTITY)
        self.kind = kind


class ITensor:
    def __init__(self, name, dtype, shape):
        self.name, self.dtype, self.shape = name, dtype, shape


class Network:
    def __init__(self):
        self.inputs, self.outputs, self.layers = [], [], []

    num_inputs = property(lambda self: len(self.inputs))
    num_layers = property(lambda self: len(self.layers))

    def get_input(self, number):
        return self.inputs[number]

    def get_layer(self, number):
        return self.layers[number]


class ParserError:
    def __init__(self, text):
        self._text = text

    def desc(self):
        return self._text


class OnnxParser:
    def __init__(self, network, logger):
        self._network, self._errors = network, []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, number):
        return self._errors[number]

    def parse(self, contents):
        import onnx

        try:
            graph = onnx.load_from_string(contents).graph
        except Exception:  # noqa: BLE001
            self._errors.append(ParserError("Failed to parse ONNX model"))
            return False
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type not in KNOWN:
                self._errors.append(ParserError(f"No importer registered for op: {node.op_type}"))
            if node.op_type in LAYERS and len(node.input) > 2 and constants[node.input[2]].any():
                self._errors.append(ParserError("Non-zero zero point is not supported"))
            self._network.layers.append(Layer(node.op_type))
        for values, into in ((graph.input, self._network.inputs), (graph.output, self._network.outputs)):
            for value in values:
                kind = value.type.tensor_type
                shape = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
                into.append(ITensor(value.name, ONNX_TYPES[kind.elem_type], shape))
        return not self._errors


class BuilderConfig:
    def __init__(self):
        self.flags, self.pools = set(), {}

    def set_flag(self, flag):
        self.flags.add(flag)

    def set_memory_pool_limit(self, pool, size):
        self.pools[pool] = size


class IHostMemory(bytearray):
    pass


class Builder:
    def __init__(self, logger):
        self._logger = logger
        if _take(logger):
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags=0):
        if hasattr(NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"):
            assert flags == 1 << int(NetworkDefinitionCreationFlag.EXPLICIT_BATCH), "implicit batch"
        return Network()

    def create_builder_config(self):
        return BuilderConfig()

    def build_serialized_network(self, network, config):
        global builds
        error = ILogger.Severity.ERROR
        quantized = any(layer.type in LAYERS.values() for layer in network.layers)
        if hasattr(BuilderFlag, "INT8") and quantized != (BuilderFlag.INT8 in config.flags):
            self._logger.log(error, "INT8 flag and Q/DQ layers do not go together")
            return None
        if any(layer.kind == "Softmax" for layer in network.layers):
            self._logger.log(ILogger.Severity.INFO, "Graph optimization time: 0.1 seconds.")
            self._logger.log(error, "Could not find any implementation for node Softmax_0.")
            return None
        builds += 1
        outputs = network.outputs
        if any(layer.kind == "NonZero" for layer in network.layers):
            outputs = [ITensor(t.name, t.dtype, [-1 for _ in t.shape]) for t in outputs]
        elif [t.shape for t in network.inputs] and any(-1 in t.shape for t in outputs):
            outputs = [ITensor(t.name, t.dtype, network.inputs[0].shape) for t in outputs]
        tensors = [
            [t.name, t.dtype, list(t.shape), mode]
            for mode, ts in (("INPUT", network.inputs), ("OUTPUT", outputs))
            for t in ts
        ]
        flags = sorted(config.flags)
        return IHostMemory(json.dumps({"version": __version__, "tensors": tensors, "flags": flags}).encode())


class Runtime:
    def __init__(self, logger):
        self._logger = logger

    def deserialize_cuda_engine(self, data):
        if _take(self._logger):
            return None
        found = json.loads(bytes(data))  # a damaged one crashes here, as it may in truth
        if found["version"] != __version__:
            self._logger.log(ILogger.Severity.ERROR, "The engine plan file is not compatible with this version")
            return None
        return Engine(found)


class Engine:
    def __init__(self, found):
        self._tensors = {t[0]: t for t in found["tensors"]}
        self.flags = found["flags"]

    num_io_tensors = property(lambda self: len(self._tensors))

    def get_tensor_name(self, number):
        return list(self._tensors)[number]

    def get_tensor_dtype(self, name):
        return DataType[self._tensors[name][1]]

    def get_tensor_shape(self, name):
        return self._tensors[name][2]

    def get_tensor_mode(self, name):
        return TensorIOMode[self._tensors[name][3]]

    def get_tensor_location(self, name):
        return TensorLocation.DEVICE

    def create_execution_context(self):
        return Context(self)


class Context:
    def __init__(self, engine):
        self._engine, self._places = engine, {}
        self.fails = False

    def set_tensor_address(self, name, address):
        self._places[name] = address
        return address in cuda_standin.LIBRARY.memory

    def execute_async_v3(self, stream_handle):
        names = [self._engine.get_tensor_name(n) for n in range(self._engine.num_io_tensors)]
        if self.fails or set(names) != set(self._places):
            return False
        size = {name: math.prod(self._engine.get_tensor_shape(name)) for name in names}
        for name in names[1:]:
            if self._engine.get_tensor_mode(name) == TensorIOMode.OUTPUT and size[name] == size[names[0]]:
                memory = cuda_standin.LIBRARY.memory
                count = min(len(memory[self._places[n]]) for n in (name, names[0]))
                ctypes.memmove(self._places[name], self._places[names[0]], count)
        cuda_standin.LIBRARY.run(RUN_NS)
        return True
