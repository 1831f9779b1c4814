"""What training asks of the processor and of the C library."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest
import torch

from qaedge.nn import processor
from qaedge.nn.processor import kept_memory, knows_bfloat16, training_device

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "there", "knows"),
    [
        ({"avx2"}, True, False),
        ({"avx2", "avx512f"}, True, False),
        ({"avx2", "avx512f", "avx512_bf16"}, True, True),
        ({"avx2", "avx_ne_convert"}, True, True),
        ({"avx2", "avx512f", "avx512_bf16"}, False, False),
        ({"asimd", "bf16"}, True, True),
    ],
)
def test_half_precision_is_for_processors_that_multiply_in_it(
    flags: set[str], there: bool, knows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: there)
    assert knows_bfloat16(CPU) == knows


def test_this_machine_gives_an_answer() -> None:
    assert knows_bfloat16(training_device()) in (True, False)


class Library:
    """A C library that notes what it is told, and refuses thresholds beyond `most`."""

    def __init__(self, most: int) -> None:
        self.most, self.told = most, list[tuple[int, ...]]()

    def mallopt(self, name: int, value: int) -> int:
        self.told.append((name, value))
        return int(name != processor._MMAP_THRESHOLD or value <= self.most)

    def malloc_trim(self, pad: int) -> int:
        self.told.append((pad,))
        return 1


@pytest.mark.parametrize(
    ("most", "told"),
    [
        (2**40, [(-3, 2**30), (-1, 2**31 - 1)]),
        (2**25, [(-3, 2**30), (-3, 2**25), (-1, 2**31 - 1)]),
        (0, [(-3, 2**30), (-3, 2**25)]),
    ],
)
def test_memory_is_kept_as_far_as_the_library_lets(
    most: int, told: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(most)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(processor.sys, "platform", "linux")
    with pytest.raises(KeyError), kept_memory():
        assert library.told == told
        raise KeyError
    assert library.told == [*told, (0,)]


@pytest.mark.parametrize(("platform", "library"), [("darwin", Library(0)), ("linux", SimpleNamespace())])
def test_other_libraries_are_left_alone(platform: str, library: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    with kept_memory():
        assert not getattr(library, "told", [])
