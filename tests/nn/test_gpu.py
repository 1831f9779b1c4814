"""The same training on a CUDA device: what it makes is as good, and comes back to this processor."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from tiny_scenes import ROWS, space_of, write_project

from qaedge import cli
from qaedge.candidate import BlockSpec
from qaedge.nn.data import open_split
from qaedge.nn.distill import Sample, score, train_candidate
from qaedge.nn.features import Features, compute_features, to_tensor
from qaedge.nn.finetune import finetune
from qaedge.nn.inherit import OwnBlock
from qaedge.nn.library import missing_tasks
from qaedge.nn.teacher import load_teacher
from qaedge.project import DataConfig, DistillConfig, FinetuneConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

DATA = DataConfig("scenes", 32, 48, count=12)
SPEC = BlockSpec.parse("ir_k3_s2_e2_c8")


def test_a_candidate_learns_as_much_as_on_the_processor(tmp_path):
    teacher = load_teacher(write_project(tmp_path))
    list(compute_features(tmp_path / "features", teacher, open_split(DATA, None, "train"), 1 << 20))
    module = teacher.block("stage3").module
    sample = Sample.of(Features(tmp_path / "features"), "stage3", module)
    own = OwnBlock(module, to_tensor(sample.inputs[list(sample.train)]))
    config = DistillConfig(steps=25, batch=4, learning_rate=1e-3)
    here = train_candidate(SPEC, own, sample, config, torch.device("cpu"))
    there = train_candidate(SPEC, own, sample, config, torch.device("cuda"))
    assert there.float_loss == pytest.approx(here.float_loss, rel=0.05)
    assert {value.device.type for value in there.module.state_dict().values()} == {"cpu"}
    assert score(there.module, sample) == pytest.approx(there.float_loss)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_network_is_fine_tuned_and_its_guide_stays(tmp_path, bfloat16):
    teacher = load_teacher(write_project(tmp_path)).module.eval()
    student = copy.deepcopy(teacher)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    config = FinetuneConfig(epochs=2, batch=4, learning_rate=2e-3, crop=(32, 48), guidance=1.0, bfloat16=bfloat16)
    steps = list(finetune(student, teacher, open_split(DATA, None, "train"), config, tmp_path / "c.pt"))
    assert len(steps) == 6 and not any(step.warning for step in steps)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    learned = student.state_dict()
    assert {value.device.type for value in learned.values()} == {"cpu"}
    assert any(not torch.equal(value, before[name]) for name, value in learned.items())


def test_the_chain_runs_to_a_network_on_the_grids(tmp_path, capsys):
    workspace = write_project(tmp_path)
    project = ("--project", str(tmp_path / "qaedge.toml"), "--quiet")
    assert cli.run(["distill", *project]) == 0
    space = space_of(workspace)
    assert sum(len(block.candidates) for block in space.blocks) == ROWS and not missing_tasks(workspace, space)
    architecture = tmp_path / "a.json"
    assert cli.run(["search", "--latency", "none", "--size", "none", "--output", str(architecture), *project]) == 0
    capsys.readouterr()
    settings = (tmp_path / "qaedge.toml").read_text() + "quantized_epochs = 2\nblock_guidance = 1.0\n"
    (tmp_path / "qaedge.toml").write_text(settings)
    assert cli.run(["build", str(architecture), "--name", "s", "--json", *project]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["name"] == "s" and told["tried_miou"] is not None, "epochs on the grids"
