"""Stored weights: what integers a written file holds them in, and what its runtime computes with.

A scheme says how many bits the weights of a layer use; a file can have a type of so many bits or not, and a runtime
can compute with that type or not. Read from the file itself, not from what a writer meant to do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from qaedge.errors import InvalidFile
from qaedge.files import read_bytes
from qaedge.nn.graph import Graph
from qaedge.nn.precision import weighted
from qaedge.nn.quantize import QuantizedGraph
from qaedge.nn.tflite_file import schema

#: format -> the runtime that executes its files.
RUNTIMES = {"onnx": "ONNX Runtime", "tflite": "LiteRT"}
#: format -> type in the file -> the type that it is unpacked to when the file is loaded; others are executed as they
#: lie. ONNX Runtime 1.32 computes in float with INT4, and refuses INT2, so agents unpack both (`profilers/unpack.py`).
UNPACKED: dict[str, dict[str, str]] = {"onnx": {"INT4": "INT8", "INT2": "INT8"}, "tflite": {}}
#: format -> why weights of few bits may lie in a byte each in it.
WIDER = {
    "onnx": "ONNX packs weights of 4 and 2 bits alone",
    "tflite": "TFLite packs 4 and 2 bits alone, of 1x1 convolutions and linear layers whose rows fill whole bytes",
}
LOADING = (
    "ONNX Runtime 1.32 computes in float with weights of 4 bits, and refuses those of 2: unpack them to INT8 when the "
    "file is loaded, as qaedge does wherever it runs one (profilers/unpack.py, which may be copied)"
)
#: Fewer bits than these are few: with 7, the eighth is left free on purpose ("reduced range").
FEW = 7


class StoredWeights(msgspec.Struct, frozen=True):
    """The layers of a file whose weights have as many bits and lie in the same type.

    Attributes:
        bits: that the scheme gives a weight; 32 in float.
        stored: the type in the file, such as INT4.
        executed: the type that the runtime computes with; another one where they are unpacked when the file is loaded.
        layers: how many there are of this kind.
        size_bytes: what their weights take in the file, without scales and biases.
        packed_bytes: what they would take where each weight took its bits and no more.
    """

    bits: int
    stored: str
    executed: str
    layers: int
    size_bytes: int
    packed_bytes: int

    @property
    def is_few_bit(self) -> bool:
        """Whether a weight has fewer bits than 7."""
        return self.bits < FEW

    @property
    def is_packed(self) -> bool:
        """Whether the file spends no more bits than the scheme gives."""
        return self.size_bytes <= self.packed_bytes


def stored_weights(network: Graph | QuantizedGraph, path: Path) -> tuple[StoredWeights, ...]:
    """Return what a file holds the weights of a network in, fewest bits first.

    Args:
        network: that the file was written from.
        path: the file; its suffix says the format.

    Raises:
        InvalidFile: the file lacks the weights of a layer.
        MissingExtra: what reads the format is not installed.
    """
    graph = network.graph if isinstance(network, QuantizedGraph) else network
    kind = path.suffix.lstrip(".")
    tensors = READERS[path.suffix](read_bytes(path))
    groups: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for node in weighted(graph):
        found = tensors.get(f"{node.weight}/q") or tensors.get(node.weight)
        if found is None:
            raise InvalidFile(path, "", f"the weights {node.weight}", "none", "Run qaedge build again.")
        stored, size = found
        bits = network.bits_of(node) if isinstance(network, QuantizedGraph) else 32
        groups.setdefault((bits, stored), []).append((size, -(-graph.values[node.weight].numel() * bits // 8)))
    return tuple(
        StoredWeights(
            bits,
            stored,
            UNPACKED[kind].get(stored, stored),
            len(layers),
            sum(size for size, _ in layers),
            sum(least for _, least in layers),
        )
        for (bits, stored), layers in sorted(groups.items())
    )


def told(weights: tuple[StoredWeights, ...], file_format: str) -> list[str]:
    """Return a line for each kind of few-bit weights: how they lie in a file, and what becomes of them on loading."""
    total = sum(group.layers for group in weights)
    lines = []
    for group in weights:
        if not group.is_few_bit:
            continue
        runtime = RUNTIMES[file_format]
        if not group.is_packed:
            how = f"stored as {group.stored}, a byte each ({WIDER[file_format]})"
        elif group.executed != group.stored:
            how = f"stored packed, unpacked to {group.executed} on load for {runtime}"
        else:
            how = f"stored packed, executed as {group.stored} by {runtime}"
        lines.append(f"{group.bits}-bit weights: {group.layers} of {total} layers, {how}")
    return lines


def loading(weights: tuple[StoredWeights, ...]) -> str:
    """Return what whoever loads a file has to do first; nothing where its runtime executes it as it lies."""
    return LOADING if any(group.executed != group.stored for group in weights) else ""


def _onnx(data: bytes) -> dict[str, tuple[str, int]]:
    import onnx

    model = onnx.load_from_string(data)
    types = {value: "FLOAT32" if name == "FLOAT" else name for name, value in onnx.TensorProto.DataType.items()}
    return {t.name: (types[t.data_type], len(t.raw_data)) for t in model.graph.initializer}


def _tflite(data: bytes) -> dict[str, tuple[str, int]]:
    s = schema()
    model = s.Model.GetRootAsModel(data, 0)
    types = {value: name for name, value in vars(s.TensorType).items() if not name.startswith("_")}
    graph = model.Subgraphs(0)
    tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
    return {t.Name().decode(): (types[t.Type()], model.Buffers(t.Buffer()).DataLength()) for t in tensors}


#: suffix -> what tells type and bytes of each constant of a file, by its name.
READERS: dict[str, Callable[[bytes], dict[str, tuple[str, int]]]] = {".onnx": _onnx, ".tflite": _tflite}
