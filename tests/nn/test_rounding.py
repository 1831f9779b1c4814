"""Ranges by squared error, equalization, corrected biases, and learned rounding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from qaedge.candidate import QuantScheme
from qaedge.nn.equalize import MOST, equalize
from qaedge.nn.graph import Graph
from qaedge.nn.precision import weighted
from qaedge.nn.quantize import QuantizedGraph, calibrate, observe, quantize_weight, weight_scales
from qaedge.nn.ranges import search_scale, search_weight_scales
from qaedge.nn.reconstruct import reconstruct
from qaedge.nn.rounding import Form, correct_biases, descend, neighbors, refit, round_layers
from qaedge.nn.scale import Scale
from qaedge.nn.tracing import trace

BITS = st.sampled_from([2, 3, 4, 8])
SEEDS = st.integers(0, 10**6)
SHAPE = (6, 12, 12)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(seed: int = 0, activation: type[nn.Module] = nn.ReLU6) -> Graph:
    """An inverted residual without its sum, and a strided convolution."""
    torch.manual_seed(seed)
    return trace(
        nn.Sequential(
            nn.Conv2d(6, 12, 1),
            activation(),
            nn.Conv2d(12, 12, 3, padding=1, groups=12),
            activation(),
            nn.Conv2d(12, 8, 1),
            nn.Conv2d(8, 4, 3, stride=2, padding=1),
        ).eval(),
        SHAPE,
    )


def images(seed: int = 0, count: int = 8) -> Tensor:
    # Neighboring pixels are alike, as in images: errors of rounding add up instead of cancelling.
    return F.avg_pool2d(drawn(count, SHAPE[0], 14, 14, seed=seed), 3, 1) * 3


def quantized(graph: Graph, bits: int, x: Tensor) -> QuantizedGraph:
    scales = {node.name: search_weight_scales(graph.values[node.weight].detach(), bits) for node in weighted(graph)}
    return calibrate(graph, [x], QuantScheme(bits, 8), None, False, scales)


def error(network: QuantizedGraph, graph: Graph, x: Tensor) -> float:
    with torch.no_grad():
        return float((network.freeze()(x) - graph(x)).square().mean())


# Ranges


@given(SEEDS, BITS)
def test_a_searched_range_is_never_worse_than_the_widest(seed, bits):
    weight = drawn(5, 4, 3, 3, seed=seed) ** 3

    def errors(scales: Tensor) -> Tensor:
        back = quantize_weight(weight, scales, bits) * scales.view(-1, 1, 1, 1)
        return (back - weight).square().flatten(1).sum(1)

    found = search_weight_scales(weight, bits)
    assert (errors(found) <= errors(weight_scales(weight, bits)) * 1.0001).all()
    assert (found <= weight_scales(weight, bits)).all() and (found > 0).all()


def test_a_channel_of_zeros_has_a_scale():
    weight = drawn(3, 4, 1, 1)
    weight[1] = 0
    assert (search_weight_scales(weight, 4) > 0).all()


def test_what_counts_more_is_rounded_better():
    weight, importance = drawn(1, 64, 1, 1), torch.ones(1, 64, 1, 1)
    importance[:, :8] = 1000
    back = [
        quantize_weight(weight, s, 2) * s.view(-1, 1, 1, 1)
        for s in (search_weight_scales(weight, 2), search_weight_scales(weight, 2, importance))
    ]
    plain, weighed = (float(((b - weight).square() * importance).sum()) for b in back)
    assert weighed <= plain


def test_an_outlier_is_clipped_and_a_usual_range_is_not():
    graph = trace(nn.Conv2d(6, 2, 1).eval(), (6, 60, 60))
    x = drawn(4, 6, 60, 60)
    for outlier, clipped in ((None, False), (12.0, True)):
        if outlier is not None:
            x[0, 0, 0, 0] = outlier
        observed = observe(graph, [x], False, 10**6)
        whole = Scale.of_range(observed.lows["input"], observed.highs["input"])
        assert (search_scale(observed, "input", 8).scale < 0.9 * whole.scale) == clipped
    assert search_scale(observe(graph, [x], False), "input", 8) == whole, "without values there is nothing to search"


# Equalization


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from([nn.ReLU6, nn.ReLU, nn.Identity]))
def test_equalization_changes_nothing_that_was_seen(seed, activation):
    graph, x = network(seed, activation), images(seed)
    with torch.no_grad():
        for name, value in graph.values.items():
            if name.endswith("weight"):
                value *= (drawn(len(value), seed=seed + 1).exp()).view(-1, 1, 1, 1)
        scaled = equalize(graph, [x])
        torch.testing.assert_close(scaled(x), graph(x), rtol=1e-3, atol=1e-3 * float(graph(x).abs().max()))
        moved = [n for n, v in graph.values.items() if not torch.equal(v, scaled.values[n])]
    assert moved
    for node in weighted(graph)[:1]:
        ratio = graph.values[node.weight] / scaled.values[node.weight]
        assert (ratio <= MOST * 1.001).all() and (ratio >= 1 / MOST / 1.001).all()


def test_a_channel_that_reaches_six_stays_as_it_is():
    graph, x = network(), images()
    first = weighted(graph)[0]
    with torch.no_grad():
        graph.values[first.weight][0] *= 1000
    scaled = equalize(graph, [x])
    assert torch.equal(scaled.values[first.weight][0], graph.values[first.weight][0])
    assert not torch.equal(scaled.values[first.weight][1:], graph.values[first.weight][1:])


# Rounding


@settings(deadline=None)
@given(SEEDS, BITS)
def test_learned_rounding_stays_within_one_step_of_the_float_weight(seed, bits):
    weight = drawn(4, 6, 1, 1, seed=seed)
    scales = weight_scales(weight, bits) * (0.5 + 0.5 * torch.rand(4, generator=torch.Generator().manual_seed(seed)))
    x = drawn(64, 6, 2, 2, seed=seed + 1).cumsum(1)
    node = trace(nn.Conv2d(6, 4, 1, bias=False).eval(), (6, 2, 2)).nodes[0]
    form = Form.of(node, weight, x, F.conv2d(x, weight))
    integers = descend(weight, scales, bits, form)
    limit = 2 ** (bits - 1) - 1
    assert torch.equal(integers, integers.round()) and integers.abs().max() <= limit
    low, held = neighbors(weight, scales, bits), (weight / scales.view(-1, 1, 1, 1)).clamp(-limit, limit)
    assert ((integers == low) | (integers == low + 1)).all()
    assert ((integers - held).abs() < 1 + 1e-4).all()

    def cost(rows: Tensor) -> Tensor:
        off = (rows * scales.view(-1, 1, 1, 1) - weight).reshape(1, 4, 6)
        return ((off @ form.matrix) * off).sum()

    assert cost(integers) <= cost(quantize_weight(weight, scales, bits)) * 1.0001


@given(SEEDS, BITS)
def test_the_nearest_is_best_where_errors_do_not_add_up(seed, bits):
    """With inputs that know nothing of each other, the form is diagonal: each weight is on its own."""
    weight = drawn(3, 5, 1, 1, seed=seed)
    scales = weight_scales(weight, bits)
    power = drawn(5, seed=seed + 1).abs() + 0.1
    matrix = torch.diag(power)[None]
    form = Form(matrix, weight.reshape(1, 3, 5) @ matrix, torch.zeros(1, 5), torch.zeros(1, 3))
    found = descend(weight, scales, bits, form)
    apart = (weight / scales.view(-1, 1, 1, 1) - found).abs()
    assert (apart <= 0.5 + 1e-3).all()
    torch.testing.assert_close(refit(found, scales, form) > 0, torch.ones(3, dtype=torch.bool))


@pytest.mark.parametrize("groups", [1, 6])
def test_a_form_tells_the_error_of_a_layer(groups):
    layer = nn.Conv2d(6, 12, 3, stride=2, padding=2, dilation=2, groups=groups, bias=False).eval()
    node, x, weight = trace(layer, SHAPE).nodes[0], images(), layer.weight.detach()
    form = Form.of(node, weight, x, F.conv2d(x, weight, None, 2, 2, 2, groups))
    off = 0.1 * drawn(*weight.shape, seed=3)
    rows = off.reshape(groups, -1, form.matrix.shape[1])
    told = float(((rows @ form.matrix) * rows).sum())
    moved = F.conv2d(x, off, None, 2, 2, 2, groups)
    seen = float((moved - moved.mean((0, 2, 3), keepdim=True)).square().mean((0, 2, 3)).sum())
    assert told == pytest.approx(seen, rel=0.02)


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from([2, 4]))
def test_each_step_comes_nearer(seed, bits):
    graph, x = network(seed), images(seed)
    start = quantized(graph, bits, x)
    corrected = correct_biases(start, graph, x)
    rounded = round_layers(start, graph, x)
    losses = [error(one, graph, x) for one in (start, corrected, rounded)]
    assert losses[1] < 1.02 * losses[0] and losses[2] < 1.02 * losses[1] and losses[2] < 0.9 * losses[0]
    for node in weighted(graph):
        weight, scales = rounded.graph.values[node.weight], rounded.integers(node)[1]
        steps = weight / scales.view(-1, 1, 1, 1)
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
        assert torch.equal(rounded.integers(node)[0], steps.round())


def test_only_some_layers_are_rounded():
    graph, x = network(), images()
    start = quantized(graph, 4, x)
    second = weighted(graph)[1]
    found = round_layers(start, graph, x, {second.name})
    changed = {name for name, value in graph.values.items() if not torch.equal(value, found.graph.values[name])}
    assert changed == {second.weight, second.bias}


def test_reconstruction_keeps_integers_and_comes_nearer():
    graph, x = network(), images()
    start = round_layers(quantized(graph, 2, x), graph, x)
    with torch.no_grad():
        wanted = graph(x)
    found = reconstruct(start, lambda: (x, wanted, 0), lambda given, out, margin: F.mse_loss(given, out), 40)
    assert error(found, graph, x) < error(start, graph, x)
    for node in weighted(graph):
        assert torch.equal(found.integers(node)[0], start.integers(node)[0])
