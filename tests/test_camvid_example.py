"""The CamVid example's files decode, and agree with each other, without any data."""

from pathlib import Path

from qaedge.project import Workspace
from qaedge.space import ENUMERATORS, SpaceFile

EXAMPLE = Path(__file__).parents[1] / "examples" / "camvid" / "qaedge.toml"


def test_project_and_space_name_the_same_blocks() -> None:
    workspace = Workspace.open(EXAMPLE)
    space = SpaceFile.read(workspace.space_file)
    assert [axes.name for axes in space.block] == list(workspace.project.teacher.blocks)


def test_each_block_has_24_to_40_candidates_beside_the_teachers_own() -> None:
    workspace = Workspace.open(EXAMPLE)
    for axes in SpaceFile.read(workspace.space_file).block:
        specs = dict.fromkeys(ENUMERATORS[axes.kind](axes, (24, 90, 120), (32, 45, 60)))
        assert 24 <= len(specs) <= 40, axes.name
