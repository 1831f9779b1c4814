"""What a benchmark ran on: its result says so."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import numpy as np

from qaedge import __version__

#: What a result depends on, where it is installed: the runtimes that measure, and what trains and computes.
PACKAGES = ("onnxruntime", "ai-edge-litert", "tflite-runtime", "torch", "scipy", "ortools")


def version_of(name: str) -> str:
    """Return a package's version; nothing where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def machine() -> dict[str, Any]:
    """Say what this ran on."""
    name = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "processor": name,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        **{name: version for name in PACKAGES if (version := version_of(name))},
        "qaedge": __version__,
    }
