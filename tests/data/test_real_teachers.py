"""The published teachers, the CamVid example, and the teacher's mIoU."""

from pathlib import Path

import msgspec
import pytest

from qaedge.nn.block_costs import block_costs
from qaedge.nn.data import open_split
from qaedge.nn.metrics import evaluate
from qaedge.nn.teacher import Teacher, load_teacher, resolve_space
from qaedge.project import Workspace
from qaedge.space import SpaceFile

pytestmark = pytest.mark.data
EXAMPLE = Path(__file__).parents[2] / "examples" / "camvid" / "qaedge.toml"


@pytest.fixture(scope="module")
def workspace(qaedge_data: Path) -> Workspace:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QAEDGE_DATA", str(qaedge_data))
        opened = Workspace.open(EXAMPLE)
        teacher = msgspec.structs.replace(
            opened.project.teacher, weights=str(opened.path(opened.project.teacher.weights))
        )
        data = msgspec.structs.replace(opened.project.data, path=str(opened.path(opened.project.data.path)))
    return Workspace(opened.root, msgspec.structs.replace(opened.project, teacher=teacher, data=data))


@pytest.fixture(scope="module")
def teacher(workspace: Workspace) -> Teacher:
    return load_teacher(workspace)


def test_camvid_blocks_cover_the_network(teacher: Teacher) -> None:
    rows = {row.name: row for row in block_costs(teacher)}
    assert (rows["rest"].parameters, rows["rest"].macs) == (0, 0)
    assert 2.0e6 < sum(row.parameters for row in rows.values()) < 2.2e6
    assert teacher.block("stage6").input_shape == (96, 23, 30)
    assert teacher.block("head").output_shape == (11, 23, 30)


def test_camvid_space_resolves(workspace: Workspace, teacher: Teacher) -> None:
    space = resolve_space(teacher, SpaceFile.read(workspace.space_file), workspace.project.data)
    assert [block.name for block in space.blocks] == list(workspace.project.teacher.blocks)
    for block in space.blocks:
        assert 24 <= len({candidate.spec for candidate in block.candidates}) - 1 <= 40
        assert len({candidate.key for candidate in block.candidates}) == len(block.candidates)


def test_voc_teacher_loads(workspace: Workspace, qaedge_data: Path) -> None:
    config = msgspec.structs.replace(
        workspace.project.teacher,
        weights=str(qaedge_data / "teachers" / "deeplabv3_mobilenetv2_voc.safetensors"),
        arguments={"classes": 21},
    )
    voc = load_teacher(Workspace(workspace.root, msgspec.structs.replace(workspace.project, teacher=config)))
    assert voc.block("head").output_shape[0] == 21


@pytest.mark.slow
def test_camvid_miou(workspace: Workspace, teacher: Teacher) -> None:
    data = workspace.project.data
    split = open_split(data, workspace.path(data.path), "val")
    result = list(evaluate(teacher.module, split, batch=1))[-1].result
    assert result.miou == pytest.approx(0.5974, abs=0.002)
