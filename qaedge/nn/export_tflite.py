"""TFLite files: a Graph as float, a QuantizedGraph as INT8 with the very scales it was scored with.

Channels come last in TFLite, so every tensor is written as [1, height, width, channels] and every
weight in that order: nothing is transposed at run time.
"""

from __future__ import annotations

from pathlib import Path

from qaedge.artifact import Artifact
from qaedge.files import write_atomic
from qaedge.nn.graph import Graph
from qaedge.nn.quantize import QuantizedGraph
from qaedge.nn.tflite_operators import EMITTERS
from qaedge.nn.tflite_writer import TfliteWriter

#: How an INT8 file stores its numbers: activations and weights are signed, as LiteRT's kernels are.
FORM = "s8s8"


def write_tflite(network: Graph | QuantizedGraph, path: Path, name: str = "", integer_ends: bool = True) -> Artifact:
    """Write a network to a .tflite file and describe it.

    Args:
        network: a float graph, or a quantized one, which becomes INT8.
        path: where to; the file is there whole or not at all.
        name: the artifact's name; the file's without it.
        integer_ends: INT8 in and out where the network is quantized (the output is float all the
            same where `Layout` leaves the network's tail float); else float.

    Raises:
        UnsupportedOperator: the graph holds an operator that has no TFLite form here.
        MissingExtra: the schema is not installed.
        DiskFull: no space for the file.
    """
    writer = TfliteWriter(network, integer_ends and isinstance(network, QuantizedGraph), EMITTERS)
    data = writer.data()
    write_atomic(path, data)
    form = FORM if isinstance(network, QuantizedGraph) else "float"
    return Artifact.written(path, data, name, writer.weight_bytes, form)
