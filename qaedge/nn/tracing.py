"""Tracing: from any `nn.Module` to a Graph, its operators reduced to the dozen in `OPERATORS`.

Shapes are fixed by an example input, and batch norm is folded into the convolution before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from qaedge.errors import UnsupportedOperator
from qaedge.nn.graph import OPERATORS, Graph, Node


def trace(module: nn.Module, input_shape: tuple[int, ...]) -> Graph:
    """Reduce a module to a Graph for one input shape (channels, height, width).

    The module is traced by torch.fx in eval mode, so it must not branch on its data. Raises
    UnsupportedOperator naming operator and place where something is not in `OPERATORS`.
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    # A bare layer, such as one convolution, is a part of a network like any other.
    root = nn.Sequential(module) if fx.Tracer().is_leaf_module(module, "") else module
    try:
        traced = fx.symbolic_trace(root)
    except Exception as error:  # fx raises whatever the user's forward raised
        raise UnsupportedOperator(
            f"{type(module).__name__} cannot be traced: {error}",
            "Its forward must not branch on its data and must take one tensor.",
        ) from error
    finally:
        for part, training in modes.items():  # each its own: train() would reach every part below
            part.training = training
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    builder = _Builder(traced, input_shape)
    with torch.no_grad():
        builder.run(torch.zeros(1, *input_shape, device=device))
    return builder.finish()


class _Builder(fx.Interpreter):
    """Runs a traced module once and notes each operator with its shape.

    A value is a `(name, tensor)` pair while it is a tensor of the network, else plain data: sizes
    read from shapes become constants.
    """

    def __init__(self, traced: fx.GraphModule, input_shape: tuple[int, ...]) -> None:
        super().__init__(traced)
        self.input_shape = input_shape
        self.nodes: list[Node] = []
        self.values: dict[str, Tensor] = {}
        self.taken = {"input", "output"}  # the names of a file's ends
        self.output_name = ""
        self.given = False

    def finish(self) -> Graph:
        return _fold(Graph(self.input_shape, self.nodes, self.output_name, self.values))

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op == "placeholder":
            if self.given:
                raise UnsupportedOperator(
                    f"The network takes more than one tensor: {n.target!r}, too.",
                    "Wrap it in a module whose forward takes one tensor.",
                )
            self.given = True
            return ("input", super().run_node(n))
        if n.op == "get_attr":
            return self.fetch_attr(str(n.target))
        if n.op == "output":
            result = args[0]
            if not _is_named(result):
                raise UnsupportedOperator(
                    f"The network puts out {type(result).__name__}, not one tensor.",
                    "Wrap it in a module whose forward returns one tensor.",
                )
            self.output_name = result[0]
            return result[1]
        if not args and "input" in kwargs:  # torch's own name for the first argument
            args, kwargs = (kwargs["input"],), {k: v for k, v in kwargs.items() if k != "input"}
        key, where = self._key(n)
        if not any(_is_named(a) for a in _flat((*args, *kwargs.values()))):
            return getattr(self, n.op)(n.target, args, kwargs)
        if key in ("shape", "size"):
            return _size(args, kwargs, key)
        if key in _SKIPPED:
            return args[0]
        convert = _CONVERTERS.get(key)
        if convert is None:
            raise UnsupportedOperator(
                f"The operator {key!r} in {where or 'the network'} cannot be exported.",
                f"Known: {', '.join(sorted(k for k in _CONVERTERS))}.",
            )
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        try:
            return convert(self, module, where, *args, **kwargs)
        except (TypeError, KeyError, AttributeError, IndexError, AssertionError, RuntimeError) as error:
            raise UnsupportedOperator(
                f"The operator {key!r} in {where or 'the network'} cannot be exported: {error}."
            ) from error

    def _key(self, n: fx.Node) -> tuple[str, str]:
        if n.op == "call_module":
            return type(self.fetch_attr(str(n.target))).__name__.lower(), str(n.target)
        stack = n.meta.get("nn_module_stack") or {}
        where = next((str(v[0]) for v in reversed(list(stack.values()))), "")
        if n.op == "call_function":
            target = n.target
            if target is getattr:
                return str(n.args[1]), where
            return getattr(target, "__name__", str(target)).lower(), where
        return str(n.target), where

    def emit(
        self,
        kind: str,
        inputs: list[Any],
        where: str,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        **attributes: Any,
    ) -> tuple[str, Tensor]:
        """Append a node, run it, and return its named value."""
        assert all(_is_named(i) for i in inputs), "an operand is a constant"
        base = re.sub(r"\W", "_", where or kind)
        name, count = base, 1
        while name in self.taken:
            name, count = f"{base}_{count}", count + 1
        self.taken.add(name)
        result = OPERATORS[kind]([i[1] for i in inputs], weight, bias, attributes)
        names = [""] * 2
        for index, (suffix, value) in enumerate((("weight", weight), ("bias", bias))):
            if value is not None:
                names[index] = f"{name}__{suffix}"
                self.values[names[index]] = value
        self.nodes.append(
            Node(name, kind, tuple(i[0] for i in inputs), tuple(result.shape), attributes, names[0], names[1], where)
        )
        return name, result


