"""The memory order of a network's convolutions."""

from __future__ import annotations

import torch
from torch import nn


def lay_out(network: nn.Module, order: torch.memory_format) -> None:
    """Put a network's convolutions into a memory order; their numbers stay."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=order)
