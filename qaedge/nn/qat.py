"""Quantization-aware fine-tuning: a network trained as it will be deployed, on its grids.

Weights are rounded in each forward pass, and gradients pass straight through the rounding; the scales
of weights are learned with them (Esser et al., "Learned Step Size Quantization", ICLR 2020; by their
logarithm, so that they stay above zero and a step changes each by a share). The grids of activations stay
as they were calibrated. Batch norms are folded, as in the file.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from qaedge.files import decode_json, write_json
from qaedge.nn.data import Split
from qaedge.nn.distill import floor_variance
from qaedge.nn.finetune import finetune
from qaedge.nn.graph import Graph
from qaedge.nn.metrics import evaluate, miou_of
from qaedge.nn.part import nodes_in
from qaedge.nn.paths import top_modules
from qaedge.nn.quantize import QuantizedGraph
from qaedge.nn.quantized_file import load_quantized, save_quantized
from qaedge.nn.teacher import Teacher
from qaedge.progress import Step
from qaedge.project import FinetuneConfig

#: Epochs without a better mIoU after which training ends.
PATIENCE = 3
#: Which method trains: a checkpoint of another one does not count.
METHOD = 2


class Noted(nn.Module):
    """The teacher, noting what its blocks put out: name -> (batch, channels, height, width)."""

    def __init__(self, module: nn.Module, paths: Mapping[str, str]) -> None:
        """Take a network and the paths of its blocks."""
        super().__init__()
        self.module = module
        self.paths = dict(paths)
        self.noted: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Run the network; (batch, 3, height, width) in, logits out."""
        handles = []
        for name, path in self.paths.items():
            *_, last = top_modules(self.module, path).values()
            handles.append(last.register_forward_hook(self._note(name)))
        try:
            logits: Tensor = self.module(x)
            return logits
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, name: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            self.noted[name] = output

        return hook


