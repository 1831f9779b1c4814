"""Activations: the bytes that lie between the layers of a candidate while it runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from qaedge.candidate import Candidate, LayerSpec

Shape = tuple[int, int, int]

_KNOWN = ("conv", "ir", "context", "poolcontext", "logits")


def own_key(candidate: Candidate) -> str:
    """Return the name under which the numbers of a block of the teacher's own are known, whatever its scheme."""
    return f"{candidate.spec}@{'x'.join(map(str, candidate.input_shape))}"


def peak_bytes(candidate: Candidate, own: Mapping[str, int] | None = None) -> int | None:
    """Return the most bytes of activations that any of its layers needs at once; None where nobody knows.

    Layers run one after another, each with its input and its output in memory, and with the input of a
    residual for as long as that is added. Weights, and what a runtime keeps besides, are not in it. Nobody
    knows it of a kind that is new here.

    Args:
        candidate: what runs.
        own: `own_key` -> how many numbers are alive at once in a block of the teacher's own, of which its text does not
            tell; found where the space is resolved (`nn.live`).
    """
    if candidate.spec.is_own:
        numbers = (own or {}).get(own_key(candidate))
        return None if numbers is None else _bytes(numbers, candidate)
    shape, most = candidate.input_shape, 0
    for layer in candidate.spec.layers:
        if layer.kind not in _KNOWN:
            return None
        for live, out in _steps(layer, shape):
            most = max(most, live)
            shape = out
    return _bytes(most, candidate)


def _bytes(numbers: int, candidate: Candidate) -> int:
    return math.ceil(numbers * candidate.scheme.activation_bits / 8)


def _steps(layer: LayerSpec, given: Shape) -> Iterator[tuple[int, Shape]]:
    """Yield, for each operation of a layer, how many numbers are alive and the shape that goes out."""
    channels, height, width = given
    into = math.prod(given)
    filtered = (_reach(height, layer), _reach(width, layer))
    if layer.kind == "ir":
        residual = layer.stride == 1 and channels == layer.channels
        hidden = channels * layer.expansion
        wide, kept = (hidden, height, width), into if residual else 0
        narrow, out = (hidden, *filtered), (layer.channels, *filtered)
        if layer.expansion > 1:
            yield into + math.prod(wide), wide
            yield kept + math.prod(wide) + math.prod(narrow), narrow
        else:
            yield into + math.prod(narrow), narrow
        yield kept + math.prod(narrow) + math.prod(out), out
        if residual:
            yield kept + 2 * math.prod(out), out
    elif layer.kind in ("context", "poolcontext"):
        out = (layer.channels, height, width)
        # The mean of the input is taken last, so that stays until then; what is pooled is one pixel.
        pooled, kept = (layer.channels, into) if layer.kind == "poolcontext" else (0, 0)
        if layer.kernel > 1:
            yield 2 * into, given
        yield (kept if layer.kernel > 1 else 0) + into + math.prod(out), out
        yield kept + 2 * math.prod(out), out
        yield pooled + 2 * math.prod(out), out
    elif layer.kind == "conv":
        out = (layer.channels, *filtered)
        yield into + math.prod(out), out
    else:
        out = (layer.channels, height, width)
        yield into + math.prod(out), out


def _reach(length: int, layer: LayerSpec) -> int:
    """Return how long a side is after a convolution that pads by half its kernel."""
    span = layer.dilation * (layer.kernel - 1)
    return (length + 2 * (layer.kernel // 2 * layer.dilation) - span - 1) // layer.stride + 1
