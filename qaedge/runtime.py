"""Runtime: what the host knows of what executes a network; its board side is in `profilers/`."""

from __future__ import annotations

import msgspec


class Runtime(msgspec.Struct, frozen=True):
    """A runtime that this version measures with.

    Attributes:
        formats: the formats of the files that it runs.
        packages: what `qaedge device setup` installs for it; none where it comes with the board's system.
            "ONE|OTHER" is the first of them that there is for the board.
        imports: what must be importable on the board, or it is not there; of "ONE|OTHER" one.
        advice: how to get it by hand onto a board whose interpreter is {python}.
    """

    formats: tuple[str, ...]
    packages: tuple[str, ...]
    imports: tuple[str, ...]
    advice: str


RUNTIMES: dict[str, Runtime] = {
    "onnxruntime": Runtime(
        formats=("onnx",),
        packages=("numpy", "onnxruntime"),
        imports=("numpy", "onnxruntime"),
        advice="Install it there: {python} -m pip install onnxruntime",
    ),
    # TensorRT and its numpy come with the board's system.
    "tensorrt": Runtime(
        formats=("onnx",),
        packages=(),
        imports=("numpy", "tensorrt"),
        advice="TensorRT comes with JetPack: sudo apt install python3-libnvinfer",
    ),
    # LiteRT, and what it was called before, which alone is there for Python 3.8.
    "tflite": Runtime(
        formats=("tflite",),
        packages=("numpy", "ai-edge-litert|tflite-runtime"),
        imports=("numpy", "ai_edge_litert.interpreter|tflite_runtime.interpreter"),
        advice="Install it there: {python} -m pip install ai-edge-litert (Python 3.8: tflite-runtime 'numpy<2')",
    ),
}

#: The formats of files that this version measures.
FORMATS = tuple(dict.fromkeys(name for runtime in RUNTIMES.values() for name in runtime.formats))
#: Every format, each by the first of a device's runtimes that runs it.
BOTH = "both"


def that_run(file_format: str) -> tuple[str, ...]:
    """Return the names of the runtimes that run files of a format."""
    return tuple(name for name, runtime in RUNTIMES.items() if file_format in runtime.formats)


def chosen(word: str, described: tuple[str, ...]) -> tuple[str, ...]:
    """Return the runtimes that a word stands for on a device that is described with some; none for an unknown word.

    A runtime's name is itself. A format is what runs it: those of the device, or, where it is described with none,
    all that there are. BOTH is that for each format.
    """
    if word in RUNTIMES:
        return (word,)
    formats = FORMATS if word == BOTH else tuple(name for name in FORMATS if name == word)
    found: dict[str, None] = {}
    for name in formats:
        can = that_run(name)
        found.update(dict.fromkeys([one for one in described if one in can] or can))
    return tuple(found)


def formats_of(word: str, described: tuple[str, ...]) -> tuple[str, ...]:
    """Return the formats to measure: those that a word stands for, or that of the first runtime without one.

    Args:
        word: a runtime, a format, BOTH, or nothing.
        described: the device's runtimes, narrowed to what the word stands for.
    """
    runtimes = described if word else described[:1]
    return tuple(dict.fromkeys(name for runtime in runtimes for name in RUNTIMES[runtime].formats))
