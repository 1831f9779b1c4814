"""A graph on its way into a .tflite file: which tensors there are, in what form, and which clamps are built in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qaedge.errors import UnsupportedOperator
from qaedge.nn.graph import Graph, Node, to_array
from qaedge.nn.packing import pack
from qaedge.nn.quantize import QuantizedGraph
from qaedge.nn.scale import BYTE, Scale
from qaedge.nn.tflite_file import TfliteFile

#: Bits of weights that FULLY_CONNECTED takes packed.
PACKED = (4, 2)
#: bounds of a clamp -> the activation that an operator can have built in.
FUSED = {(0.0, 6.0): "RELU6", (0.0, float("inf")): "RELU", (-1.0, 1.0): "RELU_N1_TO_1"}
#: Operators that can have one.
_FUSE = ("conv", "linear", "add", "mul")

#: operator -> the least version that takes activations of 16 bits.
WIDE = {
    "ADD": 3,
    "BROADCAST_TO": 3,
    "CONCATENATION": 3,
    "CONV_2D": 4,
    "DEPTHWISE_CONV_2D": 5,
    "DEQUANTIZE": 3,
    "FULLY_CONNECTED": 7,
    "LOGISTIC": 3,
    "MAXIMUM": 4,
    "MAX_POOL_2D": 3,
    "MEAN": 3,
    "MINIMUM": 4,
    "MUL": 4,
    "PAD": 3,
    "PADV2": 3,
    "RELU": 3,
    "RELU6": 3,
    "RESIZE_BILINEAR": 4,
    "TRANSPOSE": 5,
}
#: bits of activations -> type of their integers, and of the biases that are added to their sums.
TYPES = {8: ("INT8", "INT32"), 16: ("INT16", "INT64")}

#: Writes a node: (writer, node, indices of its inputs, index of its output, activation).
Emit = Callable[["TfliteWriter", Node, list[int], int, int], None]


class TfliteWriter:
    """Writes the nodes of a graph one after the other; `write` is what knows the operators."""

    def __init__(self, network: Graph | QuantizedGraph, integer_ends: bool, emitters: Mapping[str, Emit]) -> None:
        """Begin a file; raise MissingExtra without the schema."""
        self.quantized = network if isinstance(network, QuantizedGraph) else None
        self.graph = network.graph if isinstance(network, QuantizedGraph) else network
        self.emitters = emitters
        self.file = TfliteFile()
        self.schema = self.file.schema
        self.integer_ends = integer_ends
        self.weight_bytes = 0
        self.readers: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            for given in node.inputs:
                self.readers.setdefault(given, []).append(node)
        self.written: dict[str, int] = {}  # tensor -> its index
        self.grid: dict[str, Scale | None] = {}  # tensor -> the scale it is written in
        self.real: dict[str, int] = {}  # quantized tensor -> the index of its float form
        self.fused: set[str] = set()  # clamps that what feeds them has built in
        self._constants: dict[tuple[str, bytes], int] = {}

    def data(self) -> bytes:
        """Write everything; return the file's bytes."""
        shape = channels_last((1, *self.graph.input_shape))
        self.grid["input"] = self.scale("input")
        if self.scale("input") is None or self.integer_ends:
            given = self.written["input"] = self.activation("input", shape, self.scale("input"))
        else:
            given = self.activation("input", shape, None)
            self.written["input"] = self.activation("input/q", shape, self.scale("input"))
            self.emit("QUANTIZE", [given], self.written["input"], self.schema.QuantizeOptionsT())
        for node in self.graph.nodes:
            if node.name not in self.fused:
                self._node(node)
        output = self.written[self.graph.output]
        if not self.integer_ends:
            output = self._real(self.graph.output)
        return self.file.data({"input": given}, {"output": output})

    def _node(self, node: Node) -> None:
        write = self.emitters.get(node.operator)
        if write is None:
            raise UnsupportedOperator(
                f"The operator {node.operator!r} in {node.where or 'the network'} has no TFLite form here.",
                f"Known: {', '.join(self.emitters)}.",
            )
        scale = self.quantized.grid_of(node.name) if self.quantized else None
        target, activation = node, "NONE"
        clamp = self._alone(target)
        while clamp is not None and (self.quantized is None or target.name in self.quantized.layout.merged):
            bounds = clamp.attributes["low"], clamp.attributes["high"]
            covered = scale is not None and scale.covers(*bounds)
            if not covered and (activation != "NONE" or bounds not in FUSED or node.operator not in _FUSE):
                break
            target, activation = clamp, activation if covered else fused(bounds, scale)
            self.fused.add(clamp.name)
            clamp = self._alone(target)
        in_float = scale is None
        inputs = [self._real(name) if in_float else self.written[name] for name in node.inputs]
        output = self.activation(target.name, channels_last(node.shape), scale)
        self.written[target.name] = output
        self.grid[node.name] = self.grid[target.name] = scale
        write(self, node, inputs, output, getattr(self.schema.ActivationFunctionType, activation))

    def _alone(self, node: Node) -> Node | None:
        """Return the clamp that alone reads a node's result, if it is one."""
        readers = self.readers.get(node.name, [])
        if len(readers) == 1 and readers[0].operator == "clamp" and node.name != self.graph.output:
            return readers[0]
        return None

    def scale(self, name: str) -> Scale | None:
        """Return the scale that quantization gives a tensor; None where it stays float, or is merged."""
        return self.quantized.scale_of(name) if self.quantized else None

    def given_scale(self, node: Node, index: int = 0) -> Scale | None:
        """The scale of what a node reads: None where it computes in float."""
        return None if self.grid[node.name] is None else self.grid[node.inputs[index]]

    def activation(self, name: str, shape: tuple[int, ...], scale: Scale | None) -> int:
        """Add a tensor that is computed."""
        if scale is None:
            return self.file.tensor(name, shape, "FLOAT32")
        return self.file.tensor(name, shape, TYPES[scale.bits][0], *_grid(scale))

    def _real(self, name: str) -> int:
        """Return the float form of a tensor, dequantizing it where it has none yet."""
        if self.grid[name] is None:
            return self.written[name]
        if name not in self.real:
            self.real[name] = self.activation(f"{name}/dq", channels_last(self.graph.shape(name)), None)
            self.emit("DEQUANTIZE", [self.written[name]], self.real[name], self.schema.DequantizeOptionsT(), 2)
        return self.real[name]

    def emit(self, kind: str, inputs: list[int], output: int, options: Any = None, version: int = 1) -> None:
        """Add an operator, as `TfliteFile.operator` does; of the version that 16 bits ask for, where it is later."""
        if kind in WIDE and "INT16" in (self.file.kind(inputs[0]), self.file.kind(output)):
            version = max(version, WIDE[kind])
        self.file.operator(kind, inputs, output, options, version)

    def constant(self, name: str, value: np.ndarray[Any, Any], kind: str = "INT32", scale: Scale | None = None) -> int:
        """Add a tensor that is known; the same numbers only once."""
        place = (f"{kind} {value.shape} {scale}", value.tobytes())
        if place not in self._constants:
            scales, zeros = (None, None) if scale is None else _grid(scale)
            self._constants[place] = self.file.tensor(name, value.shape, kind, scales, zeros, 0, value)
        return self._constants[place]

    def parameters(
        self,
        node: Node,
        axis: int,
        order: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]],
        packs: bool = False,
    ) -> list[int]:
        """Add a node's weight, brought into TFLite's order, and its bias, or zeros; return their indices.

        Weights of 4 and 2 bits are packed where the operator `packs`, else they lie in a byte each.
        """
        weight, bias = self.graph.parameters_of(node)
        assert weight is not None
        channels = len(weight)
        if self.grid[node.name] is None:
            values = order(to_array(weight)).astype(np.float32)
            offsets = np.zeros(channels, np.float32) if bias is None else to_array(bias).astype(np.float32)
            self.weight_bytes += values.nbytes + offsets.nbytes
            return [
                self.file.tensor(node.weight, values.shape, "FLOAT32", data=values),
                self.file.tensor(node.bias or f"{node.name}/b", offsets.shape, "FLOAT32", data=offsets),
            ]
        assert self.quantized is not None
        integers, scales, bias_integers, bias_scales = self.quantized.integers(node)
        given = self.given_scale(node)
        assert given is not None
        bias_kind = TYPES[given.bits][1]
        if bias_integers is None or bias_scales is None:
            stored_bias, stored_scales = np.zeros(channels), to_array(scales) * np.float32(given.scale)
        else:
            stored_bias, stored_scales = to_array(bias_integers.double()), to_array(bias_scales)
        stored_bias = stored_bias.astype(bias_kind.lower())
        values = order(to_array(integers)).astype(np.int8)
        zeros = np.zeros(channels, np.int64)
        bits = self.quantized.bits_of(node)
        stored, kind = (pack(values, bits), f"INT{bits}") if packs and bits in PACKED else (values, "INT8")
        self.weight_bytes += stored.nbytes + stored_bias.nbytes + 2 * 4 * channels  # two scales each; zeros lie once
        return [
            self.file.tensor(node.weight, values.shape, kind, to_array(scales), zeros, axis, stored),
            self.file.tensor(
                node.bias or f"{node.name}/b", (channels,), bias_kind, stored_scales, zeros, 0, stored_bias
            ),
        ]


def _grid(scale: Scale) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return a scale and its zero point, as they are written: integers are signed."""
    return np.array([scale.scale]), np.array([scale.zero_point - scale.middle])


def fused(bounds: tuple[float, float], scale: Scale | None) -> str:
    """Return the activation that keeps to bounds of `FUSED` on a grid.

    Where a grid of 16 bits ends at the upper one by itself, only the lower one is left: LiteRT refuses a file in which
    6 is more than 2^31 steps, as in layers that put out next to nothing.
    """
    low, high = bounds
    if scale is not None and scale.bits > BYTE and low == 0 and scale.high <= high + scale.scale / 2:
        return "RELU"
    return FUSED[bounds]


def channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(batch, channels, height, width) as TFLite has it: channels last."""
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else tuple(shape)
