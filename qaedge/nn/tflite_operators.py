"""The operators of a Graph as TFLite's: padding, grids and versions included.

Versions are the least that have the type, so that older runtimes (tflite-runtime 2.14) take the file, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qaedge.nn.graph import Node
from qaedge.nn.scale import BYTE, Scale
from qaedge.nn.tflite_writer import FUSED, PACKED, TYPES, Emit, TfliteWriter, channels_last, fused

#: The version under which XNNPACK takes FULLY_CONNECTED with packed weights.
FEW_BIT_VERSION = 10


def _same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """What TFLite's padding "SAME" puts before and behind an axis."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def _padding(
    w: TfliteWriter, node: Node, given: int, kernel: tuple[int, int], dilation: tuple[int, int], fill: float
) -> tuple[int, int]:
    """Return the input to read and TFLite's word for the padding: an operator of its own where it has none.

    At stride 2 and an even size, torch pads before an axis and TFLite behind it.
    """
    a = node.attributes
    sizes = w.graph.shape(node.inputs[0])[2:]
    words = w.schema.Padding
    if tuple(a["padding"]) == (0, 0):
        return given, words.VALID
    wanted = []
    for size, k, s, p, d in zip(sizes, kernel, a["stride"], a["padding"], dilation, strict=True):
        reach = (k - 1) * d + 1
        steps = (size + 2 * p - reach) // s  # after the first output
        wanted.append((p, max(steps * s + reach - size - p, 0)))
    same = [_same(n, k, s, d) for n, k, s, d in zip(sizes, kernel, a["stride"], dilation, strict=True)]
    outputs = [-(-n // s) for n, s in zip(sizes, a["stride"], strict=True)]
    if wanted == same and outputs == list(node.shape[2:]):
        return given, words.SAME
    amounts = np.array([(0, 0), *wanted, (0, 0)], np.int32)
    scale = w.given_scale(node)
    shape = (1, *(n + b + e for n, (b, e) in zip(sizes, wanted, strict=True)), w.graph.shape(node.inputs[0])[1])
    padded = w.activation(f"{node.name}/padded", shape, scale)
    by = w.constant(f"{node.name}/by", amounts)
    if fill == 0:
        w.emit("PAD", [given, by], padded, w.schema.PadOptionsT(), 1 if scale is None else 2)
    else:
        kind = "FLOAT32" if scale is None else TYPES[scale.bits][0]
        least = np.array([np.finfo(np.float32).min if scale is None else -scale.middle], kind.lower())
        value = w.constant("least", least, kind, scale)
        w.emit("PADV2", [given, by, value], padded, w.schema.PadV2OptionsT(), 1 if scale is None else 2)
    return padded, words.VALID


def _conv(w: TfliteWriter, node: Node, inputs: list[int], output: int, activation: int) -> None:
    a = node.attributes
    weight = w.graph.parameters_of(node)[0]
    assert weight is not None
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    given, padding = _padding(w, node, inputs[0], kernel, a["dilation"], 0.0)
    channels = w.graph.shape(node.inputs[0])[1]
    quantized = w.grid[node.name] is not None
    common = {
        "padding": padding,
        "strideH": a["stride"][0],
        "strideW": a["stride"][1],
        "dilationHFactor": a["dilation"][0],
        "dilationWFactor": a["dilation"][1],
        "fusedActivationFunction": activation,
    }
    if a["groups"] == channels and channels > 1:
        options = w.schema.DepthwiseConv2DOptionsT(depthMultiplier=len(weight) // channels, **common)
        parameters = w.parameters(node, 3, lambda v: v.transpose(1, 2, 3, 0))
        version = 3 if quantized else 2 if tuple(a["dilation"]) != (1, 1) else 1
        w.emit("DEPTHWISE_CONV_2D", [given, *parameters], output, options, version)
        return
    if _is_linear(w, node):
        # At each pixel, the same numbers as a 1x1 convolution; of the two only this has kernels for packed weights.
        options = w.schema.FullyConnectedOptionsT(fusedActivationFunction=activation, keepNumDims=True)
        parameters = w.parameters(node, 0, lambda v: v.reshape(v.shape[:2]), packs=True)
        w.emit("FULLY_CONNECTED", [given, *parameters], output, options, FEW_BIT_VERSION)
        return
    parameters = w.parameters(node, 0, lambda v: v.transpose(0, 2, 3, 1))
    version = 6 if a["groups"] > 1 else 3 if quantized else 1
    w.emit("CONV_2D", [given, *parameters], output, w.schema.Conv2DOptionsT(**common), version)


def _packs(w: TfliteWriter, node: Node) -> bool:
    """Whether a node's weights may lie packed in FULLY_CONNECTED: XNNPACK takes rows of whole bytes alone."""
    weight = w.graph.parameters_of(node)[0]
    if w.quantized is None or w.grid[node.name] is None or weight is None:
        return False
    bits = w.quantized.bits_of(node)
    return bits in PACKED and weight.shape[1] * bits % 8 == 0


def _is_linear(w: TfliteWriter, node: Node) -> bool:
    """Whether a convolution is a matrix product at each pixel, with weights of few bits."""
    a = node.attributes
    weight = w.graph.parameters_of(node)[0]
    assert weight is not None
    return (
        _packs(w, node)
        and tuple(weight.shape[2:]) == (1, 1)
        and tuple(a["stride"]) == (1, 1)
        and tuple(a["padding"]) == (0, 0)
        and a["groups"] == 1
    )


def _linear(w: TfliteWriter, node: Node, inputs: list[int], output: int, activation: int) -> None:
    quantized = w.grid[node.name] is not None
    few = _packs(w, node)
    parameters = w.parameters(node, 0, lambda v: v, packs=few)
    options = w.schema.FullyConnectedOptionsT(fusedActivationFunction=activation)
    version = FEW_BIT_VERSION if few else 5 if quantized else 1
    w.emit("FULLY_CONNECTED", [inputs[0], *parameters], output, options, version)


def _clamp(w: TfliteWriter, node: Node, inputs: list[int], output: int, activation: int) -> None:
    bounds = (node.attributes["low"], node.attributes["high"])
    scale = w.grid[node.name]
    if bounds in FUSED and not (scale is not None and bounds == (-1.0, 1.0)):
        w.emit(fused(bounds, scale), inputs, output, None, 1 if scale is None else 2)
        return
    given = inputs[0] if scale is None else _rescaled(w, node, 0, inputs[0], scale)
    _limit(w, node, given, output, scale, *bounds)


def _number(value: float, scale: Scale | None) -> tuple[np.ndarray[Any, Any], str]:
    """One number as a constant: in float, or on a grid."""
    if scale is None:
        return np.array([value], np.float32), "FLOAT32"
    integer = min(max(round(value / scale.scale) + scale.zero_point, 0), scale.levels) - scale.middle
    kind = TYPES[scale.bits][0]
    return np.array([integer], kind.lower()), kind


def _rescaled(w: TfliteWriter, node: Node, index: int, given: int, wanted: Scale) -> int:
    """Bring an input onto another grid, where it is not on it: some operators only move integers."""
    if w.grid[node.inputs[index]] == wanted:
        return given
    shape = channels_last(w.graph.shape(node.inputs[index]))
    moved = w.activation(f"{node.name}/{index}", shape, wanted)
    w.emit("QUANTIZE", [given], moved, w.schema.QuantizeOptionsT(), 2)
    return moved


def _cat(w: TfliteWriter, node: Node, inputs: list[int], output: int, activation: int) -> None:
    scale = w.grid[node.name]
    if scale is not None:
        inputs = [_rescaled(w, node, i, given, scale) for i, given in enumerate(inputs)]
    axis = 3 if len(node.shape) == 4 else 1
    options = w.schema.ConcatenationOptionsT(axis=axis)
    w.emit("CONCATENATION", inputs, output, options, 1 if scale is None else 2)


def _binary(kind: str, options: str) -> Emit:
    def write(w: TfliteWriter, node: Node, inputs: list[int], output: int, activation: int) -> None:
        scale = w.grid[node.name]
        made = getattr(w.schema, options)(fusedActivationFunction=activation)
        if kind == "ADD" and scale is not None and scale.bits > BYTE:
            made.potScaleInt16 = False  # scales are any numbers, not powers of two
        w.emit(kind, inputs, output, made, 1 if scale is None else 2)

    return write


def _mean(w: TfliteWriter, node: Node, inputs: list[int], output: int, activation: int) -> None:
    axes = w.constant("height_width", np.array([1, 2], np.int32))
    version = 1 if w.grid[node.name] is None else 2
    w.emit("MEAN", [inputs[0], axes], output, w.schema.ReducerOptionsT(keepDims=True), version)


def _expand(w: TfliteWriter, node: Node, inputs: list[int], output: int, activation: int) -> None:
    given = w.graph.shape(node.inputs[0])
    if given[2:] == (1, 1):
        # One number in each channel, resized, is that number everywhere; XNNPACK has no BROADCAST_TO.
        size = w.constant(f"{node.name}/size", np.array(node.shape[2:], np.int32))
        options = w.schema.ResizeBilinearOptionsT(alignCorners=False, halfPixelCenters=True)
        w.emit("RESIZE_BILINEAR", [inputs[0], size], output, options, 3)
        return
    shape = w.constant(f"{node.name}/shape", np.array(channels_last(node.shape), np.int32))
    w.emit("BROADCAST_TO", [inputs[0], shape], output, w.schema.BroadcastToOptionsT(), 2)


def _flatten(w: TfliteWriter, node: Node, inputs: list[int], output: int, activation: int) -> None:
    given, shape = inputs[0], w.graph.shape(node.inputs[0])
    if len(shape) == 4 and max(shape[2:]) > 1 and shape[1] > 1:  # torch's order of the numbers, channels first
        turned = w.activation(f"{node.name}/turned", shape, w.grid[node.name])
        order = w.constant("channels_first", np.array([0, 3, 1, 2], np.int32))
        w.emit("TRANSPOSE", [given, order], turned, w.schema.TransposeOptionsT(), 2)
        given = turned
    target = np.array(node.shape, np.int32)
    w.emit(
        "RESHAPE", [given, w.constant(f"{node.name}/shape", target)], output, w.schema.ReshapeOptionsT(newShape=target)
    )


def _max_pool(w: TfliteWriter, node: Node, inputs: list[int], output: int, activation: int) -> None:
    a = node.attributes
    given, padding = _padding(w, node, inputs[0], a["kernel"], (1, 1), -float("inf"))
    options = w.schema.Pool2DOptionsT(
        padding=padding,
        strideH=a["stride"][0],
        strideW=a["stride"][1],
        filterHeight=a["kernel"][0],
        filterWidth=a["kernel"][1],
        fusedActivationFunction=activation,
    )
    w.emit("MAX_POOL_2D", [given], output, options, 1 if w.grid[node.name] is None else 2)


def _resize(w: TfliteWriter, node: Node, inputs: list[int], output: int, activation: int) -> None:
    size = w.constant(f"{node.name}/size", np.array(node.attributes["size"], np.int32))
    corners = bool(node.attributes["align_corners"])
    options = w.schema.ResizeBilinearOptionsT(alignCorners=corners, halfPixelCenters=not corners)
    version = 3 if not corners else 1 if w.grid[node.name] is None else 2
    w.emit("RESIZE_BILINEAR", [inputs[0], size], output, options, version)


def _straight(w: TfliteWriter, node: Node, given: int, gain: float, offset: float, output: int) -> None:
    """Write `gain * x + offset` per number, as a depthwise 1x1 convolution: one rounding, exact integers."""
    channels = node.shape[1] if len(node.shape) == 4 else node.shape[-1]
    options = w.schema.DepthwiseConv2DOptionsT(
        padding=w.schema.Padding.VALID, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1, depthMultiplier=1
    )
    shape = (1, 1, 1, channels)
    scale = w.given_scale(node)
    if scale is None:
        weight = w.constant(f"{node.name}/gain", np.full(shape, gain, np.float32), "FLOAT32")
        bias = w.constant(f"{node.name}/offset", np.full(channels, offset, np.float32), "FLOAT32")
    else:
        step = np.full(channels, gain / 127, np.float32)
        zeros = np.zeros(channels, np.int64)
        kind = TYPES[scale.bits][1]
        biases = np.full(channels, round(offset / (float(step[0]) * scale.scale)), kind.lower())
        weight = w.file.tensor(f"{node.name}/gain", shape, "INT8", step, zeros, 3, np.full(shape, 127, np.int8))
        bias = w.file.tensor(f"{node.name}/offset", (channels,), kind, step * np.float32(scale.scale), zeros, 0, biases)
    w.emit("DEPTHWISE_CONV_2D", [given, weight, bias], output, options, 1 if scale is None else 3)


def _hardsigmoid(w: TfliteWriter, node: Node, inputs: list[int], output: int, activation: int) -> None:
    # TFLite has no such operator. The grid of the output covers [0, 1] at most, and clamps by itself.
    scale = w.grid[node.name]
    straight = output
    if scale is None or not scale.covers(0.0, 1.0):
        straight = w.activation(f"{node.name}/straight", channels_last(node.shape), scale)
    _straight(w, node, inputs[0], 1 / 6, 0.5, straight)
    if straight != output:
        _limit(w, node, straight, output, scale, 0.0, 1.0)


def _limit(w: TfliteWriter, node: Node, given: int, output: int, scale: Scale | None, low: float, high: float) -> None:
    """Write `min(max(x, low), high)`; an infinite bound is none."""
    steps = [(kind, bound) for kind, bound in (("MINIMUM", high), ("MAXIMUM", low)) if np.isfinite(bound)]
    for kind, bound in steps:
        last = kind == steps[-1][0]
        target = output if last else w.activation(f"{node.name}/{kind.lower()}", channels_last(node.shape), scale)
        value, type_ = _number(bound, scale)
        limit = w.constant(f"{node.name}/{bound:g}", value, type_, scale)
        w.emit(kind, [given, limit], target, w.schema.MaximumMinimumOptionsT(), 1 if scale is None else 2)
        given = target


def _hardswish(w: TfliteWriter, node: Node, inputs: list[int], output: int, activation: int) -> None:
    scale = w.grid[node.name]
    if scale is None or scale.bits <= BYTE:
        w.emit("HARD_SWISH", inputs, output, w.schema.HardSwishOptionsT())
        return
    # LiteRT's kernel takes no 16 bits. `x * hardsigmoid(x)` is the same, with one more rounding.
    unit = Scale.of_range(-1.0, 1.0, scale.bits)
    shape = channels_last(node.shape)
    gate = w.activation(f"{node.name}/gate", shape, unit)
    straight = w.activation(f"{node.name}/straight", shape, unit)
    _straight(w, node, inputs[0], 1 / 6, 0.5, straight)
    _limit(w, node, straight, gate, unit, 0.0, 1.0)
    made = w.schema.MulOptionsT(fusedActivationFunction=activation)
    w.emit("MUL", [inputs[0], gate], output, made, 4)


def _sigmoid(w: TfliteWriter, node: Node, inputs: list[int], output: int, activation: int) -> None:
    scale = w.grid[node.name]
    if scale is None:
        w.emit("LOGISTIC", inputs, output)
        return
    # LiteRT's kernel has one grid for its output, of 1/256, or of 1/32768; ours follows.
    fixed = Scale(1 / 256, 0) if scale.bits <= BYTE else Scale(1 / 2**15, 2**15, 2**16 - 1)
    between = output if scale == fixed else w.activation(f"{node.name}/fixed", channels_last(node.shape), fixed)
    w.emit("LOGISTIC", inputs, between, None, 2)
    if between != output:
        w.emit("QUANTIZE", [between], output, w.schema.QuantizeOptionsT(), 2)


def _requantize(w: TfliteWriter, node: Node, inputs: list[int], output: int, activation: int) -> None:
    w.emit("QUANTIZE", inputs, output, w.schema.QuantizeOptionsT(), 2)


#: operator of a Graph -> what writes it.
EMITTERS: dict[str, Emit] = {
    "conv": _conv,
    "linear": _linear,
    "clamp": _clamp,
    "add": _binary("ADD", "AddOptionsT"),
    "mul": _binary("MUL", "MulOptionsT"),
    "cat": _cat,
    "mean": _mean,
    "expand": _expand,
    "flatten": _flatten,
    "max_pool": _max_pool,
    "resize": _resize,
    "hardswish": _hardswish,
    "hardsigmoid": _hardsigmoid,
    "sigmoid": _sigmoid,
    "requantize": _requantize,
}
