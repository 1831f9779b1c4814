"""The quick way back through dilated depthwise convolutions: torch's own gradients, and where it keeps out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from qaedge.candidate import QuantScheme
from qaedge.nn import dilated
from qaedge.nn.data import open_split
from qaedge.nn.dilated import QuickDilation
from qaedge.nn.distill import Sample, _train
from qaedge.nn.finetune import finetune
from qaedge.nn.precision import weighted
from qaedge.nn.quantize import calibrate
from qaedge.nn.ranges import search_weight_scales
from qaedge.nn.reconstruct import reconstruct
from qaedge.nn.tracing import trace
from qaedge.project import DataConfig, DistillConfig, FinetuneConfig


def gradients(convolve: Callable[[Tensor, Tensor], Tensor], images: Tensor, weight: Tensor) -> list[Tensor]:
    """Return the output, and what comes back for images and weights from a random gradient."""
    images, weight = images.clone().requires_grad_(), weight.clone().requires_grad_()
    found = convolve(images, weight)
    generator = torch.Generator().manual_seed(1)
    back = torch.randn(found.shape, generator=generator).contiguous(memory_format=_order(images))
    return [found.detach(), *torch.autograd.grad(found, (images, weight), back)]


def _order(images: Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The dilations of the convolutions that took the quick way."""
    found: list[int] = []
    own = dilated._Dilated.apply

    def apply(images: Tensor, weight: Tensor, bias: Tensor | None, padding: Any, dilation: int) -> Any:
        found.append(dilation)
        return own(images, weight, bias, padding, dilation)

    monkeypatch.setattr(dilated._Dilated, "apply", apply)
    return found


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, 5])),
    dilation=st.integers(2, 4),
    size=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    channels=st.integers(1, 5),
    batch=st.integers(1, 3),
    part=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    last=st.booleans(),
)
def test_gradients_are_those_of_torch(
    kernel: tuple[int, int],
    dilation: int,
    size: tuple[int, int],
    channels: int,
    batch: int,
    part: tuple[float, float],
    last: bool,
) -> None:
    reach = [dilation * (side - 1) for side in kernel]
    padding = tuple(round(p * r) for p, r in zip(part, reach, strict=True))
    size = tuple(max(s, r - 2 * p + 1) for s, r, p in zip(size, reach, padding, strict=True))  # type: ignore[assignment]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, channels, *size, generator=generator)
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, 1, *kernel, generator=generator)

    def convolve(x: Tensor, w: Tensor) -> Tensor:
        return F.conv2d(x, w, None, 1, padding, dilation, channels)

    wanted = gradients(convolve, images, weight)
    with QuickDilation():
        found = gradients(convolve, images, weight)
        assert type(convolve(images.requires_grad_(), weight).grad_fn).__name__ == "_DilatedBackward"
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", [2, "same", "valid"])
def test_a_layer_with_a_bias_learns_it_too(padding: int | str, taken: list[int]) -> None:
    layer = nn.Conv2d(6, 6, 3, padding=padding, dilation=2, groups=6)
    images = torch.randn(2, 6, 9, 7)
    own = layer(images)
    own.square().sum().backward()
    wanted = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    layer.zero_grad()
    with QuickDilation():
        found = layer(images)
        found.square().sum().backward()
    assert taken == [2] and torch.equal(found, own)
    assert set(wanted) == {"weight", "bias"}
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    ("layer", "quick"),
    [
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4), True),
        (nn.Conv2d(4, 4, 3, padding="same", dilation=2, groups=4), True),
        (nn.Conv2d(4, 4, 2, padding="same", dilation=3, groups=4), False),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4), False),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2), False),
        (nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=4), False),
        (nn.Conv2d(4, 4, 3, stride=2, padding=2, dilation=2, groups=4), False),
        (nn.Conv2d(4, 4, 3, padding=(2, 3), dilation=(2, 3), groups=4), False),
        (nn.Conv2d(4, 4, 3, padding=5, dilation=2, groups=4), False),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, padding_mode="reflect"), True),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4).double(), False),
    ],
)
def test_it_takes_over_only_what_it_knows(layer: nn.Conv2d, quick: bool, taken: list[int]) -> None:
    images = torch.randn(2, 4, 12, 12, dtype=layer.weight.dtype)
    wanted = layer(images)
    with QuickDilation():
        found = layer(images)
        torch.autograd.backward(found.sum())
    assert bool(taken) == quick
    assert torch.allclose(found, wanted, atol=1e-6)
    assert layer.weight.grad is not None


def test_it_keeps_out_where_nothing_goes_back_and_of_half_precision(taken: list[int]) -> None:
    layer = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4)
    images = torch.randn(2, 4, 12, 12)
    with QuickDilation():
        with torch.no_grad():
            layer(images)
        with torch.autocast("cpu", torch.bfloat16):
            torch.autograd.backward(layer(images).float().sum())
        F.conv2d(images, layer.weight.detach(), None, 1, 2, 2, 4)
    assert taken == []


def test_the_way_back_keeps_32_bits_inside_autocast() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4)
    images = torch.randn(2, 4, 12, 12, requires_grad=True)
    with QuickDilation():
        found = layer(images).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        (ours,) = torch.autograd.grad(found, images)
    (theirs,) = torch.autograd.grad(layer(images).square().sum(), images)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_an_unlearned_kernel_lets_gradients_through_and_they_can_be_differentiated(taken: list[int]) -> None:
    weight = torch.randn(3, 1, 3, 3, dtype=torch.float32)
    images = torch.randn(1, 3, 7, 7, requires_grad=True)

    def twice() -> Tensor:
        (first,) = torch.autograd.grad(
            F.conv2d(images, weight, None, 1, 2, 2, 3).pow(3).sum(), images, create_graph=True
        )
        (second,) = torch.autograd.grad(first.square().sum(), images)
        return second

    wanted = twice()
    with QuickDilation():
        found = twice()
    assert taken
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-2)


# Who trains goes back that way


def dilated_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8))


def test_fine_tuning_takes_it(taken: list[int], tmp_path: Path) -> None:
    split = open_split(DataConfig("scenes", 32, 48, count=4), None, "train")
    config = FinetuneConfig(epochs=1, batch=2, crop=(16, 24))
    steps = list(finetune(dilated_layers(), None, split, config, tmp_path / "finetune.pt"))
    assert len(steps) == 2 and taken == [2, 2]


def test_distillation_takes_it(taken: list[int]) -> None:
    own, images = dilated_layers().eval(), torch.randn(6, 3, 12, 12)
    with torch.no_grad():
        wanted = own(images)
    arrays = images.numpy(), wanted.numpy()
    sample = Sample("stage", (0, 1, 2, 3), (4, 5), *arrays, wanted.var((0, 2, 3)), local=False)
    _train(own, sample, DistillConfig(steps=3, batch=2), 1e-3, torch.device("cpu"))
    assert taken == [2, 2, 2]


def test_reconstruction_takes_it(taken: list[int]) -> None:
    graph, images = trace(dilated_layers().eval(), (3, 12, 12)), torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        wanted = graph(images)
    scales = {node.name: search_weight_scales(graph.values[node.weight].detach(), 4) for node in weighted(graph)}
    network = calibrate(graph, [images], QuantScheme(4, 8), None, False, scales)
    reconstruct(network, lambda: (images, wanted, 0), lambda given, out, margin: F.mse_loss(given, out), 3)
    assert taken == [2, 2, 2]
