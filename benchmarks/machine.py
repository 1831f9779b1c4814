"""What a benchmark ran on: its result says so."""

from __future__ import annotations

from typing import Any

from qaedge.machine import this_machine, versions

#: What a result depends on, where it is installed: the runtimes that measure, and what trains and computes.
PACKAGES = ("numpy", "onnxruntime", "ai-edge-litert", "tflite-runtime", "torch", "scipy", "ortools")


def version_of(name: str) -> str:
    """Return a package's version; nothing where it is not installed."""
    return versions(name).get(name, "")


def machine() -> dict[str, Any]:
    """Say what this ran on."""
    here = this_machine()
    return {"processor": here.processor, "system": here.system, **versions(*PACKAGES)}
