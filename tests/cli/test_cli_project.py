"""`init`, `space`, `teacher check`: from nothing to a resolved space."""

from __future__ import annotations

import json
import re
import sys

import pytest

from qaedge.project import Workspace
from qaedge.space import SpaceFile

#: What DeepLabV3 on MobileNetV2 has at 360x480; (channels, height, width).
SHAPES = {
    "stage1": ((3, 360, 480), (16, 180, 240)),
    "stage2": ((16, 180, 240), (24, 90, 120)),
    "stage3": ((24, 90, 120), (32, 45, 60)),
    "stage4": ((32, 45, 60), (64, 23, 30)),
    "stage5": ((64, 23, 30), (96, 23, 30)),
    "stage6": ((96, 23, 30), (320, 23, 30)),
    "head": ((320, 23, 30), (11, 23, 30)),
}


@pytest.mark.parametrize("layout", ["camvid", "cityscapes", "scenes"])
def test_init_writes_files_that_read_and_explain_every_key(layout, qaedge, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = qaedge("init", "--data", layout)
    assert ran.status == 0
    assert ran.out == "wrote qaedge.toml\nwrote space.toml\n"
    workspace = Workspace.open()
    assert workspace.project.data.layout == layout
    space = SpaceFile.read(workspace.space_file)
    assert [axes.name for axes in space.block] == list(workspace.project.teacher.blocks) == list(SHAPES)
    for file in ("qaedge.toml", "space.toml"):
        text = (tmp_path / file).read_text()
        assert not re.search(r"[ \t]\n|[{}]", text)


@pytest.mark.parametrize("layout", ["camvid", "cityscapes"])
def test_a_written_space_has_at_least_24_candidates_per_block(layout, qaedge, tmp_path):
    qaedge("init", "--data", layout, "--project", tmp_path / "qaedge.toml")
    written = SpaceFile.read(tmp_path / "space.toml")
    space = written.resolve(SHAPES, dict.fromkeys(SHAPES, "0123456789ab"), "t" * 64)
    assert all(len(block.candidates) >= 25 for block in space.blocks)  # 24, and the teacher's own


def test_init_overwrites_only_when_told_to(qaedge, scenes):
    (scenes / "qaedge.toml").unlink()
    (scenes / "space.toml").write_text("mine")
    ran = qaedge("init")
    assert ran.status == 1 and "space.toml is there already; nothing was written" in ran.err and "--force" in ran.err
    assert (scenes / "space.toml").read_text() == "mine" and not (scenes / "qaedge.toml").exists()
    assert qaedge("init", "--force").status == 0
    assert "mine" not in (scenes / "space.toml").read_text()


def test_space_resolves_and_counts_what_is_missing(qaedge, scenes):
    pytest.importorskip("torch")
    ran = qaedge("space", "--json")
    assert ran.status == 0, ran.err
    listing = json.loads(ran.out)
    assert listing["candidates"] == listing["missing_loss"] == sum(b["candidates"] for b in listing["blocks"])
    assert listing["missing_latency"] == {"local": listing["unique_candidates"]}
    assert listing["missing_teacher"] == {"local": 1}
    assert listing["blocks"][0]["input_shape"] == [3, 128, 192]

    ran = qaedge("space")
    assert f"{listing['networks']:,} networks" in ran.out
    assert "qaedge distill" in ran.err and "qaedge profile --device local" in ran.err


def test_space_is_resolved_again_only_when_something_changed(qaedge, scenes):
    pytest.importorskip("torch")
    before = json.loads(qaedge("space", "--json").out)
    made = (scenes / "results" / "space.json").stat().st_mtime_ns
    qaedge("space")
    assert (scenes / "results" / "space.json").stat().st_mtime_ns == made

    file = scenes / "space.toml"
    file.write_text(file.read_text().replace("expansions = [2, 3, 4, 6]", "expansions = [2, 3]"))
    after = json.loads(qaedge("space", "--json").out)
    assert after["candidates"] < before["candidates"] and after["hash"] != before["hash"]


@pytest.mark.parametrize("name", ["space.json", "space.inputs.json"])
@pytest.mark.parametrize("text", ["", "{", "{}", '{"name": "few", "teacher": "", "blocks": []}'])
def test_a_damaged_resolved_space_is_made_anew(name, text, qaedge, scenes):
    pytest.importorskip("torch")
    before = qaedge("space", "--json").out
    file = scenes / "results" / name
    file.write_text(text)
    ran = qaedge("space", "--json")
    assert (ran.status, ran.out) == (0, before), ran.err
    assert file.read_text() != text


def test_a_missing_extra_names_the_command_that_installs_it(qaedge, scenes, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for command in (["space"], ["teacher", "check"], ["profile"]):
        ran = qaedge(*command)
        assert ran.status == 1
        assert ran.err == (
            "error: This needs the package 'torch', which is not installed.\n  Install it: pip install \"qaedge[nn]\"\n"
        )


def test_teacher_check_adds_up(qaedge, scenes):
    pytest.importorskip("torch")
    file = scenes / "qaedge.toml"
    file.write_text(file.read_text().replace("count = 128", "count = 8"))
    ran = qaedge("teacher", "check", "--json", "--quiet")
    assert ran.status == 0 and ran.err == ""
    value = json.loads(ran.out)
    assert [b["name"] for b in value["blocks"]] == [*SHAPES, "rest"]
    assert sum(b["parameters"] for b in value["blocks"]) == 509_896
    assert 0 <= value["miou"] <= 1 and len(value["iou"]) == 8

    ran = qaedge("teacher", "check")
    assert "509,896 parameters" in ran.out and "mIoU on 2 validation images" in ran.out
    assert "warning: teacher.weights is empty" in ran.err
    assert "mIoU" not in qaedge("teacher", "check", "--no-miou").out
