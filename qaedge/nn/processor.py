"""What training asks of the processor that it runs on, and of the memory beneath it."""

from __future__ import annotations

import ctypes
import sys

import torch

# mallopt's names for its parameters, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def knows_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 itself; a CPU that does not takes many times as long as in 32 bits."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def keep_memory() -> None:
    """Let this process keep memory that it frees, where the C library can be told so.

    Each step of a training frees what the next one asks for again. glibc gives it back to the system in between,
    which then clears every page anew.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return
    mallopt(_MMAP_THRESHOLD, 2**30)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
