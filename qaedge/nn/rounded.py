"""Rounded candidates on disk: what a recipe made of each, so that it is built and exported as it was scored.

A file lies beside the candidate's weights and is named after them, the scheme, and the float numbers it was made
from: other weights, such as fine-tuned ones, do not find it.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from qaedge.candidate import QuantScheme
from qaedge.errors import InvalidFile
from qaedge.nn.graph import Graph, Node
from qaedge.nn.precision import weighted
from qaedge.nn.quantize import QuantizedGraph
from qaedge.nn.quantized_file import load_quantized


def rounded_path(weights: Path, scheme: QuantScheme, graph: Graph) -> Path:
    """Return where a candidate's rounded weights lie.

    Args:
        weights: where its float weights lie, or would: those of the teacher's own block are the teacher's.
        scheme: how it is quantized.
        graph: the candidate in float.
    """
    digest = hashlib.sha256()
    for node in weighted(graph):
        for name in (node.weight, node.bias):
            if name:
                digest.update(graph.values[name].detach().contiguous().numpy().tobytes())
    return weights.with_name(f"{weights.stem}.{scheme}.{digest.hexdigest()[:12]}.safetensors")


def has_rounded(weights: Path, scheme: QuantScheme) -> bool:
    """Whether a candidate was rounded under a scheme by a recipe, from whatever weights."""
    return any(weights.parent.glob(f"{glob.escape(weights.stem)}.{scheme}.*.safetensors"))


def load_rounded(weights: Path, scheme: QuantScheme, graph: Graph) -> QuantizedGraph | None:
    """Return a candidate as its recipe left it, frozen; None where there is no file made from these very weights.

    Raises:
        InvalidFile: a damaged file, or one of another architecture.
    """
    path = rounded_path(weights, scheme, graph)
    if not path.exists():
        return None
    try:
        return load_quantized(graph, path)
    except InvalidFile as error:
        raise InvalidFile(
            path, "", f"the rounded weights of a candidate ({scheme})", error.found, "Delete it and run: qaedge distill"
        ) from error


def put_in(
    values: dict[str, Tensor],
    scales: dict[str, Tensor],
    bits: dict[str, int],
    nodes: Sequence[Node],
    rounded: QuantizedGraph,
) -> None:
    """Put a rounded candidate's numbers in the place of a network's own.

    Args:
        values: of the network's graph, by name; changed.
        scales: node -> scale of each output channel; changed.
        bits: node -> bits; changed.
        nodes: the network's nodes with weights that are this candidate, in order.
        rounded: the candidate.
    """
    for node, mine in zip(nodes, weighted(rounded.graph), strict=True):
        values[node.weight] = rounded.graph.values[mine.weight].detach()
        if node.bias and mine.bias:
            values[node.bias] = rounded.graph.values[mine.bias].detach()
        scales[node.name] = rounded.integers(mine)[1].detach()
        bits[node.name] = rounded.bits_of(mine)
