"""Where candidates start: the teacher's own weights wherever shapes allow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qaedge.candidate import BlockSpec
from qaedge.nn.blocks import build_block
from qaedge.nn.deeplab import deeplabv3_mobilenetv2
from qaedge.nn.distill import block_loss, floor_variance
from qaedge.nn.inherit import OwnBlock, start_block

IMAGE = (3, 32, 48)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    made = deeplabv3_mobilenetv2(classes=5, width=0.25, depth=0.67, head_channels=16)
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.5, 0.5)
    made.train()
    with torch.no_grad():
        for _ in range(60):
            made(torch.randn(8, *IMAGE))
    return made.eval()


def part(network: nn.Module, start: int, end: int) -> tuple[nn.Module, Tensor]:
    """A slice of the backbone, and what goes into it."""
    with torch.no_grad():
        given = network.features[:start](torch.randn(16, *IMAGE, generator=torch.Generator().manual_seed(3)))
    return network.features[start:end], given


def loss_of(block: nn.Module, own: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        wanted = own(inputs)
        variance = floor_variance(wanted.var((0, 2, 3)))
        return float(block_loss(block.eval()(inputs), wanted, variance))


def started(spec: str, own: nn.Module, inputs: Tensor, seed: int = 0) -> tuple[nn.Module, str, float]:
    block, origin = start_block(BlockSpec.parse(spec), OwnBlock(own, inputs), seed)
    return block, origin, loss_of(block, own, inputs)


def fresh_loss(spec: str, own: nn.Module, inputs: Tensor) -> float:
    return loss_of(build_block(BlockSpec.parse(spec), inputs.shape[1]), own, inputs)


def spec_of(network: nn.Module, start: int, end: int, kernel: int = 3, expansion: int = 6) -> str:
    """The text of a slice of the backbone, its expansions and kernels changed."""
    layers = []
    for layer in network.features[start:end]:
        depthwise = layer.conv[-3][0]
        stride, dilation = depthwise.stride[0], depthwise.dilation[0]
        spec = f"ir_k{kernel}_s{stride}_e{expansion}_c{layer.conv[-2].out_channels}"
        layers.append(spec + (f"_d{dilation}" if dilation > 1 else ""))
    return "+".join(layers)


# Slices: 2:4 is two layers with stride 2, 4:6 two with stride 2.


def test_the_teachers_own_spec_is_the_teachers_block(network):
    own, inputs = part(network, 2, 4)
    _, origin, loss = started(spec_of(network, 2, 4), own, inputs)
    assert origin == "teacher" and loss < 1e-3


def test_a_larger_kernel_keeps_the_function(network):
    own, inputs = part(network, 2, 4)
    for kernel in (5, 7):
        _, origin, loss = started(spec_of(network, 2, 4, kernel=kernel), own, inputs)
        assert origin == "teacher" and loss < 1e-3


def test_training_mode_starts_like_evaluation(network):
    own, inputs = part(network, 2, 4)
    block, _, _ = started(spec_of(network, 2, 4), own, inputs)
    with torch.no_grad():
        wanted, given = block.eval()(inputs), block.train()(inputs)
    assert (given - wanted).square().mean() < 1e-3 * wanted.var()


def test_fewer_channels_lose_something_and_less_than_a_fresh_start(network):
    own, inputs = part(network, 2, 4)
    losses = []
    for expansion in (5, 4, 3, 2):
        spec = spec_of(network, 2, 4, expansion=expansion)
        _, origin, loss = started(spec, own, inputs)
        assert origin == "teacher" and 1e-4 < loss < 1 and loss < fresh_loss(spec, own, inputs)
        losses.append(loss)
    assert losses[0] < losses[-1]


def test_wider_than_the_teacher_keeps_the_function(network):
    own, inputs = part(network, 2, 4)
    _, origin, loss = started(spec_of(network, 2, 4, expansion=8), own, inputs)
    assert origin == "teacher" and loss < 1e-3


def test_more_layers_start_as_the_identity(network):
    own, inputs = part(network, 2, 4)
    spec = spec_of(network, 2, 4)
    last = spec.split("+")[-1]
    _, origin, loss = started(f"{spec}+{last}", own, inputs)
    assert origin == "partly" and loss < 1e-3


def test_fewer_layers_keep_the_first(network):
    own, inputs = part(network, 2, 4)
    spec = spec_of(network, 2, 4).split("+")[0]
    _, origin, loss = started(spec, own, inputs)
    assert origin == "teacher" and loss < fresh_loss(spec, own, inputs)


def test_a_stem_takes_the_strongest_channels(network):
    own, inputs = part(network, 0, 2)
    out = network.features[1].conv[-2].out_channels
    width = network.features[0][0].out_channels
    for channels, most in ((width, 1e-3), (width - 2, 1.0)):
        spec = f"conv_k3_s2_c{channels}+ir_k3_s1_e1_c{out}"
        _, origin, loss = started(spec, own, inputs)
        assert origin == "teacher" and loss < most


@pytest.mark.parametrize(("spec", "origin", "most"), [
    ("poolcontext_k1_c16+logits_c5", "teacher", 1e-3),
    ("poolcontext_k3_c16_d2+logits_c5", "teacher", 1e-3),
    ("context_k1_c16+logits_c5", "teacher", 1.0),
    ("poolcontext_k1_c8+logits_c5", "teacher", 1.0),
    ("poolcontext_k1_c24+logits_c5", "fresh", None),
])  # fmt: skip
def test_a_head_is_inherited_as_far_as_it_goes(network, spec, origin, most):
    with torch.no_grad():
        inputs = network.features(torch.randn(16, *IMAGE, generator=torch.Generator().manual_seed(3)))
    _, found, loss = started(spec, network.head, inputs)
    assert found == origin and (most is None or loss < most)
    if origin == "teacher":
        assert loss < fresh_loss(spec, network.head, inputs)


class Plain(nn.Module):
    """A block of no kind that is known."""

    def __init__(self, given: int = 8, out: int = 12) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(given, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


class Branching(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


@pytest.mark.parametrize("kind", [Plain, Branching])
@pytest.mark.parametrize("spec", ["ir_k3_s1_e2_c12", "ir_k3_s1_e2_c8+ir_k3_s1_e2_c12", "context_k1_c8+logits_c12"])
def test_other_blocks_are_started_afresh(kind, spec):
    torch.manual_seed(0)
    _, origin, loss = started(spec, kind().eval(), torch.randn(4, 8, 9, 11))
    assert origin == "fresh" and 0 < loss < float("inf")


def test_a_kind_that_the_block_is_not_is_started_afresh(network):
    own, inputs = part(network, 2, 4)
    spec = f"context_k1_c8+logits_c{network.features[3].conv[-2].out_channels}"
    _, origin = start_block(BlockSpec.parse(spec), OwnBlock(own, inputs), 0)
    assert origin == "fresh"
    out = network.head.classifier.out_channels
    with torch.no_grad():
        given = network.features(torch.randn(4, *IMAGE))
    assert start_block(BlockSpec.parse(f"ir_k3_s1_e2_c{out}"), OwnBlock(network.head, given), 0)[1] == "fresh"


def test_the_same_seed_is_the_same_start(network):
    own, inputs = Plain().eval(), torch.randn(4, 8, 9, 11)
    one, two, other = (started("ir_k3_s1_e2_c12", own, inputs, seed)[0].state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(v, two[k]) for k, v in one.items())
    assert any(not torch.equal(v, other[k]) for k, v in one.items())
    before = torch.random.get_rng_state()
    started("ir_k3_s1_e2_c12", own, inputs)
    assert torch.equal(before, torch.random.get_rng_state())


def test_constant_channels_do_no_harm(network):
    own, inputs = part(network, 2, 4)
    inputs = inputs.clone()
    inputs[:, 0] = 0
    started(spec_of(network, 2, 4, expansion=3), own, torch.zeros_like(inputs))
    block, _, loss = started(spec_of(network, 2, 4, expansion=3), own, inputs)
    assert loss < 1 and all(v.isfinite().all() for v in block.state_dict().values())
