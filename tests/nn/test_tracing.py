"""Graphs against the modules they come from: every operator, folding, and what is refused."""

from __future__ import annotations

import operator

import pytest
import torch
from does import Does
from torch import Tensor, nn
from torch.nn import functional as F

from qaedge.errors import UnsupportedOperator
from qaedge.nn.deeplab import deeplabv3_mobilenetv2
from qaedge.nn.graph import OPERATORS, Graph
from qaedge.nn.tracing import _CONVERTERS, trace


def lively(module: nn.Module) -> nn.Module:
    """Give every batch norm statistics and weights that matter."""
    draw = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low, high in ((part.running_mean, -1, 1), (part.running_var, 0.5, 2)):
                tensor.uniform_(low, high, generator=draw)
            if part.affine:
                part.weight.data.uniform_(0.5, 2, generator=draw)
                part.bias.data.uniform_(-1, 1, generator=draw)
    return module.eval()


def agrees(module: nn.Module, shape: tuple[int, int, int], batch: int = 2) -> Graph:
    graph = trace(lively(module), shape)
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(2)) * 3
    with torch.no_grad():
        wanted = module(x)
        torch.testing.assert_close(graph(x), wanted, rtol=1e-4, atol=1e-4)
    assert graph.shape(graph.output)[1:] == wanted.shape[1:]
    return graph


def conv(given: int = 4, out: int = 6, kernel: int = 3, **settings) -> nn.Conv2d:
    return nn.Conv2d(given, out, kernel, **settings)


def pooled(m: Does, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1)


#: What a user may write -> the converters that it goes through.
CASES: dict[str, tuple[nn.Module, set[str]]] = {
    "conv": (conv(), {"conv2d"}),
    "conv stride": (conv(stride=2, padding=1), {"conv2d"}),
    "conv uneven": (conv(kernel=(3, 5), stride=(2, 1), padding=(1, 2)), {"conv2d"}),
    "conv dilated": (conv(padding=2, dilation=2), {"conv2d"}),
    "conv grouped": (conv(4, 8, groups=2, bias=False), {"conv2d"}),
    "conv same": (conv(padding="same", dilation=2), {"conv2d"}),
    "conv valid": (conv(padding="valid"), {"conv2d"}),
    "conv and norm": (nn.Sequential(conv(bias=False), nn.BatchNorm2d(6)), {"batchnorm2d"}),
    "conv with bias and norm": (nn.Sequential(conv(), nn.BatchNorm2d(6, eps=0.1)), {"batchnorm2d"}),
    "norm alone": (nn.BatchNorm2d(4), {"batchnorm2d"}),
    "norm without gain": (nn.Sequential(conv(), nn.BatchNorm2d(6, affine=False)), {"batchnorm2d"}),
    "norm after norm": (nn.Sequential(conv(), nn.BatchNorm2d(6), nn.BatchNorm2d(6)), {"batchnorm2d"}),
    "relu": (nn.Sequential(conv(), nn.ReLU(inplace=True)), {"relu"}),
    "relu6": (nn.ReLU6(), {"relu6"}),
    "functional relus": (Does(lambda m, x: F.relu6(x) + F.relu(x) + torch.relu(x)), {"relu", "relu6", "add"}),
    "method relus": (Does(lambda m, x: (x * x).relu_() + x.relu()), {"relu_", "relu", "mul"}),
    "hard": (nn.Sequential(nn.Hardswish(), nn.Hardsigmoid()), {"hardswish", "hardsigmoid"}),
    "functional hard": (Does(lambda m, x: F.hardswish(x) * F.hardsigmoid(x)), {"hardswish", "hardsigmoid"}),
    "sigmoids": (nn.Sequential(nn.Sigmoid(), Does(lambda m, x: x.sigmoid() * torch.sigmoid(x))), {"sigmoid"}),
    "adds": (Does(lambda m, x: torch.add(x, x).add(x) + x), {"add"}),
    "add in place": (Does(lambda m, x: operator.iadd(m.a(x), x), a=conv(4, 4, 1)), {"iadd"}),
    "multiplies": (Does(lambda m, x: torch.mul(x, x).mul(x)), {"mul"}),
    "gate": (Does(lambda m, x: x * m.a(pooled(m, x)).sigmoid(), a=conv(4, 4, 1)), {"mul", "adaptive_avg_pool2d"}),
    "joined": (Does(lambda m, x: torch.cat([x, x + x, x], dim=1)), {"cat"}),
    "joined by name": (
        Does(lambda m, x: torch.cat(tensors=(x, x), dim=-3) + torch.add(input=m.a(x), other=m.a(x)), a=conv(4, 8, 1)),
        {"cat"},
    ),
    "means": (Does(lambda m, x: x.mean((2, 3), keepdim=True) + torch.mean(x, [-1, -2], keepdim=True)), {"mean"}),
    "pool modules": (nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), conv(4, 5, 1)), {"adaptiveavgpool2d"}),
    "classifier": (
        nn.Sequential(conv(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 3)),
        {"flatten", "linear"},
    ),
    "mean of two": (nn.Sequential(Does(lambda m, x: x.mean([2, 3])), nn.Linear(4, 3, bias=False)), {"mean"}),
    "flattens": (Does(lambda m, x: torch.flatten(x, 1) + x.flatten(start_dim=1) + x.flatten(1, 3)), {"flatten"}),
    "broadcast": (
        Does(lambda m, x: torch.cat([pooled(m, x).expand(-1, -1, x.shape[2], x.size(3)), x], 1)),
        {"expand", "cat"},
    ),
    "broadcast by list": (Does(lambda m, x: x + pooled(m, x).expand([-1, 4, x.shape[-2], x.size(dim=3)])), {"expand"}),
    "broadcast of nothing": (Does(lambda m, x: x.expand(-1, -1, -1, -1) + x), {"expand"}),
    "max pools": (nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.MaxPool2d((2, 1))), {"maxpool2d"}),
    "functional max pool": (Does(lambda m, x: F.max_pool2d(x, 2) + F.max_pool2d(x, kernel_size=2)), {"max_pool2d"}),
    "upsample": (nn.Upsample(scale_factor=2, mode="bilinear"), {"upsample"}),
    "upsample corners": (nn.Upsample((7, 21), mode="bilinear", align_corners=True), {"upsample"}),
    "interpolate": (
        Does(
            lambda m, x: F.interpolate(m.a(x), size=x.shape[-2:], mode="bilinear", align_corners=False),
            a=conv(stride=2, padding=1),
        ),
        {"interpolate"},
    ),
    "skips": (
        Does(lambda m, x: m.i(m.d(x)).contiguous() + F.dropout(x, 0.5, m.training), i=nn.Identity(), d=nn.Dropout2d()),
        {"add"},
    ),
}


