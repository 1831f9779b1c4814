"""A module that does what it is told: for networks of a line or two."""

from __future__ import annotations

from torch import Tensor, nn


class Does(nn.Module):
    """A module whose forward is given; it may hold parts."""

    def __init__(self, run, **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)
