"""Ranges by mean squared error: clipping the rare large numbers makes the steps between the others finer.

Of a few dozen ranges, each a share of the widest, the one with the least squared error of what is rounded; in Nagel
et al., "A White Paper on Neural Network Quantization" (arXiv 2106.08295, section 3.1), this is the MSE range setting.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qaedge.nn.quantize import Observed, fake_quantize, weight_scales
from qaedge.nn.scale import Scale

#: Bits -> the least share of the widest range that is tried: the fewer levels, the more is worth clipping.
_LEAST_SHARE = {2: 0.1, 3: 0.2, 4: 0.35, 5: 0.5}
_LEAST_OF_MANY = 0.7
#: How many shares are tried, of weights and at each end of an activation's range.
SHARES, ENDS = 32, 16


def search_weight_scales(weight: Tensor, bits: int, importance: Tensor | None = None) -> Tensor:
    """Return the symmetric scale of each output channel with the least squared error, float32 [out].

    Args:
        weight: [out, ...].
        bits: of its integers.
        importance: how much an error in each weight counts, of a shape that broadcasts with the weight's; all alike
            without it.
    """
    widest, limit = weight_scales(weight, bits), 2 ** (bits - 1) - 1
    shape = (-1, *[1] * (weight.dim() - 1))
    best, least = widest.clone(), torch.full_like(widest, torch.inf)
    for share in torch.linspace(1.0, _LEAST_SHARE.get(bits, _LEAST_OF_MANY), SHARES):
        scales = widest * share
        steps = scales.view(shape)
        error = weight.div(steps).round_().clamp_(-limit, limit).mul_(steps).sub_(weight).square_()
        if importance is not None:
            error *= importance
        errors = error.flatten(1).sum(1)
        better = errors < least
        least, best = torch.where(better, errors, least), torch.where(better, scales, best)
    return best


def search_scales(observed: Observed, bits: int, widths: Mapping[str, int] | None = None) -> dict[str, Scale]:
    """Return the scale of each observed tensor with the least squared error on the values that were kept.

    Of so many bits, or those of `widths` by tensor.
    """
    return {name: search_scale(observed, name, (widths or {}).get(name, bits)) for name in observed.lows}


def search_scale(observed: Observed, name: str, bits: int) -> Scale:
    """Return the scale of one tensor: first its upper end is searched, then its lower one."""
    low, high = observed.lows[name], observed.highs[name]
    values = observed.values.get(name)
    if values is None:
        return Scale.of_range(low, high, bits)
    shares = [float(share) for share in torch.linspace(1.0, 0.5, ENDS)]
    high *= min(shares, key=lambda share: _error(values, Scale.of_range(low, high * share, bits)))
    if low < 0:
        low *= min(shares, key=lambda share: _error(values, Scale.of_range(low * share, high, bits)))
    return Scale.of_range(low, high, bits)


def _error(values: Tensor, scale: Scale) -> float:
    return float((fake_quantize(values, scale) - values).square_().sum())
