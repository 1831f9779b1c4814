"""A scale: which real numbers the integers of a tensor of activations stand for."""

from __future__ import annotations

from dataclasses import dataclass

import torch

#: Bits of a byte: up to here activations are asymmetric.
BYTE = 8
_LEAST = 1e-30


@dataclass(frozen=True)
class Scale:
    """`real = (integer - zero_point) * scale`, integers from 0 to `levels`."""

    scale: float
    zero_point: int
    levels: int = 255

    @staticmethod
    def of_range(low: float, high: float, bits: int = 8) -> Scale:
        """Return the scale that covers a range; it is widened to hold zero, which must be exact.

        Beyond 8 bits zero is in the middle.
        """
        levels = 2**bits - 1
        low, high = min(low, 0.0), max(high, 0.0)
        if bits > BYTE:
            high = max(-low, high)
            low = -high * (levels + 1) / (levels - 1)
        scale = (high - low) / levels
        if scale < _LEAST:  # nothing but zeros, or numbers that a float32 hardly holds
            scale = 1.0
        # Runtimes keep scales as float32; so do we, or rounding would differ in rare cases.
        scale = float(torch.tensor(scale, dtype=torch.float32))
        if bits > BYTE:
            return Scale(scale, 2 ** (bits - 1), levels)
        return Scale(scale, max(0, min(levels, round(-low / scale))), levels)

    @property
    def bits(self) -> int:
        """The bits of its integers."""
        return self.levels.bit_length()

    @property
    def middle(self) -> int:
        """What is taken from its integers where they are stored signed."""
        return (self.levels + 1) // 2

    def covers(self, low: float, high: float) -> bool:
        """Whether its own range already keeps a clamp's bounds (to half a step)."""
        return self.low >= low - self.scale / 2 and self.high <= high + self.scale / 2

    @property
    def low(self) -> float:
        """The least number that can be told."""
        return -self.zero_point * self.scale

    @property
    def high(self) -> float:
        """The greatest number that can be told."""
        return (self.levels - self.zero_point) * self.scale
