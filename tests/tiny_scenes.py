"""A whole project small enough to run the chain in seconds: generated scenes, a tiny teacher, three blocks."""

from __future__ import annotations

import functools
from pathlib import Path

from qaedge.project import DataConfig, Workspace
from qaedge.space import SearchSpace

PROJECT = """\
space = "space.toml"
device = "local"

[teacher]
function = "qaedge.nn.deeplab:deeplabv3_mobilenetv2"
weights = "teacher.safetensors"
arguments = {{ classes = 8, width = 0.25, depth = 0.34, head_channels = 16 }}

[teacher.blocks]
stage1 = "features[0:2]"
stage3 = "features[3:4]"
head = "head"

[data]
layout = "scenes"
height = 32
width = 48
count = 12

[distill]
steps = {steps}
batch = 4
workers = 1
learning_rate = {rate}
cache = "{cache}"
calibration_images = 4

[finetune]
epochs = {epochs}
batch = 4
crop = [32, 48]
"""

SPACE = """\
name = "tiny"

[[block]]
name = "stage1"
kind = "stem"
widths = [8]
schemes = ["w7a8"]

[[block]]
name = "stage3"
expansions = [2, 6]
schemes = ["w7a8", "w4a8"]

[[block]]
name = "head"
kind = "context"
widths = [8]
schemes = ["w7a8"]
"""
#: (block, candidate, scheme) of the space: own and 1, own and 2 in two schemes, own and 1.
ROWS = 2 + 6 + 2


def write_project(
    folder: Path, steps: int = 4, rate: float = 1e-3, cache: str = "1MiB", epochs: int = 1, space: str = SPACE
) -> Workspace:
    """Write the project, its space, and a teacher's weights; the network is not good for anything."""
    (folder / "space.toml").write_text(space)
    (folder / "qaedge.toml").write_text(PROJECT.format(steps=steps, rate=rate, cache=cache, epochs=epochs))
    (folder / "teacher.safetensors").write_bytes(_weights())
    return Workspace.open(folder / "qaedge.toml")


@functools.lru_cache(1)
def _weights() -> bytes:
    """Random weights whose batch norms know the scenes: every tensor of the network has a range."""
    import safetensors.torch
    import torch

    from qaedge.nn.data import open_split
    from qaedge.nn.deeplab import deeplabv3_mobilenetv2

    split = open_split(DataConfig("scenes", 32, 48, count=6), None, "train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = deeplabv3_mobilenetv2(classes=8, width=0.25, depth=0.34, head_channels=16)
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):  # or what goes in would fade away on its way
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the average over all batches
        images = split.batch(range(6))[0]
        with torch.no_grad():
            for _ in range(4):
                network.train()(images)
    return safetensors.torch.save(network.state_dict())


def space_of(workspace: Workspace) -> SearchSpace:
    """The project's space, resolved against its teacher."""
    from qaedge.nn.teacher import load_teacher, resolve_space
    from qaedge.space import SpaceFile

    return resolve_space(load_teacher(workspace), SpaceFile.read(workspace.space_file))
