"""The built-in teacher: DeepLabV3 on MobileNetV2, with torchvision's names for the backbone.

Every operation is one that `torch.fx` traces and that INT8 runtimes know: convolution, batch
norm, ReLU6, add, concatenate, mean, expand, bilinear resize.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qaedge.errors import UsageError

#: (expansion, channels, repeats, stride) of each group of inverted residuals: MobileNetV2, table 2.
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
#: Groups that make a stage: the stem goes with the first, the last two go together.
STAGES = ((0,), (1,), (2,), (3,), (4,), (5, 6))
STEM_CHANNELS = 32
EPS = 1e-3
_HEAD_PARTS = ("image_pooling.", "aspp0.", "project.", "classifier.")


def _scaled(channels: int, width: float) -> int:
    """Scale to a multiple of 8, at most 10 % below, as MobileNetV2 does."""
    scaled = max(8, int(channels * width + 4) // 8 * 8)
    return scaled if scaled >= 0.9 * channels * width else scaled + 8


def _conv(
    given: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, dilation: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    padding = kernel // 2 * dilation
    conv = nn.Conv2d(given, out, kernel, stride, padding, dilation=dilation, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(out, eps=EPS)


def _active(*arguments: int, **options: int) -> nn.Sequential:
    """Convolution, batch norm, ReLU6: children 0, 1, 2 as in torchvision."""
    return nn.Sequential(*_conv(*arguments, **options), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expand, filter per channel, project; the input is added where shapes allow."""

    def __init__(self, given: int, out: int, stride: int, expansion: int, dilation: int) -> None:
        """Build the layers under torchvision's names, `conv.0` onward."""
        super().__init__()
        hidden = given * expansion
        self.residual = stride == 1 and given == out
        expand = [_active(given, hidden)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            _active(hidden, hidden, kernel=3, stride=stride, groups=hidden, dilation=dilation),
            *_conv(hidden, out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, given, h, w] to [batch, out, h / stride, w / stride]."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class Head(nn.Module):
    """Image pooling beside a 1x1 convolution, joined, then classes at the features' resolution."""

    def __init__(self, given: int, channels: int, classes: int) -> None:
        """Build the four parts; their names are those of the published weights."""
        super().__init__()
        self.image_pooling = _active(given, channels)
        self.aspp0 = _active(given, channels)
        self.project = _active(2 * channels, channels)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map features [batch, given, h, w] to logits [batch, classes, h, w]."""
        pooled = self.image_pooling(x.mean((2, 3), keepdim=True))
        pooled = pooled.expand(-1, -1, x.shape[2], x.shape[3])
        logits: Tensor = self.classifier(self.project(torch.cat([pooled, self.aspp0(x)], 1)))
        return logits


class DeepLabV3(nn.Module):
    """Features, head, and a bilinear resize of the logits to the input's size."""

    def __init__(self, features: nn.Sequential, head: Head) -> None:
        """Join both; weights load with and without the prefix `head.`."""
        super().__init__()
        self.features = features
        self.head = head
        self._register_load_state_dict_pre_hook(_prefix_head)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Map images [batch, 3, height, width] to logits [batch, classes, height, width]."""
        logits = self.head(self.features(x))
        return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=True)


def _prefix_head(state: dict[str, Any], prefix: str, *_: object) -> None:
    """Published weights name the head's parts at the top level; rename them on loading."""
    for key in list(state):
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and name.startswith(_HEAD_PARTS):
            state[f"{prefix}head.{name}"] = state.pop(key)


def _repeats(depth: float) -> list[int]:
    return [max(1, math.ceil(repeats * depth)) for _, _, repeats, _ in GROUPS]


def stage_paths(depth: float = 1.0) -> dict[str, str]:
    """Return the block paths of the six stages and the head, as a project file takes them.

    For depth 1: `features[0:2]`, `[2:4]`, `[4:7]`, `[7:11]`, `[11:14]`, `[14:18]` and `head`.
    """
    repeats, paths, start, end = _repeats(depth), {}, 0, 1
    for number, groups in enumerate(STAGES, start=1):
        end += sum(repeats[group] for group in groups)
        paths[f"stage{number}"] = f"features[{start}:{end}]"
        start = end
    return {**paths, "head": "head"}


def deeplabv3_mobilenetv2(
    classes: int, width: float = 1.0, head_channels: int = 256, depth: float = 1.0, output_stride: int = 16
) -> DeepLabV3:
    """Build DeepLabV3 on MobileNetV2, with fresh weights from torch's global generator.

    Args:
        classes: channels of the logits.
        width: factor on all channels of the backbone, rounded to multiples of 8.
        head_channels: channels inside the head.
        depth: factor on the layers of each group, rounded up.
        output_stride: input height over features' height, 8 or 16. Groups beyond it keep their
            resolution and dilate instead: their first layer as before, the rest twice as much.

    Raises:
        UsageError: a count below 1, or another output stride.
    """
    if min(classes, head_channels) < 1 or min(width, depth) <= 0 or output_stride not in (8, 16):
        raise UsageError(
            f"There is no DeepLabV3 with {classes} classes, {head_channels} head channels, width {width}, "
            f"depth {depth} and output stride {output_stride}.",
            "Counts start at 1, factors above 0; the output stride is 8 or 16.",
        )
    given = _scaled(STEM_CHANNELS, width)
    layers: list[nn.Module] = [_active(3, given, kernel=3, stride=2)]
    reached, dilation = 2, 1
    for (expansion, channels, _, stride), repeats in zip(GROUPS, _repeats(depth), strict=True):
        out, first = _scaled(channels, width), dilation
        if reached * stride > output_stride:
            dilation, stride = dilation * stride, 1
        reached *= stride
        for layer in range(repeats):
            here = (stride, first) if layer == 0 else (1, dilation)
            layers.append(InvertedResidual(given, out, here[0], expansion, here[1]))
            given = out
    return DeepLabV3(nn.Sequential(*layers), Head(given, head_channels, classes))