@pytest.mark.parametrize("shape", [(4, 12, 16), (4, 11, 13)], ids=["even", "odd"])
@pytest.mark.parametrize("name", CASES)
def test_a_graph_computes_what_its_module_does(name, shape):
    agrees(CASES[name][0], shape)


def test_every_converter_and_operator_is_tried():
    assert set(_CONVERTERS) == set.union(*(keys for _, keys in CASES.values()))
    tried = {node.operator for module, _ in CASES.values() for node in trace(module.eval(), (4, 12, 16)).nodes}
    assert tried == set(OPERATORS) - {"requantize"}, "which no module is: it comes with the grids"


def test_batch_norm_is_folded_where_it_alone_reads_a_convolution():
    assert [n.operator for n in agrees(CASES["norm after norm"][0], (4, 8, 8)).nodes] == ["conv"]
    twice = Does(lambda m, x: m.n(y := m.a(x)) + y, a=conv(4, 4, 1), n=nn.BatchNorm2d(4))
    assert [n.operator for n in agrees(twice, (4, 8, 8)).nodes] == ["conv", "conv", "add"]
    relu_between = nn.Sequential(conv(), nn.ReLU(), nn.BatchNorm2d(6))
    assert [n.operator for n in agrees(relu_between, (4, 8, 8)).nodes] == ["conv", "clamp", "conv"]
    shown = Does(lambda m, x: (y := m.a(x), m.n(y))[0], a=conv(4, 4, 1), n=nn.BatchNorm2d(4))
    agrees(shown, (4, 8, 8))


def test_a_module_called_twice_keeps_its_weights():
    graph = agrees(Does(lambda m, x: m.a(m.a(x)), a=conv(4, 4, 3, padding=1)), (4, 8, 8))
    assert [n.name for n in graph.nodes] == ["a", "a_1"] and {n.where for n in graph.nodes} == {"a"}


@pytest.mark.parametrize("name", ["input", "output", "a b", "x-y"])
def test_modules_may_be_called_as_they_like(name):
    named = nn.Sequential()
    named.add_module(name, conv())
    graph = agrees(named, (4, 8, 8))
    assert graph.nodes[0].name.isidentifier() and graph.nodes[0].name not in ("input", "output")


def test_a_network_that_does_nothing():
    graph = agrees(nn.Sequential(nn.Identity(), nn.Dropout()), (4, 5, 6))
    assert graph.nodes == [] and graph.output == "input" and graph.macs == 0


def test_the_built_in_teacher():
    network = deeplabv3_mobilenetv2(classes=5, width=0.25, depth=0.34, head_channels=16)
    graph = agrees(network, (3, 33, 47), batch=1)
    assert sum(n.operator == "conv" for n in graph.nodes) == sum(isinstance(m, nn.Conv2d) for m in network.modules())
    assert graph.shape(graph.output) == (1, 5, 33, 47)


