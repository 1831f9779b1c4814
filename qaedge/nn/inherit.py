"""Where a candidate's weights start: from the teacher's block, wherever shapes allow.

The teacher's block is read as a list of inverted residuals (or as a segmentation head). A
candidate layer takes the strongest hidden channels of the teacher layer it stands for, its kernel
centered in a larger one, and a projection solved anew by least squares for the channels that are
left, as in He et al., "Channel Pruning for Accelerating Very Deep Neural Networks" (ICCV 2017).
Of the ways to drop layers, the one with the least block loss at the start is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qaedge.candidate import BlockSpec
from qaedge.errors import UnsupportedOperator
from qaedge.nn.blocks import Context, ConvNorm, InvertedResidual, build_block
from qaedge.nn.graph import Graph, Node
from qaedge.nn.tracing import trace

#: How many ways of dropping layers are tried.
MOST_WAYS = 6


@dataclass(frozen=True)
class Affine:
    """A convolution of the teacher with its batch norm folded in, and what it was fed with.

    `mean` [in] and `covariance` [in, in] describe its input over sample positions; they are only
    kept for 1x1 convolutions.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor | None = None
    covariance: Tensor | None = None

    def strongest(self, count: int) -> Tensor:
        """Return the `count` input channels that move the output most, in ascending order."""
        assert self.covariance is not None
        strength = self.covariance.diagonal().clamp(min=0).sqrt() * self.weight.flatten(1).norm(dim=0)
        chosen: Tensor = strength.topk(min(count, len(strength))).indices.sort().values
        return chosen

    def keep(self, chosen: Tensor) -> Affine:
        """Return this convolution over some of its input channels, solved for the same output."""
        assert self.mean is not None and self.covariance is not None
        flat = self.weight.flatten(1)
        own = self.covariance[chosen][:, chosen]
        ridge = own.diagonal().mean().clamp(min=1e-8) * 1e-4
        own = own + ridge * torch.eye(len(chosen))
        solved = torch.linalg.solve(own, self.covariance[chosen] @ flat.T).T
        bias = self.bias + flat @ self.mean - solved @ self.mean[chosen]
        return Affine(solved[:, :, None, None], bias)

    def outputs(self, chosen: Tensor) -> Affine:
        """Return this convolution with some of its output channels."""
        return Affine(self.weight[chosen], self.bias[chosen], self.mean, self.covariance)


@dataclass(frozen=True)
class OwnLayer:
    """An inverted residual of the teacher; `before` is a plain convolution that feeds it alone."""

    before: Affine | None
    expand: Affine | None
    depthwise: Affine
    project: Affine


@dataclass(frozen=True)
class OwnHead:
    """A segmentation head of the teacher: projection over [pooled, local], then logits."""

    pool: Affine
    local: Affine
    project_pool: Affine
    project_local: Affine
    logits: Affine


class OwnBlock:
    """The teacher's block, read once for all of its candidates."""

    def __init__(self, module: nn.Module, inputs: Tensor) -> None:
        """Trace the block and gather statistics.

        Args:
            module: the teacher's block, in eval mode.
            inputs: sample inputs (batch, channels, height, width).
        """
        self.inputs = inputs
        self.layers: list[OwnLayer] = []
        self.head: OwnHead | None = None
        try:
            graph = trace(module, tuple(inputs.shape[1:]))
        except UnsupportedOperator:
            return  # candidates start fresh
        readings = _Readings(graph, inputs)
        self.layers = list(_layers(readings))
        self.head = _head(readings)
        with torch.no_grad():
            self.outputs = graph(inputs)


