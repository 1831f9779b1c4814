"""A release's check of each block by itself: which blocks are compared, and what is said where none is."""

from __future__ import annotations

import pytest
import torch
from does import Does
from export_samples import UP, conv, noise, quantized_of, settled
from torch import nn

from qaedge.nn.parity import BOUNDS
from qaedge.nn.release import worst_block
from qaedge.nn.teacher import cut

SHAPE = (4, 8, 8)
IMAGES = torch.cat(noise(SHAPE, 2, seed=3))


def relu_after(given: int = 4) -> nn.Sequential:
    return nn.Sequential(conv(given), nn.ReLU6())


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_blocks_that_read_the_same_tensor_are_each_compared(suffix):
    if suffix == ".tflite":
        pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    torch.manual_seed(0)
    parts = {"stem": relu_after(), "a": relu_after(), "b": relu_after(), "end": conv(8)}
    network = Does(lambda m, x: m.end(torch.cat([m.a(y := m.stem(x)), m.b(y)], 1)), **parts)
    teacher = cut(settled(network, SHAPE), {"a": "a", "b": "b"}, SHAPE, "digest")
    found = worst_block(quantized_of(network, SHAPE), teacher, IMAGES, "s8s8", suffix)
    assert found is not None and found >= BOUNDS[suffix[1:]].block


def test_where_no_block_stands_alone_nothing_is_claimed():
    torch.manual_seed(0)
    network = Does(lambda m, x: m.end(m.stem(x)), stem=relu_after(), end=nn.Sequential(conv(), UP))
    teacher = cut(settled(network, SHAPE), {"end": "end"}, SHAPE, "digest")
    # Its end is a resize, which stays in float where a network ends with it.
    assert worst_block(quantized_of(network, SHAPE), teacher, IMAGES, "s8s8") is None