class Trained(nn.Module):
    """A quantized network in training: its weights and their scales are parameters, blocks' outputs are noted."""

    def __init__(self, network: QuantizedGraph, graph: Graph, outputs: Mapping[str, str]) -> None:
        """Take a network, its graph for crops, and tensor -> block for what is to be noted.

        Args:
            network: gives grids, bits and weights; not changed.
            graph: the same nodes for another size of image; its values are what is trained.
            outputs: tensor -> name of the block that it leaves.
        """
        super().__init__()
        nodes = [node for node in graph.nodes if node.weight]
        #: node -> scale [out] that it began with, and the logarithm of what that is multiplied by by now
        self.first = {node.name: network.integers(node)[1].detach().clone() for node in nodes}
        self.stretch = nn.ParameterDict({name: nn.Parameter(torch.zeros_like(s)) for name, s in self.first.items()})
        self.network = QuantizedGraph(graph, network.scheme, network.scales, network.weight_bits, network.float_tail)
        self.outputs = dict(outputs)
        self.noted: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Run on fake-quantized numbers; (batch, 3, height, width) in, logits out."""
        self.network.weight_scales = self.scales()

        def note(name: str, tensor: Tensor) -> None:
            if name in self.outputs:
                self.noted[self.outputs[name]] = tensor

        return self.network.run(x, note)

    def scales(self) -> dict[str, Tensor]:
        """Return node -> scale of its weights [out], with the way back for gradients."""
        return {name: self.first[name].to(p.device) * p.exp() for name, p in self.stretch.items()}

    def finished(self, network: QuantizedGraph) -> QuantizedGraph:
        """Return the trained weights and scales in the full-sized network, frozen."""
        values = {name: value.detach().cpu().contiguous() for name, value in self.network.graph.values.items()}
        filled = Graph(network.graph.input_shape, network.graph.nodes, network.graph.output, values)
        scales = {name: scale.detach().cpu() for name, scale in self.scales().items()}
        return QuantizedGraph(
            filled, network.scheme, network.scales, network.weight_bits, network.float_tail, scales
        ).freeze()


class Tuned(msgspec.Struct, frozen=True):
    """The best network of a training, its validation mIoU in torch, and after which epoch it was there (0: before).

    `tried_miou` is the best of the epochs, whether it was better than before or not; None without an epoch.
    """

    network: QuantizedGraph
    miou: float
    epoch: int
    epochs: int
    tried_miou: float | None = None
    tried_epoch: int = 0


class _Best(msgspec.Struct, frozen=True, array_like=True):
    """What is known between epochs, as Tuned names it."""

    miou: float
    epoch: int
    tried_miou: float | None = None
    tried_epoch: int = 0


def finetune_quantized(
    network: QuantizedGraph,
    graph: Graph,
    teacher: Teacher,
    train: Split,
    val: Split,
    config: FinetuneConfig,
    checkpoint: Path,
) -> Iterator[Step]:
    """Train a quantized network, and keep the best of its epochs; the last Step's result is Tuned.

    Beside labels and the teacher's logits, each block's outputs are held against the teacher's, by the
    loss that candidates are distilled with, times `config.block_guidance`. Ends early where the
    validation mIoU has not risen for some epochs. An interrupted training goes on from its last epoch.

    Args:
        network: where to start from; not changed.
        graph: the same nodes, for images of `config.crop`.
        teacher: in eval mode.
        train: images and labels to learn from.
        val: images and labels that decide.
        config: epochs, batch, learning rate, crop, guidance.
        checkpoint: where the state between epochs lies; beside it, the best network so far.

    Raises:
        TeacherError, InvalidFile, DataError, DiskFull: see `finetune`.
    """
    best_path, told = checkpoint.with_suffix(".best.safetensors"), checkpoint.with_suffix(".best.json")
    best: _Best | None = None
    if told.exists() and checkpoint.exists():
        best = decode_json(told, _Best, hint="Delete it to train on the grids anew.")
    if best is None:
        miou = yield from miou_of(evaluate(network, val, batch=1), "mIoU before quantization-aware fine-tuning")
        best = _Best(miou, 0)
        save_quantized(network, best_path)
        write_json(told, best)
    outputs = _block_outputs(network, teacher)
    student = Trained(network, _filled(graph, network), outputs)
    paths = {name: teacher.block(name).path for name in outputs.values()}
    guide = Noted(teacher.module, paths)

    def also(copied: nn.Module | None) -> Tensor:
        assert isinstance(copied, Noted)
        losses = [_apart(student.noted[name], copied.noted[name]) for name in paths]
        return config.block_guidance * torch.stack(losses).mean()

    def watch(epoch: int) -> Generator[Step, None, bool]:
        nonlocal best
        assert best is not None
        tuned = student.finished(network)
        found = yield from miou_of(evaluate(tuned, val, batch=1), f"mIoU after epoch {epoch}")
        if best.tried_miou is None or found > best.tried_miou:
            best = msgspec.structs.replace(best, tried_miou=found, tried_epoch=epoch)
        if found > best.miou:
            save_quantized(tuned, best_path)
            best = msgspec.structs.replace(best, miou=found, epoch=epoch)
        write_json(told, best)
        return epoch - best.epoch >= PATIENCE

    by_blocks = also if paths and config.block_guidance else None
    scales = tuple(student.stretch.parameters())  # logarithms: decay would pull each scale to where it began
    yield from finetune(student, guide, train, config, checkpoint, by_blocks, watch, scales, "quantized_learning_rate")
    kept = load_quantized(network.graph, best_path)
    found = Tuned(kept, best.miou, best.epoch, config.epochs, best.tried_miou, best.tried_epoch)
    yield Step(1, 1, f"mIoU {best.miou:.4f}", found)


def _filled(graph: Graph, network: QuantizedGraph) -> Graph:
    """The graph for crops with the network's own weights."""
    return Graph(graph.input_shape, graph.nodes, graph.output, dict(network.graph.values.items()))


def _block_outputs(network: QuantizedGraph, teacher: Teacher) -> dict[str, str]:
    """Return tensor -> block, for each block whose last tensor is on a grid of its own."""
    found = {}
    for block in teacher.blocks:
        nodes = nodes_in(network.graph, top_modules(teacher.module, block.path))
        if nodes and network.scale_of(nodes[-1].name) is not None:
            found[nodes[-1].name] = block.name
    return found


def _apart(found: Tensor, wanted: Tensor) -> Tensor:
    """Noise over signal, per channel, averaged: the block loss, of one batch."""
    variance = floor_variance(wanted.detach().float().var((0, 2, 3)))
    return ((found.float() - wanted.detach().float()).square().mean((0, 2, 3)) / variance).mean()
