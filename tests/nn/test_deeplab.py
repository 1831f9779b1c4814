"""The built-in DeepLabV3."""

import pytest
import torch
from torch import fx

from qaedge.errors import UsageError
from qaedge.nn.deeplab import deeplabv3_mobilenetv2, stage_paths
from qaedge.nn.paths import submodule


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return deeplabv3_mobilenetv2(5).eval()


def test_names_are_those_of_torchvision(network: torch.nn.Module) -> None:
    state = network.state_dict()
    assert len(network.features) == 18
    for key, shape in {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.17.conv.1.1.running_var": (960,),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "head.image_pooling.0.weight": (256, 320, 1, 1),
        "head.project.0.weight": (256, 512, 1, 1),
        "head.classifier.bias": (5,),
    }.items():
        assert tuple(state[key].shape) == shape


def test_dilation_and_stride(network: torch.nn.Module) -> None:
    filters = [m for m in network.features.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [m.dilation[0] for m in filters] == [1] * 15 + [2] * 3
    assert [i for i, m in enumerate(filters) if m.stride == (2, 2)] == [0, 2, 4, 7]
    assert network.features(torch.zeros(1, 3, 360, 480)).shape == (1, 320, 23, 30)


def test_weights_load_with_and_without_the_head_prefix(network: torch.nn.Module) -> None:
    x = torch.rand(1, 3, 32, 48)
    state = network.state_dict()
    bare = {key.removeprefix("head."): value for key, value in state.items()}
    assert "classifier.bias" in bare
    for weights in (state, bare):
        other = deeplabv3_mobilenetv2(5).eval()
        other.load_state_dict(weights)
        assert torch.equal(other(x), network(x))
    wrapped = torch.nn.Sequential(deeplabv3_mobilenetv2(5).eval())
    wrapped.load_state_dict({f"0.{key}": value for key, value in bare.items()})
    assert torch.equal(wrapped(x), network(x))


@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_output_has_the_input_size(network: torch.nn.Module, size: tuple[int, int]) -> None:
    assert network(torch.zeros(2, 3, *size)).shape == (2, 5, *size)


def test_traced_by_fx_at_any_size(network: torch.nn.Module) -> None:
    traced = fx.symbolic_trace(network)
    for size in ((32, 48), (64, 33)):
        x = torch.rand(1, 3, *size)
        assert torch.equal(traced(x), network(x))
    head = fx.symbolic_trace(network.head)
    x = torch.rand(2, 320, 3, 4)
    assert torch.equal(head(x), network.head(x))


def test_stage_paths_of_the_full_network() -> None:
    assert list(stage_paths().values()) == [
        "features[0:2]",
        "features[2:4]",
        "features[4:7]",
        "features[7:11]",
        "features[11:14]",
        "features[14:18]",
        "head",
    ]


@pytest.mark.parametrize(("width", "depth", "stride"), [(0.5, 0.5, 16), (0.25, 1.0, 8), (0.75, 0.4, 8)])
def test_smaller_variants_are_cut_in_stages(width: float, depth: float, stride: int) -> None:
    network = deeplabv3_mobilenetv2(4, width=width, head_channels=32, depth=depth, output_stride=stride).eval()
    full = network(x := torch.rand(1, 3, 64, 96))
    y = x
    for path in stage_paths(depth).values():
        if path == "head":
            assert y.shape[-2:] == (64 // stride, 96 // stride)
        y = submodule(network, path)(y)
    y = torch.nn.functional.interpolate(y, size=(64, 96), mode="bilinear", align_corners=True)
    assert torch.equal(y, full)


def test_impossible_variants_are_refused() -> None:
    for options in ({"output_stride": 4}, {"width": 0.0}, {"head_channels": 0}):
        with pytest.raises(UsageError, match="There is no DeepLabV3"):
            deeplabv3_mobilenetv2(3, **options)
