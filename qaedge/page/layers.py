"""The layers of a candidate as they are drawn: each convolution with its channels and the bits of its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qaedge.candidate import Candidate, LayerSpec
from qaedge.errors import UsageError
from qaedge.page.content import Convolution, Layer

#: A convolution before its bits are known: name, channels in, channels out, whether it is depthwise.
_Part = tuple[str, int, int, bool]


def _square(kernel: int) -> str:
    return f"{kernel}x{kernel}"


def _residual(given: int, layer: LayerSpec) -> list[_Part]:
    hidden = given * layer.expansion
    expand = [("1x1 expand", given, hidden, False)] if layer.expansion > 1 else []
    return [
        *expand,
        (f"{_square(layer.kernel)} depthwise", hidden, hidden, True),
        ("1x1 project", hidden, layer.channels, False),
    ]


def _context(given: int, layer: LayerSpec, pooling: bool) -> list[_Part]:
    width = layer.channels
    filtered = [(f"{_square(layer.kernel)} depthwise", given, given, True)] if layer.kernel > 1 else []
    pooled = [("1x1 of the image's mean", given, width, False), ("1x1 project the mean", width, width, False)]
    local = [("1x1 local", given, width, False), ("1x1 project", width, width, False)]
    return [*filtered, *local, *(pooled if pooling else [])]


#: kind of a layer -> its convolutions for some input channels, in the order in which a runtime sees them.
_PARTS: dict[str, Callable[[int, LayerSpec], list[_Part]]] = {
    "conv": lambda given, layer: [(f"{_square(layer.kernel)} convolution", given, layer.channels, False)],
    "ir": _residual,
    "context": lambda given, layer: _context(given, layer, pooling=False),
    "poolcontext": lambda given, layer: _context(given, layer, pooling=True),
    "logits": lambda given, layer: [("1x1 logits", given, layer.channels, False)],
}


def draw_layers(candidate: Candidate, layer_bits: Sequence[int] = ()) -> tuple[Layer, ...]:
    """Return the layers of a candidate; none for the teacher's own block, whose inside a space does not tell.

    Args:
        candidate: what is drawn.
        layer_bits: bits of each layer's weights, as its row in the loss table has them; empty: as the scheme says.
    """
    if any(layer.kind not in _PARTS for layer in candidate.spec.layers):
        return ()
    given, parts = candidate.input_shape[0], []
    for layer in candidate.spec.layers:
        parts.append(_PARTS[layer.kind](given, layer))
        given = layer.channels
    bits = iter(_bits(candidate, [part[3] for several in parts for part in several], layer_bits))
    return tuple(
        Layer(
            layer.kind,
            str(layer),
            layer.kernel,
            layer.stride,
            layer.expansion,
            layer.channels,
            layer.dilation,
            tuple(Convolution(name, came, out, next(bits)) for name, came, out, _ in several),
        )
        for layer, several in zip(candidate.spec.layers, parts, strict=True)
    )


def _bits(candidate: Candidate, depthwise: Sequence[bool], layer_bits: Sequence[int]) -> Sequence[int | None]:
    """Return the bits of each convolution; None where only the training told which layers are kept."""
    if len(layer_bits) == len(depthwise):
        return layer_bits
    scheme = candidate.scheme
    if scheme.mix is not None and scheme.mix.sensitive:
        return [None] * len(depthwise)
    try:
        return scheme.layer_bits(depthwise)
    except UsageError:
        return [None] * len(depthwise)
