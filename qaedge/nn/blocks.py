"""Candidate blocks as modules: BlockSpec in, `nn.Module` out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qaedge.candidate import BlockSpec, LayerSpec
from qaedge.errors import TeacherError

#: As in the MobileNetV2 that TensorFlow trained; torchvision's 1e-5 gains too much on dead channels.
BATCH_NORM_EPS = 1e-3


class ConvNorm(nn.Sequential):
    """Convolution, batch norm and, if asked, ReLU6; padding keeps the size at stride 1."""

    def __init__(
        self,
        given: int,
        out: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        """Build for `given` input and `out` output channels."""
        padding = kernel // 2 * dilation
        conv = nn.Conv2d(given, out, kernel, stride, padding, dilation, groups, bias=False)
        norm = nn.BatchNorm2d(out, eps=BATCH_NORM_EPS)
        super().__init__(*([conv, norm, nn.ReLU6()] if activate else [conv, norm]))

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution."""
        conv = self[0]
        assert isinstance(conv, nn.Conv2d)
        return conv

    @property
    def norm(self) -> nn.BatchNorm2d:
        """The batch norm."""
        norm = self[1]
        assert isinstance(norm, nn.BatchNorm2d)
        return norm


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter depthwise, project by 1x1; added to the input where shapes allow.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
    """

    def __init__(self, given: int, layer: LayerSpec) -> None:
        """Build for `given` input channels."""
        super().__init__()
        hidden = given * layer.expansion
        self.residual = layer.stride == 1 and given == layer.channels
        self.expand = ConvNorm(given, hidden, 1) if layer.expansion > 1 else None
        self.depthwise = ConvNorm(hidden, hidden, layer.kernel, layer.stride, layer.dilation, groups=hidden)
        self.project = ConvNorm(hidden, layer.channels, 1, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, given, height, width) to (batch, channels, height / stride, width / stride)."""
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        out: Tensor = x + y if self.residual else y
        return out


class Context(nn.Module):
    """The middle of a segmentation head: local features and, if asked, the whole image's mean.

    As DeepLabV3's (Chen et al., arXiv 1706.05587) without its dilated branches, but written
    without the concatenation: a 1x1 convolution over [pool, local] is the sum of two, and the
    pooled one is the same at every pixel, so it is computed once. `kernel` > 1 puts a depthwise
    convolution before the local branch.
    """

    def __init__(self, given: int, layer: LayerSpec, pooling: bool) -> None:
        """Build for `given` input channels."""
        super().__init__()
        width = layer.channels
        self.depthwise = (
            ConvNorm(given, given, layer.kernel, 1, layer.dilation, groups=given, activate=False)
            if layer.kernel > 1
            else None
        )
        self.local = ConvNorm(given, width, 1)
        self.project = ConvNorm(width, width, 1, activate=False)
        self.pool = nn.Sequential(nn.Conv2d(given, width, 1), nn.ReLU6()) if pooling else None
        self.pool_project = nn.Conv2d(width, width, 1, bias=False) if pooling else None
        self.activation = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, given, height, width) to (batch, width, height, width)."""
        local = self.local(x if self.depthwise is None else self.depthwise(x))
        y = self.project(local)
        if self.pool is not None and self.pool_project is not None:
            y = y + self.pool_project(self.pool(x.mean((2, 3), keepdim=True)))
        out: Tensor = self.activation(y)
        return out


#: kind of a layer -> its module for some input channels.
LAYERS: dict[str, Callable[[int, LayerSpec], nn.Module]] = {
    "conv": lambda given, layer: ConvNorm(given, layer.channels, layer.kernel, layer.stride, layer.dilation),
    "ir": InvertedResidual,
    "context": lambda given, layer: Context(given, layer, pooling=False),
    "poolcontext": lambda given, layer: Context(given, layer, pooling=True),
    "logits": lambda given, layer: nn.Conv2d(given, layer.channels, 1),
}


def build_block(spec: BlockSpec, given: int, seed: int = 0) -> nn.Sequential:
    """Return a block with freshly started weights, the same for the same seed.

    Args:
        spec: its layers; not the teacher's own.
        given: input channels.
        seed: of the weights.
    """
    if spec.is_own:
        raise TeacherError("The teacher's own block is copied from the teacher, not built.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules: list[nn.Module] = []
        for layer in spec.layers:
            module = LAYERS[layer.kind](given, layer)
            for part in module.modules():
                if isinstance(part, nn.Conv2d):
                    nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
                    if part.bias is not None:
                        nn.init.zeros_(part.bias)
            modules.append(module)
            given = layer.channels
        return nn.Sequential(*modules)
