"""ONNX files: a Graph as float, a QuantizedGraph as QDQ with the very scales it was scored with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from qaedge.artifact import Artifact
from qaedge.errors import UnsupportedOperator
from qaedge.files import write_atomic
from qaedge.nn.graph import Graph, Node, to_array
from qaedge.nn.packing import pack
from qaedge.nn.quantize import MOVES, QuantizedGraph
from qaedge.nn.scale import BYTE, Scale

OPSET, IR_VERSION = 21, 10  # read by every runtime since ONNX Runtime 1.18
#: Who a file says wrote it.
PRODUCER = "qaedge"
#: Bits of weights that are packed; the least of a file -> opset and IR version that have the type.
PACKED = (4, 2)
VERSIONS = {4: (21, 10), 2: (25, 13)}

#: form -> signedness of activations and of weights; the integers mean the same in each.
FORMS = {"u8s8": (np.uint8, np.int8), "s8s8": (np.int8, np.int8), "u8u8": (np.uint8, np.uint8)}


def write_onnx(
    network: Graph | QuantizedGraph,
    path: Path,
    form: str = "u8s8",
    name: str = "",
    integer_ends: bool = False,
) -> Artifact:
    """Write a network to an ONNX file and describe it.

    Args:
        network: a float graph, or a quantized one, which becomes QDQ.
        path: where to; the file is there whole or not at all.
        form: `u8s8`, `s8s8` or `u8u8`; see `qaedge.device.choose_form`.
        name: the artifact's name; the file's without it.
        integer_ends: INT8 in and out, as a block stands in its network; else float.

    Raises:
        UnsupportedOperator: the graph holds an operator that has no ONNX form here.
        DiskFull: no space for the file.
    """
    writer = _Writer(network, form, integer_ends and isinstance(network, QuantizedGraph))
    data = writer.model().SerializeToString(deterministic=True)
    write_atomic(path, data)
    return Artifact.written(
        path, data, name, writer.weight_bytes, form if isinstance(network, QuantizedGraph) else "float"
    )


class _Writer:
    def __init__(self, network: Graph | QuantizedGraph, form: str, integer_ends: bool) -> None:
        self.quantized = network if isinstance(network, QuantizedGraph) else None
        self.graph = network.graph if isinstance(network, QuantizedGraph) else network
        self.integer_ends = integer_ends
        self.activation_type, self.weight_type = FORMS["u8s8" if self.quantized is None else form]
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.weight_bytes = 0
        self.least_bits = 8
        # A node's name has no "/", so what is made from it clashes with no other node.
        self.real: dict[str, str] = {}  # tensor -> name of its float form
        self.stored: dict[str, str] = {}  # tensor -> name of its integer form

    def model(self) -> onnx.ModelProto:
        batch_shape = [1, *self.graph.input_shape]
        given = self.quantized.scale_of("input") if self.quantized else None
        if given is not None:
            self._scale("input", given)
            if not self.integer_ends:
                self._add("QuantizeLinear", ["input", "input/scale", "input/zero"], "input/q")
            self.stored["input"] = "input" if self.integer_ends else "input/q"
        else:
            self.real["input"] = "input"
        merged = self.quantized.layout.merged if self.quantized else set()
        for node in self.graph.nodes:
            self._node(node, node.name in merged)
        ends_integer = self.integer_ends and self.graph.output in self.stored
        output = self.stored[self.graph.output] if ends_integer else self._real(self.graph.output)
        self._add("Identity", [output], "output")
        graph = helper.make_graph(
            _without_identity(self.nodes, "output"),
            "qaedge",
            [
                helper.make_tensor_value_info(
                    "input", self._type("input") if self.integer_ends else TensorProto.FLOAT, batch_shape
                )
            ],
            [
                helper.make_tensor_value_info(
                    "output",
                    self._type(self.graph.output) if ends_integer else TensorProto.FLOAT,
                    list(self.graph.shape(self.graph.output)),
                )
            ],
            initializer=list(self.initializers.values()),
        )
        opset, model_version = VERSIONS.get(self.least_bits, (OPSET, IR_VERSION))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name=PRODUCER)
        model.ir_version = model_version
        onnx.checker.check_model(model)
        return model

    def _node(self, node: Node, merged: bool) -> None:
        scale = self.quantized.scale_of(node.name) if self.quantized else None
        if node.operator in MOVES and scale is not None and not (node.operator == "max_pool" and scale.bits > BYTE):
            # On integers (of which ONNX's MaxPool takes no 16 bits): nothing is computed, so nothing need be widened.
            self._emit(node, [self.stored[node.inputs[0]]], f"{node.name}/q")
            self.stored[node.name] = f"{node.name}/q"
            return
        a = node.attributes
        covered = node.operator == "clamp" and scale is not None and scale.covers(a["low"], a["high"])
        if covered or node.operator == "requantize":
            self.real[node.name] = self._real(
                node.inputs[0]
            )  # the integers' own range is the clamp, and all that is new
        else:
            self._emit(node, [self._real(i) for i in node.inputs], node.name)
            self.real[node.name] = node.name
        if scale is not None and not merged:
            self._scale(node.name, scale)
            stored = f"{node.name}/q"
            self._add("QuantizeLinear", [self.real.pop(node.name), *self._scale_names(node.name)], stored)
            self.stored[node.name] = stored

    def _real(self, name: str) -> str:
        """Return the float form of a tensor, dequantizing it where it has none yet."""
        if name not in self.real:
            self._add("DequantizeLinear", [self.stored[name], *self._scale_names(name)], f"{name}/dq")
            self.real[name] = f"{name}/dq"
        return self.real[name]

    def _emit(self, node: Node, inputs: list[str], output: str) -> None:
        write = _EMITTERS.get(node.operator)
        if write is None:
            raise UnsupportedOperator(
                f"The operator {node.operator!r} in {node.where or 'the network'} has no ONNX form here.",
                f"Known: {', '.join(_EMITTERS)}.",
            )
        write(self, node, inputs, output)

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{kind}_{output}", **attributes))

    def _constant(self, name: str, value: np.ndarray[Any, Any], weight: bool = False) -> str:
        if name not in self.initializers:
            tensor = numpy_helper.from_array(value, name)
            self.initializers[name] = tensor
            self.weight_bytes += len(tensor.raw_data) if weight else 0
        return name

    def _scale(self, name: str, scale: Scale) -> None:
        kind = self._kind(scale)
        shift = scale.middle if np.dtype(kind).kind == "i" else 0
        self._constant(f"{name}/scale", np.array(scale.scale, np.float32))
        self._constant(f"{name}/zero", np.array(scale.zero_point - shift, kind))

    def _kind(self, scale: Scale) -> Any:
        """Return what numbers on a scale are stored as: beyond a byte they are symmetric, so they are signed."""
        return self.activation_type if scale.bits <= BYTE else np.int16

    def _type(self, name: str) -> int:
        assert self.quantized is not None
        scale = self.quantized.scale_of(name)
        assert scale is not None
        return _onnx_type(self._kind(scale))

    def _scale_names(self, name: str) -> list[str]:
        assert self.quantized is not None
        owner = self.quantized.layout.owner[name]
        return [f"{owner}/scale", f"{owner}/zero"]

    def parameters(self, node: Node) -> list[str]:
        """Return the names of a node's weight and bias, as float initializers or dequantized integers."""
        weight, bias = self.graph.parameters_of(node)
        assert weight is not None
        if self.quantized is None or self.quantized.scale_of(node.inputs[0]) is None:
            names = [self._constant(node.weight, to_array(weight), weight=True)]
            return names + ([self._constant(node.bias, to_array(bias), weight=True)] if bias is not None else [])
        integers, scales, bias_integers, bias_scales = self.quantized.integers(node)
        bits, channels = self.quantized.bits_of(node), len(integers)
        stored, zero = f"{node.weight}/q", f"{node.weight}/zero"
        if bits in PACKED:
            self._packed(stored, to_array(integers), bits)
            self._packed(zero, np.zeros(channels), bits)
        else:
            shift = 128 if self.weight_type is np.uint8 else 0
            self._constant(stored, (to_array(integers) + shift).astype(self.weight_type), weight=True)
            self._constant(zero, np.full(channels, shift, self.weight_type), weight=True)
        names = [self._dequantized(node.weight, scales, zero)]
        if bias_integers is not None and bias_scales is not None:
            self._constant(f"{node.bias}/q", to_array(bias_integers.double()).astype(np.int32), weight=True)
            # One for all biases of so many channels; weights' may not be shared: ONNX Runtime 1.32 renews each of them
            # where it makes unsigned weights of signed ones.
            zeros = self._constant(f"zeros/{channels}", np.zeros(channels, np.int32))
            names.append(self._dequantized(node.bias, bias_scales, zeros))
        return names

    def _packed(self, name: str, integers: np.ndarray[Any, Any], bits: int) -> None:
        """Add integers of few bits, two or four to a byte."""
        kind = TensorProto.INT4 if bits == 4 else TensorProto.INT2
        data = pack(integers, bits).tobytes()
        self.initializers[name] = helper.make_tensor(name, kind, integers.shape, data, raw=True)
        self.weight_bytes += len(data)
        self.least_bits = min(self.least_bits, bits)

    def _dequantized(self, name: str, scales: Tensor, zero: str) -> str:
        """Add what makes numbers of stored integers: a scale and a zero point for each output channel."""
        # Zero points that are all 0 could be left out, but ONNX Runtime 1.32 then fails on some graphs.
        self._constant(f"{name}/scale", to_array(scales).astype(np.float32), weight=True)
        self._add("DequantizeLinear", [f"{name}/q", f"{name}/scale", zero], f"{name}/dq", axis=0)
        return f"{name}/dq"


