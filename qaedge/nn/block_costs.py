"""Block costs: what each block of a teacher holds and computes, and what lies outside them."""

from __future__ import annotations

from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from qaedge.nn.teacher import Teacher
from qaedge.space import Shape


class BlockCost(msgspec.Struct, frozen=True):
    """What a block holds and computes: parameters, and multiply-accumulates for one image.

    The last row of `block_costs` is called "rest": everything outside the blocks.
    """

    name: str
    path: str
    input_shape: Shape
    output_shape: Shape
    parameters: int
    macs: int


def block_costs(teacher: Teacher) -> list[BlockCost]:
    """Return parameters and multiply-accumulates of each block, and of the rest of the network.

    Convolutions and linear layers count as multiply-accumulates; nothing else does.
    """
    macs: dict[nn.Module, int] = {}

    def count(layer: nn.Module, _: Any, out: Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        # Each output number is a dot product over all but the first axis of the weight.
        macs[layer] = macs.get(layer, 0) + out.numel() * weight[0].numel()

    layers = [m for m in teacher.module.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            teacher.module(torch.zeros(1, *teacher.input_shape))
    finally:
        for handle in handles:
            handle.remove()

    rows = []
    for block in teacher.blocks:
        inside = sum(macs.get(layer, 0) for layer in block.module.modules())
        size = sum(p.numel() for p in block.module.parameters())
        rows.append(BlockCost(block.name, block.path, block.input_shape, block.output_shape, size, inside))
    size = sum(p.numel() for p in teacher.module.parameters()) - sum(row.parameters for row in rows)
    outside = sum(macs.values()) - sum(row.macs for row in rows)
    return [*rows, BlockCost("rest", "", teacher.input_shape, teacher.input_shape, size, outside)]
