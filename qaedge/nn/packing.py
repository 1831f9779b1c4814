"""Packing: signed integers of 4 and 2 bits, two and four to a byte, as files store them.

The first integer lies in the lowest bits, and each is its two's complement: as INT4 and INT2 of ONNX
(https://onnx.ai/onnx/technical/int4.html) and of TFLite lie in memory. The last byte is filled with zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qaedge.errors import UsageError

#: Bits that pack without a remainder.
BITS = (2, 4)


def pack(integers: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the bytes of integers from -2^(bits-1) to 2^(bits-1)-1, in their order; uint8 [ceil(count * bits / 8)].

    Raises:
        UsageError: bits that are not packed here, or an integer beyond them.
    """
    per_byte = _per_byte(bits)
    flat = np.asarray(integers).reshape(-1).astype(np.int64)
    limit = 2 ** (bits - 1)
    if flat.size and not (-limit <= flat.min() and flat.max() < limit):
        raise UsageError(f"Integers from {flat.min()} to {flat.max()} do not fit in {bits} bits.")
    filled = np.zeros(-(-flat.size // per_byte) * per_byte, np.uint8)
    filled[: flat.size] = (flat & (2**bits - 1)).astype(np.uint8)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    packed: np.ndarray[Any, np.dtype[np.uint8]] = np.bitwise_or.reduce(filled.reshape(-1, per_byte) << shifts, axis=1)
    return packed.astype(np.uint8)


def unpack(packed: np.ndarray[Any, Any], bits: int, count: int) -> np.ndarray[Any, np.dtype[np.int8]]:
    """Return the first `count` integers of packed bytes; int8 [count].

    Raises:
        UsageError: bits that are not packed here, or fewer bytes than the count needs.
    """
    per_byte = _per_byte(bits)
    if packed.size * per_byte < count:
        raise UsageError(f"{packed.size} bytes hold {packed.size * per_byte} integers of {bits} bits, not {count}.")
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    fields = (packed.reshape(-1, 1).astype(np.uint8) >> shifts) & np.uint8(2**bits - 1)
    signed = fields.reshape(-1)[:count].astype(np.int8)
    return np.where(signed >= 2 ** (bits - 1), signed - 2**bits, signed).astype(np.int8)


def packed_size(count: int, bits: int) -> int:
    """Return the bytes that `count` integers take; those of other widths than 2 and 4 lie in a byte each."""
    return -(-count * bits // 8) if bits in BITS else count


def _per_byte(bits: int) -> int:
    if bits not in BITS:
        raise UsageError(f"Integers of {bits} bits are not packed.", f"Known: {', '.join(map(str, BITS))} bits.")
    return 8 // bits
