"""Depthwise convolutions with dilation, trained on CPUs in a fraction of the time.

What runs on a CPU beneath torch knows the way back through a depthwise convolution only without dilation. With it, it
takes a loop that is several times slower, and the stages of a segmentation network that keep their resolution by
dilation take most of its training. Both gradients can be told by convolutions that are quick: that of the input is a
convolution with the kernel turned around, and that of the weights is one without dilation over the grids of every
d-th pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Images = Float[Tensor, "batch channels height width"]


class QuickDilation(TorchFunctionMode):
    """While it is entered, dilated depthwise convolutions on CPUs go back the quick way.

    Those of stride 1, with one dilation for both sides, in 32 bits, outside autocast. Their outputs are torch's own;
    gradients differ from its own by rounding alone. Everything else is left alone. Function transforms
    (`torch.func`) and forward-mode differentiation do not pass through what is taken over.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Take over what `_told` knows; pass on the rest."""
        named = dict(kwargs or {})
        told = _told(*args, **named) if func is F.conv2d and args and "input" not in named else None
        return func(*args, **named) if told is None else _Dilated.apply(*told)  # type: ignore[no-untyped-call]


def _told(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None, tuple[int, int], int] | None:
    """Return a convolution's images, weight, bias, padding and dilation; None where torch's own way back is better."""
    down, right = _both(dilation)
    if down != right or down == 1 or _both(stride) != (1, 1):
        return None
    if not images.ndim == weight.ndim == 4 or images.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return None
    depthwise = weight.shape[1] == 1 and groups == weight.shape[0] == images.shape[1]
    if not depthwise or not images.dtype == weight.dtype == torch.float32:
        return None
    learned = [each for each in (images, weight, bias) if each is not None and each.requires_grad]
    if not learned or not torch.is_grad_enabled():
        return None
    reach = [down * (side - 1) for side in weight.shape[2:]]
    if isinstance(padding, str):
        if padding not in ("same", "valid") or any(r % 2 for r in reach):  # uneven: one side gets more
            return None
        over = (reach[0] // 2, reach[1] // 2) if padding == "same" else (0, 0)
    else:
        over = _both(padding)
    if any(p > r for p, r in zip(over, reach, strict=True)):
        return None
    return images, weight, bias, over, down


def _both(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[-1])


class _Dilated(torch.autograd.Function):
    """A depthwise convolution of stride 1, and its way back."""

    @staticmethod
    def forward(
        ctx: Any, images: Images, weight: Tensor, bias: Tensor | None, padding: tuple[int, int], dilation: int
    ) -> Images:
        ctx.save_for_backward(images, weight)
        ctx.padding, ctx.dilation = padding, dilation
        return F.conv2d(images, weight, bias, 1, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Images) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        (given,) = gradients
        wants_images, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        to_images = to_weight = None
        with torch.autocast("cpu", enabled=False):
            if wants_images:
                full = [ctx.dilation * (side - 1) - p for side, p in zip(weight.shape[2:], ctx.padding, strict=True)]
                to_images = F.conv2d(given, weight.flip(2, 3), None, 1, full, ctx.dilation, len(weight))
            if wants_weight:
                to_weight = _weight_gradient(images, weight, given, ctx.padding, ctx.dilation)
        return to_images, to_weight, given.sum((0, 2, 3)) if wants_bias else None, None, None


def _weight_gradient(images: Images, weight: Tensor, given: Images, padding: tuple[int, int], dilation: int) -> Tensor:
    """Return the gradient of the weights, (channels, 1, rows, columns): every d-th pixel is a grid without dilation."""
    high, wide = (-(-side // dilation) * dilation for side in given.shape[2:])
    reach = [dilation * (side - 1) for side in weight.shape[2:]]
    below, beside = (
        side + r - before - there
        for side, r, before, there in zip((high, wide), reach, padding, images.shape[2:], strict=True)
    )
    _, found, _ = torch.ops.aten.convolution_backward(
        _grids(given, (0, 0), (high - given.shape[2], wide - given.shape[3]), dilation),
        _grids(images, padding, (below, beside), dilation),
        weight,
        None,
        (1, 1),
        (0, 0),
        (1, 1),
        False,
        (0, 0),
        len(weight),
        (False, True, False),
    )
    gradient: Tensor = found
    return gradient


def _grids(images: Images, before: tuple[int, int], after: tuple[int, int], dilation: int) -> Images:
    """Pad with zeros, and return every d-th pixel as an image of its own: (d * d * batch, channels, rows, columns).

    In the order of channels last, where a pixel is copied as one piece.
    """
    pixels = images.permute(0, 2, 3, 1)
    (top, left), (below, beside) = before, after
    if top or left or below or beside:
        pixels = F.pad(pixels, (0, 0, left, beside, top, below))
    batch, height, width, channels = pixels.shape
    rows, columns = height // dilation, width // dilation
    apart = pixels.reshape(batch, rows, dilation, columns, dilation, channels).permute(2, 4, 0, 1, 3, 5)
    return apart.reshape(-1, rows, columns, channels).permute(0, 3, 1, 2)