def _is_named(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], Tensor)


def _flat(args: Any) -> list[Any]:
    flat: list[Any] = []
    for a in args:
        if isinstance(a, list) or (isinstance(a, tuple) and not _is_named(a)):
            flat += _flat(a)
        else:
            flat.append(a)
    return flat


def _size(args: Any, kwargs: Any, key: str) -> Any:
    shape = args[0][1].shape
    index = args[1] if key == "size" and len(args) > 1 else kwargs.get("dim")
    return shape if index is None else shape[index]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _convert_conv(b: _Builder, m: Any, where: str, x: Any) -> Any:
    assert m.padding_mode == "zeros", f"padding mode {m.padding_mode!r}"
    padding = m.padding
    if isinstance(padding, str):
        total = [d * (k - 1) for d, k in zip(m.dilation, m.kernel_size, strict=True)]
        assert padding == "valid" or all(t % 2 == 0 for t in total), "uneven 'same' padding"
        padding = (0, 0) if padding == "valid" else tuple(t // 2 for t in total)
    return b.emit(
        "conv",
        [x],
        where,
        m.weight,
        m.bias,
        stride=_pair(m.stride),
        padding=_pair(padding),
        dilation=_pair(m.dilation),
        groups=m.groups,
    )


def _convert_batch_norm(b: _Builder, m: Any, where: str, x: Any) -> Any:
    """Batch norm alone is a depthwise 1x1 convolution; `_fold` merges it with the one before."""
    gain = (m.weight if m.affine else torch.ones_like(m.running_var)) / torch.sqrt(m.running_var + m.eps)
    shift = (m.bias if m.affine else torch.zeros_like(gain)) - m.running_mean * gain
    return b.emit(
        "conv",
        [x],
        where,
        gain[:, None, None, None],
        shift,
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=gain.numel(),
        scaling=True,
    )


def _convert_mean(b: _Builder, m: Any, where: str, x: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    dims = sorted(d % 4 for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))
    assert dims == [2, 3], f"a mean over {dim}"
    pooled = b.emit("mean", [x], where)
    return pooled if keepdim else b.emit("flatten", [pooled], where)


def _convert_pool_to_one(b: _Builder, m: Any, where: str, x: Any, size: Any = None) -> Any:
    size = m.output_size if m is not None else size
    assert _pair(size) == (1, 1), f"adaptive pooling to {size}"
    return b.emit("mean", [x], where)


def _convert_expand(b: _Builder, m: Any, where: str, x: Any, *size: Any) -> Any:
    size = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
    assert len(size) == x[1].ndim == 4 and all(s in (-1, g) for s, g in zip(size[:2], x[1].shape[:2], strict=True)), (
        "only heights and widths can be expanded"
    )
    target = tuple(int(s) for s in size)[-2:]
    given = x[1].shape[-2:]
    target = (given[0] if target[0] == -1 else target[0], given[1] if target[1] == -1 else target[1])
    return x if tuple(given) == target else b.emit("expand", [x], where, size=target)


def _convert_interpolate(
    b: _Builder,
    m: Any,
    where: str,
    x: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    antialias: bool = False,
    **_: Any,
) -> Any:
    if m is not None:
        size, scale_factor, mode, align_corners = m.size, m.scale_factor, m.mode, m.align_corners
    assert mode == "bilinear" and not antialias, f"interpolation mode {mode!r}{' with antialias' * antialias}"
    if size is None:
        factors = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor, scale_factor)
        scaled = [s * f for s, f in zip(x[1].shape[-2:], factors, strict=True)]
        # Else torch samples by the factor, and every format by the sizes.
        assert all(s == int(s) for s in scaled), f"a scale of {factors} from {tuple(x[1].shape[-2:])}"
        size = [int(s) for s in scaled]
    return b.emit("resize", [x], where, size=_pair(size), align_corners=bool(align_corners))


