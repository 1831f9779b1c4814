"""Parity: what torch scored and what the exported file computes must be the same."""

from __future__ import annotations

from collections.abc import Iterable
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
from qaedge.nn.sessions import load_file

#: format -> what runs its files on this machine.
RUNTIME_NAMES = {"onnx": "ONNX Runtime", "tflite": "LiteRT"}


class Bounds(msgspec.Struct, frozen=True):
    """At least these shares agree: of a block's outputs, at most a step apart; of a network's pixels, in class."""

    block: float
    network: float


#: format -> how alike torch and its runtime are. LiteRT's own kernels round in fixed point. Of a whole network one
#: value that lies between two steps, rounded otherwise, grows through fifty layers: where kernels sum in float, to more
#: than half a percent on small images.
BOUNDS = {"onnx": Bounds(0.999, 0.99), "tflite": Bounds(0.995, 0.99)}


class Parity(msgspec.Struct, frozen=True):
    """How alike two runs were.

    `within_one_step` counts outputs at most one quantization step apart (blocks; of several, the
    worst), `same_class` pixels whose largest logit is the same (networks); both are shares. None:
    not applicable.
    """

    images: int
    within_one_step: float | None = None
    same_class: float | None = None


def block_parity(network: QuantizedGraph, artifact: Artifact, inputs: Iterable[Tensor]) -> Parity:
    """Compare a block's fake-quantized outputs with those of its exported file (INT8 in and out).

    Args:
        network: the block as it was scored.
        artifact: its file, written with `integer_ends`.
        inputs: float tensors [1, channels, height, width], at least one.
    """
    session = load_file(Path(artifact.path))
    given, out = network.scale_of("input"), network.scale_of(network.graph.output)
    assert given is not None and out is not None
    signed = 128 if session.dtype == "int8" else 0
    close = total = images = 0
    for x in inputs:
        images += 1
        integers = torch.clamp(torch.round(x / given.scale) + given.zero_point, 0, given.levels)
        stored = session.run((integers - signed).numpy().astype(session.dtype))
        with torch.no_grad():
            wanted = torch.round(network(x) / out.scale) + out.zero_point
        apart = np.abs(stored.astype(np.int64) + (128 if stored.dtype == np.int8 else 0) - wanted.numpy())
        close += int((apart <= 1).sum())
        total += apart.size
    return Parity(images, within_one_step=close / total)


def network_parity(network: Graph | QuantizedGraph, artifact: Artifact, inputs: Iterable[Tensor]) -> Parity:
    """Compare the classes that a network and its exported file (float in and out) give each pixel.

    Raises:
        DataError: logits that are NaN or infinite.
    """
    session = load_file(Path(artifact.path))
    same = total = images = 0
    for x in inputs:
        images += 1
        with torch.no_grad():
            logits = network(x)
        wanted = class_map(logits, logits.shape[1])
        given = class_map(session.run(x), logits.shape[1])
        same += int((given == wanted).sum())
        total += given.size
    return Parity(images, same_class=same / total)


def check(parity: Parity, artifact: Artifact) -> None:
    """Raise ParityError where torch and the file differ by more than the format's bounds."""
    bounds = BOUNDS[artifact.format]
    for value, bound, what in (
        (parity.within_one_step, bounds.block, "outputs at most one quantization step apart"),
        (parity.same_class, bounds.network, "pixels of the same class"),
    ):
        if value is not None and value < bound:
            raise ParityError(
                f"{artifact.name}: torch and {RUNTIME_NAMES[artifact.format]} have {100 * value:.2f} % of {what}, "
                f"{100 * bound:.1f} % are wanted.",
                "The file puts out other numbers than the network that was scored. Please report this with the file; "
                "until then, do not deploy it.",
            )
