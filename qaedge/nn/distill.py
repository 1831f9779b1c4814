"""Distillation of one candidate: trained alone to imitate its teacher block, quantized, scored.

The loss is the squared error per channel over that channel's variance in the teacher, the
"noise-to-signal power ratio" of DONNA (Moons et al., ICCV 2021): 0 is a perfect copy, 1 a
candidate that knows only the mean.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from qaedge.candidate import BlockSpec
from qaedge.errors import TeacherError, UnsupportedOperator
from qaedge.nn.dilated import QuickDilation
from qaedge.nn.features import Features, to_tensor
from qaedge.nn.inherit import OwnBlock, start_block
from qaedge.nn.layout import lay_out
from qaedge.nn.tracing import trace
from qaedge.project import DistillConfig

#: Images that score a candidate, never trained on: enough for this many positions, within bounds.
#: Early blocks see many positions an image; more images would only cost time.
SCORED_POSITIONS, SCORED = 400_000, (4, 16)
#: Inputs of more pixels a side are trained on crops of this size; outputs this near a crop's edge
#: (where the teacher saw more than the crop) do not count.
CROP, MARGIN = 128, 4
#: How much faster than `distill.learning_rate` a candidate with fresh layers learns.
FRESH_RATE = 4.0
#: The least variance of a channel, as a share of the mean over channels.
FLOOR = 1e-2


@dataclass(frozen=True)
class Sample:
    """A block's features, split for their uses; tensors are (images, channels, height, width)."""

    block: str
    train: tuple[int, ...]
    scored: tuple[int, ...]
    inputs: np.ndarray[Any, Any]
    outputs: np.ndarray[Any, Any]
    variance: Tensor
    local: bool

    @staticmethod
    def of(features: Features, block: str, own: nn.Module) -> Sample:
        """Choose the images: every n-th is for scoring, the rest for training."""
        count = len(features)
        check_enough(count)
        inputs, outputs = features.inputs(block), features.outputs(block)
        enough = -(-SCORED_POSITIONS // int(np.prod(inputs.shape[2:])))
        wanted = min(max(enough, SCORED[0]), SCORED[1], count // 2)
        scored = tuple(dict.fromkeys(int(i) for i in np.linspace(0, count - 1, wanted)))
        variance = to_tensor(outputs[list(scored)]).var((0, 2, 3))
        try:
            local = all(node.operator != "mean" for node in trace(own, tuple(inputs.shape[1:])).nodes)
        except UnsupportedOperator:
            local = False  # it may look at the whole image: train on whole images
        train = tuple(i for i in range(count) if i not in set(scored))
        return Sample(block, train, scored, inputs, outputs, floor_variance(variance), local)

    def spread(self, count: int) -> list[int]:
        """Return `count` training images, evenly spread."""
        return [self.train[int(i)] for i in np.linspace(0, len(self.train) - 1, count)]

    def batch(self, random: np.random.Generator, size: int) -> tuple[Tensor, Tensor, int]:
        """Return inputs, outputs and the margin that does not count, for a random batch."""
        chosen = random.choice(self.train, size, replace=len(self.train) < size)
        height, width = self.inputs.shape[2:]
        stride = max(1, round(height / self.outputs.shape[2]))
        if not self.local or min(height, width) <= CROP:
            order = np.sort(chosen)
            return to_tensor(self.inputs[order]), to_tensor(self.outputs[order]), 0
        crops, targets = [], []
        for image in chosen:
            top = int(random.integers(0, (height - CROP) // stride + 1)) * stride
            left = int(random.integers(0, (width - CROP) // stride + 1)) * stride
            end = CROP // stride
            crops.append(self.inputs[image, :, top : top + CROP, left : left + CROP])
            targets.append(
                self.outputs[image, :, top // stride : top // stride + end, left // stride : left // stride + end]
            )
        return to_tensor(np.stack(crops)), to_tensor(np.stack(targets)), MARGIN


@dataclass(frozen=True)
class Trained:
    """A candidate in float: its module, where it started, and where the time went."""

    module: nn.Module
    float_loss: float
    started_from: str
    steps: int
    train_seconds: float


def check_enough(images: int) -> None:
    """Raise TeacherError where there are too few images to train on some and score on others."""
    if images < 4:
        raise TeacherError(
            f"Distillation needs at least 4 images, found {images}.", "Add images, or enlarge distill.cache."
        )


def floor_variance(variance: Tensor) -> Tensor:
    """Keep channels that hardly vary from ruling the loss: at least a hundredth of the mean variance.

    After a ReLU, channels may be dead, and what a candidate puts out there is divided by the floor
    alone: an error of a hundredth of the mean variance then counts as much as knowing nothing of a
    live channel. Where every channel varies by more than the floor, it changes nothing. That is the
    ordinary case: in linear bottlenecks and logits of a trained DeepLabV3 on MobileNetV2, the least
    channel has from a tenth (logits) to half of the mean variance.
    """
    return variance.clamp(min=max(1e-12, FLOOR * float(variance.mean())))


def block_loss(
    given: Float[Tensor, "batch channels height width"],
    wanted: Float[Tensor, "batch channels height width"],
    variance: Float[Tensor, " channels"],
    margin: int = 0,
) -> Tensor:
    """Return noise over signal, averaged over channels; a scalar without unit."""
    error = (given - wanted).square()
    if margin:
        error = error[:, :, margin:-margin, margin:-margin]
    return (error.mean((0, 2, 3)) / variance).mean()


def train_candidate(
    spec: BlockSpec, own: OwnBlock, sample: Sample, config: DistillConfig, device: torch.device
) -> Trained:
    """Train a candidate in float; what comes back is never worse than where it started.

    A candidate that starts from the teacher, even partly, keeps its batch norms frozen: their
    statistics are the teacher's features' already, and the noise of small batches would undo the
    start. A fresh one needs them in training mode.

    Args:
        spec: what to build; not the teacher's own block.
        own: what was read from the teacher's block.
        sample: its features.
        config: steps, batch, learning rate, seed.
        device: where to train.

    Raises:
        TeacherError: the loss became NaN or infinite, or shapes do not fit.
    """
    block, origin = start_block(spec, own, config.seed)
    start = {name: value.clone() for name, value in block.state_dict().items()}
    _check_shape(block, sample)
    before = score(block, sample)
    block.to(device).train(origin == "fresh")
    lay_out(block, torch.channels_last)
    rate = config.learning_rate * (FRESH_RATE if origin == "fresh" else 1)
    train_seconds = _train(block, sample, config, rate, device)
    lay_out(block.cpu().eval(), torch.contiguous_format)
    after = score(block, sample)
    if not np.isfinite(after) and not np.isfinite(before):
        raise TeacherError(f"The block loss of {spec} in {sample.block} is {after}.", "Lower distill.learning_rate.")
    if not after < before:
        block.load_state_dict(start)
    return Trained(block, min(before, after), origin, config.steps, train_seconds)


def score(network: nn.Module, sample: Sample) -> float:
    """Return the block loss on the images that are kept for scoring."""
    total = 0.0
    with torch.no_grad():
        for image in sample.scored:
            given, wanted = to_tensor(sample.inputs[[image]]), to_tensor(sample.outputs[[image]])
            total += float(block_loss(network(given), wanted, sample.variance))
    return total / len(sample.scored)


def _check_shape(block: nn.Module, sample: Sample) -> None:
    with torch.no_grad():
        found = tuple(block(to_tensor(sample.inputs[:1])).shape[1:])
    wanted = tuple(sample.outputs.shape[1:])
    if found != wanted:
        raise TeacherError(
            f"A candidate of {sample.block} puts out {found}, the teacher {wanted}.",
            "Check strides and widths of the block in the space file.",
        )


def _train(block: nn.Module, sample: Sample, config: DistillConfig, rate: float, device: torch.device) -> float:
    """Train in place; return the seconds inside forward, backward and step."""
    random = np.random.default_rng(config.seed)
    optimizer = torch.optim.AdamW(block.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, config.steps + 1, pct_start=0.1)
    variance = sample.variance.to(device)
    inside = 0.0
    for _ in range(config.steps):
        given, wanted, margin = sample.batch(random, config.batch)
        given, wanted = (t.to(device, memory_format=torch.channels_last) for t in (given, wanted))
        begun = time.perf_counter()
        with QuickDilation():
            loss = block_loss(block(given), wanted, variance, margin)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        inside += time.perf_counter() - begun
    return inside
