"""What training asks of the processor that it runs on, and of the memory beneath it."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

import torch

from qaedge.machine import cpu_flags

# mallopt's names for its parameters, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: What the mmap threshold may be, the better first: before 2.35, glibc refuses more than 32 MiB.
_THRESHOLDS = (2**30, 2**25)
#: The flags of x86 processors that multiply in bfloat16; without, AVX-512 alone emulates it.
_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "avx_ne_convert"})


def training_device() -> torch.device:
    """Return where networks are trained: on the first CUDA device, else here."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def knows_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 itself; one that does not takes longer with it than in 32 bits."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not there or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    flags = cpu_flags()
    return not any(flag.startswith("avx") for flag in flags) or not _BFLOAT16.isdisjoint(flags)


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Let this process keep memory that it frees, where the C library can be told so; give it back at the end.

    Each step of a training frees what the next one asks for again. glibc gives it back to the system in between,
    which then clears every page anew. Its thresholds stay as they are set here: they cannot be asked for.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield  # another C library, such as musl
        return
    # To set the one without the other would be worse than neither: every tensor then gets pages of its own.
    if any(library.mallopt(_MMAP_THRESHOLD, value) for value in _THRESHOLDS):
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        library.malloc_trim(0)