def _onnx_type(kind: Any) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(kind)))


def _without_identity(nodes: list[onnx.NodeProto], output: str) -> list[onnx.NodeProto]:
    """Drop the last Identity and let what fed it write the output itself, where only it reads that."""
    *before, identity = nodes
    name = identity.input[0]
    writer = next((n for n in before if name in n.output), None)
    if writer is None or any(name in n.input for n in before):
        return nodes
    del writer.output[:]
    writer.output.append(output)
    return before


def _conv(w: _Writer, node: Node, inputs: list[str], output: str) -> None:
    a = node.attributes
    weight = w.graph.parameters_of(node)[0]
    assert weight is not None
    w._add(
        "Conv",
        [*inputs, *w.parameters(node)],
        output,
        kernel_shape=list(weight.shape[2:]),
        strides=list(a["stride"]),
        pads=[*a["padding"], *a["padding"]],
        dilations=list(a["dilation"]),
        group=a["groups"],
    )


def _clamp(w: _Writer, node: Node, inputs: list[str], output: str) -> None:
    low, high = node.attributes["low"], node.attributes["high"]
    if low == 0 and high == float("inf"):
        w._add("Relu", inputs, output)
        return
    bounds = [w._constant(f"clamp/{v!r}", np.array(v, np.float32)) for v in (low, high)]
    w._add("Clip", [*inputs, *bounds], output)


