"""An exported file, in the format that its name says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qaedge.artifact import Artifact
from qaedge.errors import UnsupportedOperator
from qaedge.nn.export_onnx import write_onnx
from qaedge.nn.export_tflite import write_tflite
from qaedge.nn.graph import Graph
from qaedge.nn.quantize import QuantizedGraph

#: Why TFLite files are stored as they are.
TFLITE_REASON = "LiteRT's integer kernels take signed numbers alone"


def write_file(
    network: Graph | QuantizedGraph, path: Path, form: str = "u8s8", name: str = "", integer_ends: bool = False
) -> Artifact:
    """Write a network to a file and describe it.

    Args:
        network: float, or quantized.
        path: where to; its suffix says the format.
        form: how an INT8 ONNX file stores its integers; a TFLite file has one way.
        name: the artifact's name; the file's without it.
        integer_ends: INT8 in and out, as a block stands in its network. A whole network in INT8
            takes and gives float as ONNX, and INT8 as TFLite: what is usual in either.

    Raises:
        UnsupportedOperator: an operator that has no form in the format, or a format that is none.
        MissingExtra: what writes the format is not installed.
        DiskFull: no space for the file.
    """
    write = WRITERS.get(path.suffix)
    if write is None:
        raise UnsupportedOperator(f"{path}: no such files are written here.", f"Known: {', '.join(WRITERS)}.")
    return write(network, path, form, name, integer_ends)


def as_written(network: Graph | QuantizedGraph, path: Path) -> Graph | QuantizedGraph:
    """Return the network that a file of this name computes: TFLite's has nothing left in float."""
    if path.suffix == ".tflite" and isinstance(network, QuantizedGraph):
        return network.with_integer_tail().freeze()
    return network


def _onnx(network: Graph | QuantizedGraph, path: Path, form: str, name: str, integer_ends: bool) -> Artifact:
    return write_onnx(network, path, form, name, integer_ends)


def _tflite(network: Graph | QuantizedGraph, path: Path, form: str, name: str, integer_ends: bool) -> Artifact:
    whole = network.with_integer_tail() if isinstance(network, QuantizedGraph) else network
    return write_tflite(whole, path, name)


#: suffix of a file -> what writes it.
WRITERS: dict[str, Callable[[Graph | QuantizedGraph, Path, str, str, bool], Artifact]] = {
    ".onnx": _onnx,
    ".tflite": _tflite,
}
