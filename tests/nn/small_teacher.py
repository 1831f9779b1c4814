"""A small teacher to cut: the built-in network, and a module whose forward is given."""

from __future__ import annotations

from pathlib import Path

import msgspec
from torch import Tensor, nn

from qaedge.nn.deeplab import stage_paths
from qaedge.nn.teacher import (
    Teacher,
    cut,
)
from qaedge.project import DataConfig, Project, TeacherConfig, Workspace

SMALL = {"classes": 8, "width": 0.25, "head_channels": 16, "depth": 0.5}
BLOCKS = stage_paths(0.5)
DATA = DataConfig("scenes", 64, 96)


def workspace(root: Path, **changes: object) -> Workspace:
    """A project around the small built-in network."""
    config = TeacherConfig("qaedge.nn.deeplab:deeplabv3_mobilenetv2", BLOCKS, arguments=SMALL)
    config = msgspec.structs.replace(config, **changes)
    return Workspace(root, Project(teacher=config, data=DATA, space="space.toml"))


class Net(nn.Module):
    """A small network whose forward is given."""

    def __init__(self, run=None) -> None:
        super().__init__()
        self.body = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4)))
        self.tail = nn.ModuleDict({"a": nn.Conv2d(3, 3, 1), "b": nn.Conv2d(3, 3, 1)})
        self.run = run or (lambda net, x: net.tail["b"](net.tail["a"](net.body(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def cut_net(blocks: dict[str, str], run=None) -> Teacher:
    return cut(Net(run), blocks, (3, 8, 8), "digest")


def with_tail(a: nn.Module, run) -> Teacher:
    net = Net(run)
    net.tail["a"] = a
    return cut(net, {"a": "tail.a"}, (3, 8, 8), "digest")