def _expand(w: _Writer, node: Node, inputs: list[str], output: str) -> None:
    shape = w._constant(f"{node.name}/shape", np.array(node.shape, np.int64))
    w._add("Expand", [*inputs, shape], output)


def _resize(w: _Writer, node: Node, inputs: list[str], output: str) -> None:
    """Write a bilinear resize as two matrix products, rows then columns.

    The matrices are resized unit matrices, which the runtime folds when it loads the file, so they
    take no room in it. Four times as fast as the operator Resize of ONNX Runtime 1.32 on x86 for
    the last step of a segmentation network (docs/decisions/0004).
    """
    given = w.graph.shape(node.inputs[0])[1:]
    height, width = node.attributes["size"]
    mode = "align_corners" if node.attributes["align_corners"] else "half_pixel"
    for axis, (old, new) in (("columns", (given[2], width)), ("rows", (given[1], height))):
        shape = (1, 1, new, old) if axis == "rows" else (1, 1, old, new)
        unit = w._constant(f"{node.name}/{axis}_unit", np.eye(old, dtype=np.float32)[None, None])
        sizes = w._constant(f"{node.name}/{axis}_sizes", np.array(shape, np.int64))
        matrix, product = f"{node.name}/{axis}", output if axis == "rows" else f"{node.name}/by_columns"
        w._add("Resize", [unit, "", "", sizes], matrix, mode="linear", coordinate_transformation_mode=mode)
        w._add("MatMul", [matrix, *inputs] if axis == "rows" else [*inputs, matrix], product)
        inputs = [product]


def _max_pool(w: _Writer, node: Node, inputs: list[str], output: str) -> None:
    a = node.attributes
    w._add(
        "MaxPool",
        inputs,
        output,
        kernel_shape=list(a["kernel"]),
        strides=list(a["stride"]),
        pads=[*a["padding"], *a["padding"]],
    )


def _linear(w: _Writer, node: Node, inputs: list[str], output: str) -> None:
    w._add("Gemm", [*inputs, *w.parameters(node)], output, transB=1)


def _plain(kind: str, **attributes: Any) -> Callable[[_Writer, Node, list[str], str], None]:
    return lambda w, node, inputs, output: w._add(kind, inputs, output, **attributes)


#: operator of a Graph -> what writes it.
_EMITTERS: dict[str, Callable[[_Writer, Node, list[str], str], None]] = {
    "conv": _conv,
    "linear": _linear,
    "clamp": _clamp,
    "add": _plain("Add"),
    "mul": _plain("Mul"),
    "cat": _plain("Concat", axis=1),
    "mean": _plain("GlobalAveragePool"),
    "expand": _expand,
    "flatten": _plain("Flatten", axis=1),
    "max_pool": _max_pool,
    "resize": _resize,
    "hardswish": _plain("HardSwish"),
    "hardsigmoid": _plain("HardSigmoid", alpha=1.0 / 6.0, beta=0.5),
    "sigmoid": _plain("Sigmoid"),
}
