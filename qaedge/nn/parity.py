"""Parity: what torch scored and what the exported file computes must be the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from qaedge.artifact import Artifact
from qaedge.errors import ParityError
from qaedge.nn.graph import Graph
from qaedge.nn.metrics import class_map
from qaedge.nn.quantize import QuantizedGraph
from qaedge.nn.scale import BYTE
from qaedge.nn.sessions import load_file

#: format -> what runs its files on this machine.
RUNTIME_NAMES = {"onnx": "ONNX Runtime", "tflite": "LiteRT"}


#: How many steps of 16 bits count as one: a quarter of one of 8. LiteRT's kernels multiply their sums by 15 bits, and
#: resize at places that are rounded to a thousandth of a pixel.
WIDE_STEP = 64
#: By how many steps a pixel's class leads, at least, where it is decided.
LEAD = 2
#: The share of pixels whose class is decided, from which on these alone count.
DECIDED = 0.5


class Bounds(msgspec.Struct, frozen=True):
    """The shares that agree, at least.

    Of a block's outputs, to a step; of a network's decided pixels, in class; of all its pixels, where few are decided.
    """

    block: float
    network: float
    pixels: float


#: format -> how alike torch and its runtime are. LiteRT's own kernels round in fixed point. Of a whole network one
#: value that lies between two steps, rounded otherwise, grows through fifty layers.
BOUNDS = {"onnx": Bounds(0.999, 0.995, 0.99), "tflite": Bounds(0.995, 0.99, 0.99)}


class Parity(msgspec.Struct, frozen=True):
    """How alike two runs were.

    `within_one_step` counts outputs at most one quantization step apart (blocks; of several, the
    worst), `same_class` pixels whose largest logit is the same (networks), `same_decided` the same among those
    pixels whose largest logit leads by more than two steps of the grid: where two are as good as even, a sum that is
    rounded otherwise is another class, and how many such pixels there are is the network's. `decided` is the share of
    these pixels. All are shares. None: not applicable.
    """

    images: int
    within_one_step: float | None = None
    same_class: float | None = None
    same_decided: float | None = None
    decided: float | None = None


def block_parity(network: QuantizedGraph, artifact: Artifact, inputs: Iterable[Tensor]) -> Parity:
    """Compare a block's fake-quantized outputs with those of its exported file (integers in and out).

    Args:
        network: the block as it was scored.
        artifact: its file, written with `integer_ends`.
        inputs: float tensors [1, channels, height, width], at least one.
    """
    session = load_file(Path(artifact.path))
    given, out = network.scale_of("input"), network.scale_of(network.graph.output)
    assert given is not None and out is not None
    signed = given.middle if session.dtype.startswith("int") else 0
    step = 1 if out.bits <= BYTE else WIDE_STEP
    close = total = images = 0
    for x in inputs:
        images += 1
        integers = torch.clamp(torch.round(x / given.scale) + given.zero_point, 0, given.levels)
        stored = session.run((integers - signed).numpy().astype(session.dtype))
        with torch.no_grad():
            wanted = torch.round(network(x) / out.scale) + out.zero_point
        apart = np.abs(stored.astype(np.int64) + (out.middle if stored.dtype.kind == "i" else 0) - wanted.numpy())
        close += int((apart <= step).sum())
        total += apart.size
    return Parity(images, within_one_step=close / total)


def network_parity(network: Graph | QuantizedGraph, artifact: Artifact, inputs: Iterable[Tensor]) -> Parity:
    """Compare the classes that a network and its exported file (float in and out) give each pixel.

    Raises:
        DataError: logits that are NaN or infinite.
    """
    session = load_file(Path(artifact.path))
    lead = LEAD * _step(network)
    same = total = same_decided = decided = images = 0
    for x in inputs:
        images += 1
        with torch.no_grad():
            logits = network(x)
        wanted = class_map(logits, logits.shape[1])
        given = class_map(session.run(x), logits.shape[1])
        best = logits.topk(min(2, logits.shape[1]), 1).values
        sure = (best[:, 0] - best[:, -1] > lead).numpy()
        same += int((given == wanted).sum())
        total += given.size
        same_decided += int(((given == wanted) & sure).sum())
        decided += int(sure.sum())
    return Parity(images, None, same / total, same_decided / decided if decided else None, decided / total)


def mean_parity(parities: Sequence[Parity]) -> Parity:
    """Return how alike two runs of a network were over images that were compared one by one."""
    count, decided = len(parities), sum(p.decided or 0.0 for p in parities)
    return Parity(
        count,
        same_class=sum(p.same_class or 0.0 for p in parities) / count,
        same_decided=sum((p.same_decided or 0.0) * (p.decided or 0.0) for p in parities) / decided if decided else None,
        decided=decided / count,
    )


def _step(network: Graph | QuantizedGraph) -> float:
    """Return the step of 8 bits of what a network's logits, or what they are resized from, lie on; 0 in float."""
    if isinstance(network, Graph):
        return 0.0
    name, before = network.graph.output, {node.name: node.inputs for node in network.graph.nodes}
    while network.scale_of(name) is None:
        name = before[name][0]
    scale = network.scale_of(name)
    assert scale is not None
    return float(scale.scale * scale.levels / (2**BYTE - 1))


def check(parity: Parity, artifact: Artifact) -> None:
    """Raise ParityError where torch and the file differ by more than the format's bounds."""
    bounds = BOUNDS[artifact.format]
    classes = parity.same_decided, bounds.network, "pixels of the same class where it is decided by more than two steps"
    if parity.same_decided is None or (parity.decided or 0.0) < DECIDED:  # too few to tell
        classes = parity.same_class, bounds.pixels, "pixels of the same class"
    for value, bound, what in (
        (parity.within_one_step, bounds.block, "outputs at most one quantization step apart"),
        classes,
    ):
        if value is not None and value < bound:
            raise ParityError(
                f"{artifact.name}: torch and {RUNTIME_NAMES[artifact.format]} have {100 * value:.2f} % of {what}, "
                f"{100 * bound:.1f} % are wanted.",
                "The file puts out other numbers than the network that was scored. Please report this with the file; "
                "until then, do not deploy it.",
            )
