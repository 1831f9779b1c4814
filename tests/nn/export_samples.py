"""Networks to export: every kind of candidate, what a teacher may hold besides, and a small DeepLabV3."""

from __future__ import annotations

import functools

import safetensors.torch
import torch
from does import Does
from tiny_scenes import trained_weights
from torch import Tensor, nn
from torch.nn import functional as F

from qaedge.candidate import QuantScheme
from qaedge.nn.data import open_split
from qaedge.nn.deeplab import deeplabv3_mobilenetv2, stage_paths
from qaedge.nn.quantize import QuantizedGraph, calibrate
from qaedge.nn.teacher import Teacher, cut
from qaedge.nn.tracing import trace
from qaedge.project import DataConfig

Shape = tuple[int, int, int]

#: candidate -> its input; odd sizes, too.
SPECS: dict[str, Shape] = {
    "conv_k3_s2_c8+ir_k3_s1_e1_c8": (3, 24, 32),
    "conv_k3_s2_c6+ir_k5_s1_e1_c8+ir_k5_s1_e2_c8": (3, 23, 31),
    "ir_k3_s1_e1_c8": (8, 12, 16),
    "ir_k3_s1_e6_c8": (8, 12, 16),
    "ir_k3_s2_e6_c12+r2_ir_k3_s1_e3_c12": (8, 13, 17),
    "ir_k5_s2_e4_c12+ir_k5_s1_e2_c10": (8, 12, 16),
    "ir_k7_s1_e2_c8+ir_k7_s1_e2_c8_d2": (8, 11, 15),
    "ir_k7_s2_e3_c8": (8, 12, 16),
    "ir_k3_s1_e4_c16+ir_k3_s1_e4_c16_d2+ir_k5_s1_e4_c8_d4": (8, 9, 13),
    "context_k1_c12+logits_c5": (16, 6, 9),
    "context_k3_c12_d2+logits_c5": (16, 6, 9),
    "poolcontext_k1_c12+logits_c5": (16, 6, 9),
    "poolcontext_k3_c12_d2+logits_c5": (16, 6, 9),
}
IMAGE = (3, 32, 48)


def settled(module: nn.Module, shape: Shape) -> nn.Module:
    """Give batch norms the statistics of noise, so that every tensor has a range."""
    draw = torch.Generator().manual_seed(0)
    module.train()
    for _ in range(20):
        with torch.no_grad():
            module(torch.randn(8, *shape, generator=draw))
    return module.eval()


def noise(shape: Shape, count: int = 4, seed: int = 1) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(1, *shape, generator=draw) for _ in range(count)]


def quantized_of(module: nn.Module, shape: Shape, bits: int = 8) -> QuantizedGraph:
    return calibrate(trace(module, shape), noise(shape), QuantScheme(bits, 8)).freeze()


def conv(given: int = 4, out: int = 4, **settings) -> nn.Conv2d:
    return nn.Conv2d(given, out, 3, padding=1, **settings)


def gated(m: Does, x: Tensor) -> Tensor:
    return F.relu(m.a(x)) * m.b(x).mean((2, 3), keepdim=True).sigmoid()


torch.manual_seed(0)  # the same modules whichever tests were imported before
UP = nn.Upsample(scale_factor=2, mode="bilinear")
CORNERS = nn.Upsample((16, 20), mode="bilinear", align_corners=True)
#: What a teacher of one's own may hold.
OTHERS = {
    "hard": nn.Sequential(conv(), nn.Hardswish(), conv(), nn.Hardsigmoid()),
    "gate": Does(gated, a=conv(), b=conv()),
    "upsampled in the middle": nn.Sequential(conv(), UP, conv()),
    "corners in the middle": nn.Sequential(conv(), CORNERS, conv()),
    "pooled": nn.Sequential(conv(), nn.ReLU(), nn.MaxPool2d(3, 2, 1), conv()),
    "pool of the input": nn.Sequential(nn.MaxPool2d(2), conv()),
    "joined": Does(lambda m, x: m.c(torch.cat([F.relu6(m.a(x)), m.b(x), x], 1)), a=conv(), b=conv(), c=conv(12)),
    "broadcast": Does(
        lambda m, x: torch.cat([m.a(x.mean((2, 3), keepdim=True)).expand(-1, -1, 8, 10), x], 1), a=conv()
    ),
    "norm alone": nn.Sequential(nn.BatchNorm2d(4), conv(), nn.ReLU(), nn.BatchNorm2d(4)),
    "clamps in a row": nn.Sequential(conv(), nn.ReLU6(), nn.ReLU(), conv()),
    "before and after": Does(lambda m, x: m.b((y := m.a(x)) + F.relu(y)), a=conv(), b=conv()),
    "nothing": nn.Sequential(nn.Identity()),
    "named like its parts": Does(
        lambda m, x: m.output(m.conv_q(m.conv_scale(m.conv(x)))),
        conv=conv(),
        conv_q=conv(),
        conv_scale=conv(),
        output=conv(),
    ),
}


@functools.lru_cache(1)
def small_deeplab() -> Teacher:
    """A small DeepLabV3 that was trained a little, so that its classes are as far apart as those of real ones."""
    network = deeplabv3_mobilenetv2(classes=8, width=0.25, depth=0.34, head_channels=16)
    network.load_state_dict(safetensors.torch.load(trained_weights()))
    return cut(network, stage_paths(0.34), IMAGE, "digest")


def pictures(count: int, split: str = "val", size: tuple[int, int] = IMAGE[1:]) -> list[Tensor]:
    """Generated scenes, as the small DeepLabV3 was trained on."""
    scenes = open_split(DataConfig("scenes", *size, count=32), None, split)
    return [scenes.preprocess(scenes.image(number)[None]) for number in range(count)]


def deeplab_of(bits: int, size: tuple[int, int] = IMAGE[1:]) -> QuantizedGraph:
    """The small DeepLabV3 for images of a size, calibrated on scenes, its weights of so many bits."""
    graph = trace(small_deeplab().module, (3, *size))
    return calibrate(graph, pictures(8, "train", size), QuantScheme(bits, 8)).freeze()
