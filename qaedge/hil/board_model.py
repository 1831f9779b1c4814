"""A board's model: what a board calls itself, and which description that comes with qaedge is of it."""

from __future__ import annotations

from typing import TypeAlias

Flags: TypeAlias = dict[str, tuple[set[str], ...]]

#: What a board calls itself, in lower case -> the description that comes with qaedge.
MODELS = {
    "raspberry pi zero 2": "pi_zero2w",
    "raspberry pi 5": "pi5",
    "raspberry pi compute module 5": "pi5",
    "raspberry pi 4": "pi4",
    "raspberry pi compute module 4": "pi4",
    "orin nano": "jetson_orin_nano",
    "jetson nano": "jetson_nano",
    "i.mx8mp": "imx8mp",
    "i.mx8mplus": "imx8mp",
}
#: What a processor's flags in /proc/cpuinfo say, by its kind: all of a set, or one of several sets.
DOT_PRODUCT: Flags = {"aarch64": ({"asimddp"},), "x86_64": ({"avx512_vnni"}, {"avx_vnni"})}
FP16: Flags = {"aarch64": ({"fphp", "asimdhp"},), "x86_64": ({"avx512_fp16"},)}


def description_of(model: str) -> str:
    """Return the name of the description that is of such a board; empty where none is."""
    said = model.lower()
    return next((name for words, name in MODELS.items() if words in said), "")


def computes(wanted: Flags, arch: str, flags: frozenset[str]) -> bool | None:
    """Return whether a processor has what DOT_PRODUCT or FP16 asks for; None where it does not say."""
    sets = wanted.get(arch)
    return any(one <= flags for one in sets) if sets and flags else None
