"""Blocks rounded anew inside a whole network: each step does there what it does to a candidate alone."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from qaedge.candidate import QuantScheme
from qaedge.nn.anew import Anew, round_anew
from qaedge.nn.blocks import ConvNorm, InvertedResidual, LayerSpec
from qaedge.nn.part import nodes_in
from qaedge.nn.tracing import trace
from qaedge.project import QuantizeConfig

SHAPE = (3, 24, 32)
BITS = 3
CONFIG = QuantizeConfig(reconstruct_steps=30)


@pytest.fixture(scope="module")
def network():
    """Three blocks; the statistics of their batch norms are those of the images."""
    torch.manual_seed(0)
    residual = LayerSpec("ir", kernel=3, expansion=4, channels=8)
    module = nn.Sequential(ConvNorm(3, 8, 3, 2), InvertedResidual(8, residual), nn.Conv2d(8, 5, 1))
    images = [torch.randn(1, *SHAPE) for _ in range(12)]
    with torch.no_grad():
        module.train()
        for _ in range(20):
            module(torch.cat(images))
    graph = trace(module.eval(), SHAPE)
    assert len(nodes_in(graph, ("1",))) >= 4
    return graph, images


def rounded(network, *steps: str):
    graph, images = network
    nodes = [node.name for node in nodes_in(graph, ("1",)) if node.weight]
    bits = {node.name: BITS if node.name in nodes else 8 for node in graph.nodes if node.weight}
    blocks = [Anew(("1",), frozenset(nodes), steps)] if steps else []
    found = round_anew(graph, QuantScheme(8, 8), bits, {}, blocks, lambda: iter(images), CONFIG, 4096)
    return found, nodes


def off(network, found) -> float:
    """Mean squared error of the network's output on the calibration images."""
    graph, images = network
    batch = torch.cat(images)
    with torch.no_grad():
        return float((found.freeze()(batch) - graph(batch)).square().mean())


def test_each_step_of_a_recipe_is_taken(network):
    losses = {steps: off(network, rounded(network, *steps)[0]) for steps in STEPS}
    nearest, ranged, biased, learned, whole = losses.values()
    assert biased < ranged and learned < ranged and learned < nearest
    assert whole < learned, "the block as a whole fits better with its scales and biases trained"


STEPS = (
    (),
    ("ranges",),
    ("ranges", "biases"),
    ("ranges", "rounding"),
    ("ranges", "rounding", "reconstruct"),
)


@pytest.mark.parametrize("steps", [("ranges", "equalize"), STEPS[-1], ("ranges", "equalize", "biases", "rounding")])
def test_other_blocks_stay_as_they_were(network, steps):
    found, nodes = rounded(network, *steps)
    plain, _ = rounded(network)
    for node in network[0].nodes:
        if node.weight and node.name not in nodes:
            assert torch.equal(found.integers(node)[0], plain.integers(node)[0])
            assert torch.equal(found.integers(node)[1], plain.integers(node)[1])
        elif node.weight:
            assert found.bits_of(node) == BITS


def test_equalized_channels_compute_the_same(network):
    graph, images = network
    found, nodes = rounded(network, "equalize")
    same = partial(torch.testing.assert_close, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        same(found.graph(torch.cat(images)), graph(torch.cat(images)))
    changed = [not torch.equal(found.graph.values[n.weight], graph.values[n.weight]) for n in graph.nodes if n.weight]
    names = [n.name for n in graph.nodes if n.weight]
    assert any(changed) and all(name in nodes for name, moved in zip(names, changed, strict=True) if moved)
