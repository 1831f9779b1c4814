"""`init`, `space`, `teacher check`: from nothing to a resolved space."""

from __future__ import annotations

import json
import re
import sys

import pytest
from tiny_scenes import SPACE, write_project

from qaedge.project import QUANTIZE_STEPS, QuantizeConfig, Workspace
from qaedge.space import SearchSpace, SpaceFile
from qaedge.tables import LatencyTable, table_keys

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


@pytest.mark.parametrize("layout", ["camvid", "cityscapes", "scenes"])
def test_init_shows_how_candidates_are_quantized(layout, qaedge, tmp_path):
    file = tmp_path / "qaedge.toml"
    qaedge("init", "--data", layout, "--project", file)
    text = file.read_text()
    section = re.search(r"^\[quantize\]\n(.*?)\n\n", text, re.DOTALL | re.MULTILINE).group(1)
    assert re.findall(r"^(\w+) =", section, re.MULTILINE) == list(QuantizeConfig.__struct_fields__)
    assert Workspace.open(file).project.quantize == QuantizeConfig(), "what is shown is what holds without it"
    assert all(f'"{step}"' in section for step in QUANTIZE_STEPS)
    file.write_text(text.replace("int8 = []", f"int8 = {list(QUANTIZE_STEPS)}".replace("'", '"')))
    assert Workspace.open(file).project.quantize.int8 == QUANTIZE_STEPS


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


@pytest.fixture
def fresh(tmp_path, monkeypatch, qaedge):
    """What `init` wrote, as it is, but for the number of images and their size."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    assert "Next: qaedge teacher train" in qaedge("init").err
    text = (tmp_path / "qaedge.toml").read_text()
    for large, small in {
        "count = 128": "count = 8",
        "height = 128": "height = 32",
        "width = 192": "width = 48",
    }.items():
        assert text.count(large) == 1
        text = text.replace(large, small)
    (tmp_path / "qaedge.toml").write_text(text)
    return tmp_path


def test_a_fresh_project_is_trained_without_an_edit(fresh, qaedge):
    assert Workspace.open().project.teacher.weights == "teacher.safetensors"
    absent = "teacher.safetensors is not there yet: run `qaedge teacher train`."
    for command in (["teacher", "check", "--quiet"], ["space"]):  # these ask for shapes alone
        ran = qaedge(*command)
        assert ran.status == 0 and f"warning: {absent} Until then" in " ".join(ran.err.split()), ran.err
    for command in (["distill"], ["build", "--teacher"], ["export", "teacher"]):
        ran = qaedge(*command)
        assert ran.status == 1 and ran.err.startswith(f"error: {absent}\n"), ran.err

    before = json.loads(qaedge("space", "--json").out)
    ran = qaedge("teacher", "train", "--epochs", "1")
    assert ran.status == 0 and "the teacher starts from scratch" in ran.err, ran.err
    assert "not there yet" not in qaedge("teacher", "check", "--no-miou").err
    ran = qaedge("space", "--json")
    after = json.loads(ran.out)
    assert ran.err == "" and after["hash"] != before["hash"] and after["candidates"] == before["candidates"]

    # A trained teacher that is gone is missed: fresh weights must not take the place of its space.
    kept = (fresh / "results" / "space.json").read_bytes()
    (fresh / "teacher.safetensors").unlink()
    for command in ("space", "profile"):
        ran = qaedge(command)
        assert ran.status == 1 and absent in ran.err
    assert (fresh / "results" / "space.json").read_bytes() == kept


def test_boards_measure_before_the_teacher_is_trained(tmp_path, monkeypatch, qaedge):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    workspace = write_project(tmp_path)
    weights = tmp_path / "teacher.safetensors"
    weights.rename(tmp_path / "later.safetensors")
    ran = qaedge("profile", "--device", "fake", "--json")
    assert ran.status == 0 and "teacher.safetensors is not there yet" in ran.err, ran.err
    measured = {row.key for row in LatencyTable.store(workspace.latency_file("fake")).rows()}
    (tmp_path / "later.safetensors").rename(weights)
    ran = qaedge("profile", "--device", "fake", "--json")
    assert ran.status == 0 and "not there yet" not in ran.err, ran.err
    space = SearchSpace.load(workspace.space_json)
    assert {c.key for c in space.unique()} <= measured, "times do not depend on weights"
    anew = table_keys(space) - measured
    assert json.loads(ran.out)["measured"] == len(anew) and all(
        key.startswith(("teacher_", "network_")) for key in anew
    )


def test_weights_to_start_from_that_are_not_there_are_named(fresh, qaedge):
    ran = qaedge("teacher", "train", "--from", "nobodys.safetensors")
    assert ran.status == 1 and "No file nobodys.safetensors" in ran.err and "--from" in ran.err


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


@pytest.mark.parametrize("name", ["space.json", "space.inputs.json", "space.activations.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "few", "teacher": "", "blocks": []}'])
def test_a_damaged_resolved_space_is_made_anew(name, text, qaedge, scenes):
    pytest.importorskip("torch")
    before = qaedge("space", "--json").out
    file = scenes / "results" / name
    file.write_text(text)
    ran = qaedge("space", "--json")
    assert (ran.status, ran.out) == (0, before), ran.err
    assert file.read_text() != text


@pytest.mark.parametrize("command", [("space",), ("distill",), ("profile",), ("space", "check")])
@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ("w8a4", "found 'w8a4'.\n  Activations have 8 bits, or 16: w8a8."),
        ("int8", "block[1].schemes: expected quantization schemes such as w8a8, found 'int8'.\n  Known: fp32, w8a8"),
        ("w8.4a8", "block 'stage3': w8.4a8 names 2 layers; the candidates have 3 with weights"),
    ],
)
def test_a_scheme_that_is_none_is_told_before_any_work(command, scheme, said, tmp_path, qaedge):
    pytest.importorskip("torch")
    write_project(tmp_path, space=SPACE.replace("w4a8", scheme))
    ran = qaedge(*command, "--project", tmp_path / "qaedge.toml")
    assert ran.status == 1 and ran.out == "" and ran.err.count("error:") == 1 and "Traceback" not in ran.err
    assert said in ran.err
    assert not (tmp_path / "results" / "cache").exists()


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


def test_teacher_check_says_before_any_training_what_cannot_be_exported(qaedge, scenes):
    pytest.importorskip("torch")
    (scenes / "mine.py").write_text(
        "import torch\n\n\ndef network():\n    return torch.nn.Sequential(\n"
        "        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.LeakyReLU(), torch.nn.Conv2d(8, 8, 1)\n    )\n"
    )
    file = scenes / "qaedge.toml"
    text = file.read_text()
    start, end = text.index("[teacher]"), text.index("[data]")
    blocks = '[teacher]\nfunction = "mine:network"\n\n[teacher.blocks]\nall = "[0:3]"\n\n'
    file.write_text(text[:start] + blocks + text[end:])
    ran = qaedge("teacher", "check", "--no-miou")
    assert ran.status == 0, ran.err
    assert "cannot be exported, so it cannot be measured" in ran.err and "'leakyrelu'" in ran.err
    value = json.loads(qaedge("teacher", "check", "--no-miou", "--json", "--quiet").out)
    assert value["exportable"] is False and "leakyrelu" in value["obstacle"]
