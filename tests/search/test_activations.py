"""Bytes of activations, counted by hand, and held against torch where it is there."""

import pytest

from qaedge.candidate import BlockSpec, Candidate, QuantScheme
from qaedge.search.activations import own_key, peak_bytes

SHAPE = (8, 12, 16)  # 1,536 numbers
PIXELS = 12 * 16


def peak(text, scheme="w8a8", shape=SHAPE):
    return peak_bytes(Candidate(BlockSpec.parse(text), QuantScheme.parse(scheme), shape))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("conv_k3_s1_c4", (8 + 4) * PIXELS),
        ("conv_k3_s2_c64", 8 * PIXELS + 64 * PIXELS // 4),
        # Expand 8 to 48; the depthwise layer has 48 in and 48 out; residual: the input stays, too.
        ("ir_k3_s1_e6_c16", (48 + 48) * PIXELS),
        ("ir_k3_s1_e6_c8", (8 + 48 + 48) * PIXELS),
        ("ir_k3_s2_e6_c16", 48 * PIXELS + 48 * PIXELS // 4),
        # Without an expansion the depthwise layer's input is the residual; the addition has three in memory.
        ("ir_k3_s1_e1_c8", (8 + 8 + 8) * PIXELS),
        ("ir_k3_s1_e1_c16", (8 + 16) * PIXELS),
        ("context_k3_c4", (8 + 8) * PIXELS),
        ("context_k1_c32", (32 + 32) * PIXELS),
        # The input waits for its mean, which is taken last.
        ("poolcontext_k1_c32", (8 + 32 + 32) * PIXELS),
        ("logits_c3", (8 + 3) * PIXELS),
        ("conv_k3_s2_c64+ir_k3_s1_e6_c64", (64 + 384 + 384) * PIXELS // 4),
    ],
)
def test_the_peak_is_the_greatest_of_all_layers(text, numbers):
    assert peak(text) == numbers
    assert peak(text, "fp32") == 4 * numbers


def test_the_teachers_own_is_known_where_somebody_looked():
    assert peak("own_0123456789ab") is None
    own = Candidate(BlockSpec.parse("own_0123456789ab"), QuantScheme.parse("fp32"), SHAPE)
    assert own_key(own) == "own_0123456789ab@8x12x16"
    assert peak_bytes(own, {own_key(own): 5000}) == 20_000 and peak_bytes(own, {"own_0@8x12x16": 5000}) is None


@pytest.mark.parametrize("text", ["conv_k5_s2_c4_d2", "ir_k5_s2_e3_c16", "ir_k3_s2_e1_c8_d3", "context_k5_c4_d4"])
@pytest.mark.parametrize("shape", [(8, 12, 16), (3, 7, 9)])
def test_shapes_are_those_of_torch(text, shape):
    torch = pytest.importorskip("torch")
    from qaedge.nn.blocks import build_block

    block = build_block(BlockSpec.parse(text), shape[0])
    most, given = 0, torch.zeros(1, *shape)
    with torch.no_grad():

        def note(module, inputs, output):
            nonlocal most
            if isinstance(module, torch.nn.Conv2d):
                most = max(most, inputs[0].numel() + output.numel())

        for module in block.modules():
            module.register_forward_hook(note)
        block(given)
    assert peak(text, shape=shape) >= most
    assert peak(text, shape=shape) <= most + given.numel() + 2 * block(given).numel()