def start_block(spec: BlockSpec, own: OwnBlock, seed: int) -> tuple[nn.Sequential, str]:
    """Return a candidate's module with its starting weights, and where they came from.

    The second is "teacher" (every layer), "partly" (some layers) or "fresh" (none). The function
    of an inherited layer is the teacher's up to what was cut; batch norm is set so that training
    mode and eval mode start alike.
    """
    ways = list(itertools.islice(_ways(len(own.layers), _residuals(spec)), MOST_WAYS))
    best: tuple[float, nn.Sequential, str] | None = None
    for way in ways or [()]:
        block = build_block(spec, own.inputs.shape[1], seed)
        biases: dict[nn.BatchNorm2d, Tensor] = {}
        inherited = _copy_head(block, own, biases) if own.head is not None else _copy_layers(block, own, way, biases)
        _settle(block, biases, own.inputs)
        started = "teacher" if inherited == len(block) else "partly" if inherited else "fresh"
        if len(ways) <= 1 or started == "fresh":
            return block, started
        with torch.no_grad():
            loss = float((block(own.inputs) - own.outputs).square().mean())
        if best is None or loss < best[0]:
            best = (loss, block, started)
    assert best is not None
    return best[1], best[2]


class _Readings:
    """Folded convolutions of a graph with the statistics of their inputs."""

    def __init__(self, graph: Graph, inputs: Tensor) -> None:
        self.graph = graph
        self.readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
        wanted = {n.inputs[0] for n in graph.nodes if n.operator == "conv" and _is_pointwise(graph, n)}
        self.statistics: dict[str, tuple[Tensor, Tensor]] = {}

        def observe(name: str, x: Tensor) -> Tensor:
            if name in wanted:
                flat = x.transpose(0, 1).flatten(1)
                flat = flat[:, :: max(1, flat.shape[1] // 40000)].double()
                mean = flat.mean(1)
                centered = flat - mean[:, None]
                self.statistics[name] = (mean.float(), (centered @ centered.T / flat.shape[1]).float())
            return x

        with torch.no_grad():
            graph.run(inputs, observe)

    def affine(self, node: Node) -> Affine:
        weight, bias = self.graph.parameters_of(node)
        assert weight is not None
        mean, covariance = self.statistics.get(node.inputs[0], (None, None))
        shift = bias.detach() if bias is not None else torch.zeros(len(weight))
        return Affine(weight.detach(), shift, mean, covariance)

    def writer(self, name: str) -> Node | None:
        """The convolution that writes a tensor, looking through activations and broadcasts."""
        nodes = {n.name: n for n in self.graph.nodes}
        while name in nodes and nodes[name].operator in ("clamp", "expand"):
            name = nodes[name].inputs[0]
        found = nodes.get(name)
        return found if found is not None and found.operator == "conv" else None

    def reader(self, name: str) -> Node | None:
        """The convolution that alone reads a tensor, looking through activations."""
        while len(self.readers.get(name, [])) == 1:
            node = self.readers[name][0]
            if node.operator == "conv":
                return node
            if node.operator != "clamp":
                return None
            name = node.name
        return None


def _is_pointwise(graph: Graph, node: Node) -> bool:
    weight = graph.values[node.weight]
    return tuple(weight.shape[2:]) == (1, 1) and bool(node.attributes["groups"] == 1)


def _layers(readings: _Readings) -> Iterator[OwnLayer]:
    graph = readings.graph
    for node in graph.nodes:
        if node.operator != "conv" or not 1 < node.attributes["groups"] == graph.values[node.weight].shape[0]:
            continue
        before, after = readings.writer(node.inputs[0]), readings.reader(node.name)
        if after is None or not _is_pointwise(graph, after):
            continue
        expand = before if before is not None and _is_pointwise(graph, before) else None
        plain = before if before is not None and expand is None and before.attributes["groups"] == 1 else None
        yield OwnLayer(
            readings.affine(plain) if plain else None,
            readings.affine(expand) if expand else None,
            readings.affine(node),
            readings.affine(after),
        )


def _head(readings: _Readings) -> OwnHead | None:
    graph = readings.graph
    cats = [n for n in graph.nodes if n.operator == "cat" and len(n.inputs) == 2]
    means = {n.name for n in graph.nodes if n.operator == "mean"}
    last = next((n for n in reversed(graph.nodes) if n.operator == "conv"), None)
    if len(cats) != 1 or last is None or not _is_pointwise(graph, last):
        return None
    writers = [readings.writer(name) for name in cats[0].inputs]
    project = readings.reader(cats[0].name)
    if None in writers or project is None or project is last or not _is_pointwise(graph, project):
        return None
    first, second = (w for w in writers if w is not None)
    pooled_first = first.inputs[0] in means
    pool, local = (first, second) if pooled_first else (second, first)
    if pool.inputs[0] not in means or local.inputs[0] != "input":
        return None
    whole = readings.affine(project)
    assert whole.mean is not None and whole.covariance is not None
    widths = [graph.values[w.weight].shape[0] for w in (first, second)]
    halves = [slice(0, widths[0]), slice(widths[0], sum(widths))]
    if not pooled_first:
        halves.reverse()
    parts = [Affine(whole.weight[:, h], whole.bias, whole.mean[h], whole.covariance[h, h]) for h in halves]
    return OwnHead(readings.affine(pool), readings.affine(local), parts[0], parts[1], readings.affine(last))


def _residuals(spec: BlockSpec) -> int:
    return sum(layer.kind == "ir" for layer in spec.layers)


def _ways(own: int, wanted: int) -> Iterator[tuple[int, ...]]:
    """The layers of the teacher that may stand behind a candidate's: first and last are kept."""
    if own == 0 or wanted == 0:
        return
    if wanted >= own:
        yield tuple(range(own))
    elif wanted == 1:
        yield (own - 1,) if own == 1 else (0,)
    else:
        for middle in itertools.combinations(range(1, own - 1), wanted - 2):
            yield (0, *middle, own - 1)


def _copy_layers(
    block: nn.Sequential, own: OwnBlock, way: tuple[int, ...], biases: dict[nn.BatchNorm2d, Tensor]
) -> int:
    """Copy what fits; return how many of the block's modules took everything from the teacher."""
    inherited = 0
    stem: ConvNorm | None = None
    residuals = [m for m in block if isinstance(m, InvertedResidual)]
    plan = {id(m): own.layers[way[i]] for i, m in enumerate(residuals) if i < len(way)}
    for module in block:
        if not isinstance(module, InvertedResidual):
            stem = module if isinstance(module, ConvNorm) else None
            continue
        source = plan.get(id(module))
        if source is None:
            if module.residual:  # a layer that the teacher lacks starts as the identity
                nn.init.zeros_(module.project.conv.weight)
                biases[module.project.norm] = torch.zeros(len(module.project.conv.weight))
            continue
        if not _fits(module, source):
            continue
        chosen = source.project.strongest(module.depthwise.conv.out_channels)
        inherited += _copy_residual(module, source, chosen, biases)
        if stem is not None and module.expand is None and source.before is not None:
            weight = stem.conv.weight
            if weight.shape[1] == source.before.weight.shape[1] and len(weight) == len(chosen):
                _put(stem, source.before.outputs(chosen), biases)
                inherited += 1
    return inherited


def _fits(module: InvertedResidual, source: OwnLayer) -> bool:
    given = source.expand.weight.shape[1] if source.expand is not None else source.depthwise.weight.shape[0]
    wanted = module.expand.conv.in_channels if module.expand is not None else None
    same_input = wanted is None or wanted == given
    return (
        same_input
        and (module.expand is None) == (source.expand is None)
        and module.project.conv.out_channels == source.project.weight.shape[0]
    )


def _copy_residual(
    module: InvertedResidual, source: OwnLayer, chosen: Tensor, biases: dict[nn.BatchNorm2d, Tensor]
) -> int:
    if module.expand is not None and source.expand is not None:
        _put(module.expand, source.expand.outputs(chosen), biases)
    _put(module.depthwise, source.depthwise.outputs(chosen), biases)
    _put(module.project, source.project.keep(chosen), biases)
    return 1


def _put(target: nn.Module, source: Affine, biases: dict[nn.BatchNorm2d, Tensor]) -> None:
    """Write a convolution into a (conv, batch norm) pair or a bare conv, centering kernels.

    Output and input channels beyond the teacher's keep their fresh start; their columns in the
    next projection are zero, so they change nothing until training finds a use for them.
    """
    conv = target[0] if isinstance(target, nn.Sequential) else target  # ReLU6 may follow a bare conv
    assert isinstance(conv, nn.Conv2d)
    weight = conv.weight.data
    out, given = min(len(weight), len(source.weight)), min(weight.shape[1], source.weight.shape[1])
    if weight.shape[1] > given:
        weight[:, given:] = 0
    size, kernel = weight.shape[2], source.weight.shape[2]
    copied = source.weight[:out, :given]
    if size >= kernel:
        edge = (size - kernel) // 2
        weight[:out, :given] = 0
        weight[:out, :given, edge : edge + kernel, edge : edge + kernel] = copied
    else:
        edge = (kernel - size) // 2
        weight[:out, :given] = copied[:, :, edge : edge + size, edge : edge + size]
    bias = torch.zeros(len(weight))
    bias[:out] = source.bias[:out]
    if isinstance(target, ConvNorm):
        biases[target.norm] = bias
    elif conv.bias is not None:
        conv.bias.data.copy_(bias)


def _copy_head(block: nn.Sequential, own: OwnBlock, biases: dict[nn.BatchNorm2d, Tensor]) -> int:
    head, context, logits = own.head, block[0], block[1] if len(block) == 2 else None
    if head is None or not isinstance(context, Context) or not isinstance(logits, nn.Conv2d):
        return 0
    width = context.local.conv.out_channels
    if width > len(head.local.weight) or context.local.conv.in_channels != head.local.weight.shape[1]:
        return 0
    outputs = head.logits.strongest(width)
    local = head.project_local.strongest(width)
    projected = head.project_local.keep(local).outputs(outputs)
    if context.depthwise is not None:
        delta = torch.zeros_like(context.depthwise.conv.weight)
        delta[:, :, delta.shape[2] // 2, delta.shape[3] // 2] = 1
        _put(context.depthwise, Affine(delta, torch.zeros(len(delta))), biases)
    _put(context.local, head.local.outputs(local), biases)
    if context.pool is not None and context.pool_project is not None:
        pooled = head.project_pool.strongest(width)
        kept = head.project_pool.keep(pooled).outputs(outputs)
        _put(context.pool, head.pool.outputs(pooled), biases)
        _put(context.pool_project, kept, biases)
        # Both halves carry the projection's own bias once; the pooled one keeps only its shift.
        shift = kept.bias - head.project_pool.bias[outputs]
    else:
        assert head.project_pool.mean is not None
        shift = (head.project_pool.weight.flatten(1) @ head.project_pool.mean)[outputs]
    _put(context.project, Affine(projected.weight, projected.bias + shift), biases)
    _put(logits, head.logits.keep(outputs), biases)
    return 2


def _settle(block: nn.Module, biases: dict[nn.BatchNorm2d, Tensor], inputs: Tensor) -> None:
    """Set each batch norm from what it sees, so that inherited layers keep their function."""

    def set_from(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None
        mean = args[0].mean((0, 2, 3))
        # Not var_mean: over these axes it takes twice as long.
        variance = (args[0] - mean[:, None, None]).square_().mean((0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        if norm in biases:
            norm.weight.data.copy_((variance + norm.eps).sqrt())
            norm.bias.data.copy_(mean + biases[norm])

    seen = [m.register_forward_pre_hook(set_from) for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    block.eval()
    with torch.no_grad():
        block(inputs)
    for hook in seen:
        hook.remove()
