"""A whole project small enough to run the chain in seconds: generated scenes, a tiny teacher, three blocks."""

from __future__ import annotations

import functools
from collections.abc import Mapping
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
{blocks}

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
kernels = [1]
widths = [8]
schemes = ["w7a8"]
"""
BLOCKS = {"stage1": "features[0:2]", "stage3": "features[3:4]", "head": "head"}
#: Blocks that hold every layer.
ALL = {"stage1": "features[0:2]", "stage2": "features[2:3]", "stage3": "features[3:4]", "rest": "features[4:12]"}
ALL |= {"head": "head"}
#: Optimizer steps of the teacher, and their learning rate.
TRAINED = 60, 5e-3
#: (block, candidate, scheme) of the space: own and 1, own and 2 in two schemes, own and 1.
ROWS = 2 + 6 + 2


def write_project(
    folder: Path,
    steps: int = 4,
    rate: float = 1e-3,
    cache: str = "1MiB",
    epochs: int = 1,
    space: str = SPACE,
    blocks: Mapping[str, str] = BLOCKS,
) -> Workspace:
    """Write the project, its space, and a teacher's weights; the network is not good for anything."""
    places = "\n".join(f'{name} = "{path}"' for name, path in blocks.items())
    (folder / "space.toml").write_text(space)
    (folder / "qaedge.toml").write_text(
        PROJECT.format(steps=steps, rate=rate, cache=cache, epochs=epochs, blocks=places)
    )
    (folder / "teacher.safetensors").write_bytes(trained_weights())
    return Workspace.open(folder / "qaedge.toml")


@functools.lru_cache(1)
def trained_weights() -> bytes:
    """A little training on the labels: a random network would turn each rounding into another class."""
    import safetensors.torch
    import torch

    from qaedge.nn.data import VOID, open_split
    from qaedge.nn.deeplab import deeplabv3_mobilenetv2

    split = open_split(DataConfig("scenes", 32, 48, count=12), None, "train")
    images, labels = split.batch(range(12))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = deeplabv3_mobilenetv2(classes=8, width=0.25, depth=0.34, head_channels=16).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=TRAINED[1])
        for step in range(TRAINED[0]):
            chosen = slice(0, 6) if step % 2 else slice(6, 12)
            loss = torch.nn.functional.cross_entropy(network(images[chosen]), labels[chosen].long(), ignore_index=VOID)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for _ in range(10):  # the statistics of the weights as they are now
                network(images)
    return safetensors.torch.save(network.state_dict())


def space_of(workspace: Workspace) -> SearchSpace:
    """The project's space, resolved against its teacher."""
    from qaedge.nn.teacher import load_teacher, resolve_space
    from qaedge.space import SpaceFile

    return resolve_space(load_teacher(workspace), SpaceFile.read(workspace.space_file), workspace.project.data)
