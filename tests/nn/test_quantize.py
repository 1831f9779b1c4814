"""Scales, fake quantization, which tensors share a scale, and calibration."""

from __future__ import annotations

import math

import pytest
import torch
from does import Does
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from qaedge.candidate import QuantScheme
from qaedge.errors import DataError, TeacherError
from qaedge.nn.graph import Graph
from qaedge.nn.quantize import (
    Layout,
    QuantizedGraph,
    calibrate,
    fake_quantize,
    quantize_weight,
    round_ste,
    weight_scales,
)
from qaedge.nn.scale import Scale
from qaedge.nn.tracing import trace

NUMBERS = st.floats(-1e6, 1e6, width=32)
RANGES = st.tuples(NUMBERS, NUMBERS).map(sorted)
W8A8 = QuantScheme(8, 8)


def conv(given: int = 3, out: int = 4, kernel: int = 3, padding: int = 1) -> nn.Conv2d:
    return nn.Conv2d(given, out, kernel, padding=padding)


def images(count: int = 4, seed: int = 0, size: tuple[int, int, int] = (3, 8, 8)) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(1, *size, generator=draw) for _ in range(count)]


def graph_of(*layers: nn.Module) -> Graph:
    return trace(nn.Sequential(*layers).eval(), (3, 8, 8))


# Scales


@given(RANGES, st.sampled_from([2, 4, 8, 16]))
def test_a_scale_covers_its_range_and_holds_zero(limits, bits):
    scale = Scale.of_range(*limits, bits)
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    assert scale.levels == 2**bits - 1 and 0 <= scale.zero_point <= scale.levels
    assert scale.scale > 0 and scale.scale == float(torch.tensor(scale.scale))
    half = scale.scale / 2 + 1e-6 * max(high, -low)
    assert scale.low - half <= low and high <= scale.high + half
    assert float(fake_quantize(torch.zeros(1), scale)) == 0.0


@given(st.floats(0, 1e-29), st.floats(0, 1e-29))
def test_a_range_of_nearly_nothing_still_has_a_scale(below, above):
    scale = Scale.of_range(-below, above)
    assert 0 < scale.scale < math.inf
    assert fake_quantize(torch.tensor([-below, 0.0, above]), scale).isfinite().all()


@given(RANGES, st.lists(NUMBERS, min_size=1, max_size=30))
def test_fake_quantization_is_near_and_settled(limits, values):
    scale, x = Scale.of_range(*limits), torch.tensor(values)
    once = fake_quantize(x, scale)
    assert torch.equal(fake_quantize(once, scale), once)
    inside = (x >= scale.low) & (x <= scale.high)
    assert ((once - x).abs()[inside] <= scale.scale * 0.5001 + 1e-6 * x.abs()[inside]).all()
    assert (once >= scale.low - 1e-6 * abs(scale.low)).all() and (once <= scale.high + 1e-6 * scale.high).all()
    assert len(once.unique()) <= 256


@given(st.integers(2, 8), st.integers(0, 10**6), st.sampled_from([1e-20, 1.0, 1e6]))
def test_weight_integers_stay_within_their_bits(bits, seed, size):
    weight = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(seed)) * size
    weight[1] = 0
    scales = weight_scales(weight, bits)
    integers = quantize_weight(weight, scales, bits)
    limit = 2 ** (bits - 1) - 1
    assert integers.abs().max() <= limit and torch.equal(integers, integers.round())
    assert (integers[0].abs().max(), integers[1].abs().max()) == (limit, 0)
    back = integers * scales.view(-1, 1, 1, 1)
    assert ((back - weight).abs() <= scales.view(-1, 1, 1, 1) * 0.5001).all()


@given(st.lists(st.floats(-1e5, 1e5, width=32), min_size=1, max_size=20))
def test_rounding_passes_gradients_straight_through(values):
    x = torch.tensor(values, requires_grad=True)
    rounded = round_ste(x)
    assert torch.equal(rounded, x.detach().round())
    rounded.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


# Layout


def test_a_clamp_is_merged_into_what_it_alone_reads():
    layout = Layout(graph_of(conv(), nn.ReLU6(), conv(4, 5), nn.ReLU()))
    assert layout.merged == {"_0", "_2"} or layout.merged == {"0", "2"}
    assert len(layout.owners) == 3