def test_macs_are_those_of_convolutions_and_linear_layers():
    network = nn.Sequential(conv(4, 6, 3, padding=1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    assert trace(network.eval(), (4, 8, 6)).macs == 6 * 4 * 3 * 4 * 9 + 6 * 5


def test_modes_and_statistics_stay_as_they_were():
    network = nn.Sequential(conv(), nn.BatchNorm2d(6), nn.Sequential(nn.Dropout(), conv(6, 2)))
    network.train()
    network[2].eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    trace(network, (4, 9, 9))
    assert [m.training for m in network.modules()] == [True, True, True, False, False, False]
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())

    failing = Does(lambda m, x: x if x.sum() > 0 else -x, a=nn.Dropout())
    failing.train()
    with pytest.raises(UnsupportedOperator):
        trace(failing, (4, 9, 9))
    assert all(m.training for m in failing.modules())


def test_a_graph_is_a_copy():
    network = conv()
    graph = trace(network, (4, 8, 8))
    network.weight.data.zero_()
    assert graph.values[graph.nodes[0].weight].abs().sum() > 0


REFUSED = {
    "softmax": (nn.Sequential(conv(), nn.Softmax(1)), ("'softmax'", "in 1")),
    "inside": (nn.Sequential(nn.Sequential(conv(), nn.GELU())), ("'gelu'", "in 0.1")),
    "functional inside": (nn.Sequential(Does(lambda m, x: torch.exp(x))), ("'exp'", "in 0")),
    "reflection": (nn.Sequential(conv(padding=1, padding_mode="reflect")), ("'conv2d'", "in 0", "reflect")),
    "uneven same": (nn.Sequential(conv(kernel=2, padding="same")), ("'conv2d'", "'same'")),
    "functional conv": (Does(lambda m, x: F.conv2d(x, torch.ones(1, 4, 1, 1))), ("'conv2d'",)),
    "norm without statistics": (
        nn.Sequential(conv(), nn.BatchNorm2d(6, track_running_stats=False)),
        ("'batchnorm2d'", "in 1"),
    ),
    "constant": (Does(lambda m, x: x + 1), ("'add'", "constant")),
    "constant in cat": (Does(lambda m, x: torch.cat([x, torch.zeros(1, 4, 8, 8)], 1)), ("'cat'", "constant")),
    "other axis": (Does(lambda m, x: torch.cat([x, x], 2)), ("'cat'", "axis 2")),
    "mean of channels": (Does(lambda m, x: x.mean(1)), ("'mean'", "1")),
    "mean of all": (Does(lambda m, x: x.mean()), ("'mean'",)),
    "pool to two": (nn.Sequential(nn.AdaptiveAvgPool2d(2)), ("'adaptiveavgpool2d'", "2")),
    "flat batch": (Does(lambda m, x: x.flatten()), ("'flatten'", "axes 0")),
    "flat places": (nn.Sequential(nn.Flatten(2)), ("'flatten'", "axes 2")),
    "expanded channels": (Does(lambda m, x: m.a(x).expand(-1, 4, -1, -1), a=conv(4, 1)), ("'expand'",)),
    "ceil": (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)), ("'maxpool2d'", "ceil")),
    "functional ceil": (Does(lambda m, x: F.max_pool2d(x, 3, ceil_mode=True)), ("'max_pool2d'", "ceil")),
    "dilated pool": (Does(lambda m, x: F.max_pool2d(x, 2, dilation=2)), ("'max_pool2d'", "dilation")),
    "nearest": (nn.Sequential(nn.Upsample(scale_factor=2)), ("'upsample'", "nearest")),
    "antialias": (
        Does(lambda m, x: F.interpolate(x, (4, 4), mode="bilinear", antialias=True)),
        ("'interpolate'", "antialias"),
    ),
    "odd factor": (nn.Sequential(nn.Upsample(scale_factor=1.3, mode="bilinear")), ("'upsample'", "1.3")),
    "slice": (Does(lambda m, x: x[:, :2]), ("'getitem'",)),
    "two outputs": (Does(lambda m, x: (x, x)), ("tuple",)),
    "many outputs": (Does(lambda m, x: {"out": x, "aux": x}), ("dict",)),
    "data": (Does(lambda m, x: x if x.sum() > 0 else -x), ("cannot be traced", "Does")),
    "raises": (Does(lambda m, x: {}["weights"]), ("cannot be traced",)),
    "shapes": (nn.Sequential(conv(), nn.Flatten(), nn.Linear(3, 3)), ("'linear'", "in 2")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_is_named_with_its_place(name):
    module, said = REFUSED[name]
    with pytest.raises(UnsupportedOperator) as caught:
        trace(module, (4, 8, 8))
    assert all(text in caught.value.message for text in said), caught.value.message
    assert "\n" not in caught.value.message


def test_a_second_input_is_refused():
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    with pytest.raises(UnsupportedOperator, match="more than one tensor: 'y'"):
        trace(Two(), (4, 8, 8))