def _convert_max_pool(
    b: _Builder,
    m: Any,
    where: str,
    x: Any,
    kernel_size: Any = 0,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    if m is not None:
        kernel_size, stride, padding, dilation = m.kernel_size, m.stride, m.padding, m.dilation
        ceil_mode, return_indices = m.ceil_mode, m.return_indices
    assert not ceil_mode and not return_indices and _pair(dilation) == (1, 1), "ceil mode, indices or dilation"
    return b.emit(
        "max_pool",
        [x],
        where,
        kernel=_pair(kernel_size),
        stride=_pair(stride if stride is not None else kernel_size),
        padding=_pair(padding),
    )


def _convert_flatten(b: _Builder, m: Any, where: str, x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    if m is not None:
        start_dim, end_dim = m.start_dim, m.end_dim
    assert start_dim == 1 and end_dim in (-1, x[1].ndim - 1), f"axes {start_dim} to {end_dim}"
    return b.emit("flatten", [x], where)


def _convert_cat(b: _Builder, m: Any, where: str, tensors: Any, dim: int = 0) -> Any:
    assert dim in (1, 1 - tensors[0][1].ndim), f"axis {dim}"
    return b.emit("cat", list(tensors), where)


def _convert_binary(kind: str) -> Callable[..., Any]:
    def convert(b: _Builder, m: Any, where: str, x: Any, other: Any) -> Any:
        return b.emit(kind, [x, other], where)

    return convert


def _convert_unary(kind: str, **attributes: float) -> Callable[..., Any]:
    return lambda b, m, where, x, **_: b.emit(kind, [x], where, **attributes)


_SKIPPED = {"dropout", "dropout2d", "identity", "contiguous"}
_INFINITY = float("inf")
_relu, _relu6 = _convert_unary("clamp", low=0.0, high=_INFINITY), _convert_unary("clamp", low=0.0, high=6.0)

#: lower-case name of a module class, function or method -> what emits its nodes.
_CONVERTERS: dict[str, Callable[..., Any]] = {
    "conv2d": _convert_conv,
    "batchnorm2d": _convert_batch_norm,
    "linear": lambda b, m, where, x: b.emit("linear", [x], where, m.weight, m.bias),
    "relu": _relu,
    "relu_": _relu,
    "relu6": _relu6,
    "hardswish": _convert_unary("hardswish"),
    "hardsigmoid": _convert_unary("hardsigmoid"),
    "sigmoid": _convert_unary("sigmoid"),
    "add": _convert_binary("add"),
    "iadd": _convert_binary("add"),
    "mul": _convert_binary("mul"),
    "cat": _convert_cat,
    "mean": _convert_mean,
    "adaptiveavgpool2d": _convert_pool_to_one,
    "adaptive_avg_pool2d": _convert_pool_to_one,
    "expand": _convert_expand,
    "flatten": _convert_flatten,
    "maxpool2d": _convert_max_pool,
    "max_pool2d": _convert_max_pool,
    "interpolate": _convert_interpolate,
    "upsample": _convert_interpolate,
}


def _fold(graph: Graph) -> Graph:
    """Merge each batch norm into the convolution that alone feeds it."""
    uses = graph.uses()
    renamed: dict[str, str] = {}
    nodes: dict[str, Node] = {}
    values = dict(graph.values.items())
    for node in graph.nodes:
        inputs = tuple(renamed.get(i, i) for i in node.inputs)
        before = nodes.get(inputs[0])
        if (
            node.attributes.get("scaling")
            and before is not None
            and before.operator == "conv"
            and uses[node.inputs[0]] == 1
            and node.inputs[0] != graph.output
        ):
            gain, shift = values.pop(node.weight).flatten(), values.pop(node.bias)
            bias = values[before.bias] if before.bias else torch.zeros_like(shift)
            values[before.weight] = values[before.weight] * gain[:, None, None, None]
            values[f"{before.name}__bias"] = bias * gain + shift
            nodes[before.name] = Node(
                before.name,
                "conv",
                before.inputs,
                before.shape,
                before.attributes,
                before.weight,
                f"{before.name}__bias",
                before.where,
            )
            renamed[node.name] = before.name
            continue
        attributes = {k: v for k, v in node.attributes.items() if k != "scaling"}
        nodes[node.name] = Node(
            node.name, node.operator, inputs, node.shape, attributes, node.weight, node.bias, node.where
        )
    output = renamed.get(graph.output, graph.output)
    return Graph(graph.input_shape, list(nodes.values()), output, values)