def test_a_clamp_beside_another_reader_is_not_merged():
    graph = trace(Does(lambda m, x: (y := m.a(x)) + F.relu(y), a=conv()).eval(), (3, 8, 8))
    layout = Layout(graph)
    assert layout.merged == set() and len(layout.owners) == 4


def test_a_clamp_of_the_input_leaves_the_input_its_scale():
    assert Layout(graph_of(nn.ReLU())).merged == set()


def test_moved_numbers_keep_their_scale():
    graph = graph_of(conv(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    names = [node.name for node in graph.nodes]
    layout = Layout(graph)
    assert layout.owner[names[1]] == names[0], "max pooling"
    assert layout.owner[names[2]] == names[2], "a mean is a new number"
    assert layout.owner[names[3]] == names[2], "flattening"
    first = trace(Does(lambda m, x: m.a(F.max_pool2d(x, 2)), a=conv()).eval(), (3, 8, 8))
    assert Layout(first).owner[first.nodes[0].name] == "input"


def test_what_follows_the_last_weights_stays_float():
    up = nn.Upsample(scale_factor=2, mode="bilinear")
    graph = graph_of(conv(), up, conv(4, 2), up, up)
    names = [node.name for node in graph.nodes]
    layout = Layout(graph)
    assert layout.tail == set(names[3:]) and names[1] in layout.owner
    quantized = calibrate(graph, images(), W8A8)
    assert quantized.scale_of(names[1]) and quantized.scale_of(names[4]) is None
    assert len(quantized(images()[0]).unique()) > 256


def test_a_tail_that_something_else_reads_ends_there():
    up = nn.Upsample(scale_factor=2, mode="bilinear")
    graph = trace(Does(lambda m, x: m.up(m.down(m.up(x)) + m.up(x)), up=up, down=conv(3, 3)).eval(), (3, 8, 8))
    assert len(Layout(graph).tail) == 1
    assert Layout(graph, float_tail=False).tail == set()


def test_every_quantized_tensor_lies_on_its_grid():
    network = Does(
        lambda m, x: torch.cat([F.relu6(m.a(x)), m.b(x) * m.b(x).mean((2, 3), keepdim=True).sigmoid()], 1),
        a=conv(),
        b=conv(),
    )
    quantized = calibrate(trace(network.eval(), (3, 8, 8)), images(), W8A8)
    scale = quantized.scale_of(quantized.graph.output)
    steps = quantized(images(1, seed=5)[0]) / scale.scale + scale.zero_point
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
    assert steps.min() >= -1e-3 and steps.max() <= 255.001


# Calibration


def test_ranges_are_those_of_all_batches():
    graph = graph_of(conv())
    batches = images(5)
    scale = calibrate(graph, iter(batches), W8A8).scale_of("input")
    seen = torch.cat(batches)
    assert scale == Scale.of_range(float(seen.min()), float(seen.max()))


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_in_any_batch(value, place):
    batches = images(3)
    batches[place][0, 1, 2, 3] = value
    with pytest.raises(TeacherError, match="'input' are not finite"):
        calibrate(graph_of(conv()), batches, W8A8)


def test_calibration_needs_an_image():
    with pytest.raises(TeacherError, match="no images"):
        calibrate(graph_of(conv()), [], W8A8)


def dead_relu(channels: slice = slice(None)) -> Graph:
    torch.manual_seed(0)
    graph = graph_of(conv(), nn.ReLU(), conv(4, 5), nn.ReLU())
    with torch.no_grad():
        graph.values[graph.nodes[0].bias][channels] = -1000.0
    return graph


def test_a_layer_that_is_dead_on_every_image_is_named():
    with pytest.raises(
        TeacherError, match=r"The layer '0' puts out 0 everywhere in all 4 calibration batches"
    ) as caught:
        calibrate(dead_relu(), images(), W8A8)
    assert "distill.calibration_images" in caught.value.hint
    with pytest.raises(TeacherError, match="in the one calibration batch"):
        calibrate(dead_relu(), images(1), W8A8)
    timed = calibrate(dead_relu(), images(), W8A8, arbitrary=True).freeze()
    assert timed(images(1)[0]).isfinite().all(), "what is only timed may hold anything"


def test_a_dead_channel_and_a_layer_without_weights_of_its_own_are_fine():
    x = images(1, 7)[0]
    assert calibrate(dead_relu(slice(0, 3)), images(), W8A8).freeze()(x).isfinite().all()
    # A residual whose last layer is 0 starts as the identity: that layer is 0 for every image, not only for these.
    net = Does(lambda m, x: x + m.c(F.relu(m.b(F.relu(m.a(x))))), a=conv(3, 4), b=conv(4, 4), c=conv(4, 3)).eval()
    with torch.no_grad():
        for zero in (net.c.weight, net.c.bias, net.b.weight, net.b.bias):
            zero.zero_()
    quantized = calibrate(trace(net, (3, 8, 8)), images(), W8A8).freeze()
    assert (quantized(x) - x).abs().max() < 0.1


@pytest.mark.parametrize("count", [1, 3])
def test_calibration_data_of_zeros_are_refused(count):
    with pytest.raises(DataError, match="The calibration data are 0 everywhere"):
        calibrate(graph_of(conv()), [torch.zeros(1, 3, 8, 8)] * count, W8A8)
    calibrate(graph_of(conv()), [torch.zeros(1, 3, 8, 8), *images(1)], W8A8)


def test_calibration_changes_nothing():
    graph = graph_of(conv(), nn.ReLU())
    before = {k: v.clone() for k, v in graph.state_dict().items()}
    calibrate(graph, images(), QuantScheme(2, 8)).freeze()(images()[0])
    assert all(torch.equal(v, before[k]) for k, v in graph.state_dict().items())


# The quantized network


def quantized_with(bits: dict[str, int] | None = None, scheme: QuantScheme = W8A8) -> QuantizedGraph:
    torch.manual_seed(0)
    return calibrate(graph_of(conv(), nn.ReLU6(), conv(4, 5)), images(), scheme, bits)


def test_each_node_may_have_bits_of_its_own():
    plain = quantized_with()
    first, second = (n for n in plain.graph.nodes if n.weight)
    mixed = quantized_with({second.name: 2})
    assert mixed.integers(first)[0].abs().max() == 127 and mixed.integers(second)[0].abs().max() == 1
    assert torch.equal(mixed.integers(first)[0], plain.integers(first)[0])
    x = images(1, seed=9)[0]
    wanted = plain.graph(x)
    apart = [(q(x) - wanted).square().mean() for q in (plain, quantized_with(scheme=QuantScheme(5, 8)), mixed)]
    assert apart[0] < apart[1] < apart[2]


def test_frozen_weights_compute_the_same():
    quantized, x = quantized_with(), images(1, seed=3)[0]
    wanted = quantized(x)
    assert torch.equal(quantized.freeze()(x), wanted)


def test_gradients_reach_the_weights():
    quantized = quantized_with()
    quantized(images()[0]).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in quantized.graph.parameters())


def test_a_bias_beyond_int32_is_held():
    torch.manual_seed(0)
    layer = conv(3, 2)
    layer.weight.data[0] *= 1e-12
    layer.bias.data[:] = 100.0
    integers = calibrate(graph_of(layer), images(), W8A8).integers(graph_of(layer).nodes[0])[2]
    assert integers.double().abs().max() < 2**31 and integers[0] > 2**30


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([7, 8]))
def test_eight_bits_are_close_to_float(seed, bits):
    torch.manual_seed(seed)
    quantized = calibrate(graph_of(conv(3, 8), nn.ReLU6(), conv(8, 4)), images(8, seed), QuantScheme(bits, 8)).freeze()
    x = torch.cat(images(8, seed))
    wanted = quantized.graph(x)
    assert (quantized(x) - wanted).square().mean() < 1e-3 * wanted.var()


@pytest.mark.parametrize(("bits", "most"), [(8, 127), (7, 63), (4, 7), (2, 1)])
def test_weights_never_have_the_least_integer(bits, most):
    weight = torch.linspace(-1, 1, 401).repeat(2, 1)
    found = quantize_weight(weight, weight_scales(weight, bits), bits)
    assert sorted(set(found.flatten().int().tolist())) == list(range(-most, most + 1))
