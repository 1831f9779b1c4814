"""Quantization-aware fine-tuning: what is trained is what is deployed, and it gets better where rounding hurt."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from tiny_scenes import space_of, write_project

from qaedge.architecture import Architecture
from qaedge.candidate import QuantScheme
from qaedge.cli.build import _rows
from qaedge.errors import InvalidFile, MissingFile, TeacherError
from qaedge.nn.build import build_student
from qaedge.nn.export import write_file
from qaedge.nn.parity import BOUNDS, network_parity
from qaedge.nn.part import part_of
from qaedge.nn.paths import top_modules
from qaedge.nn.qat import Trained, Tuned, finetune_quantized
from qaedge.nn.quantize import QuantizedGraph, calibrate
from qaedge.nn.quantized_file import load_quantized, save_quantized
from qaedge.nn.student import StudentReport, load_report, open_splits, student_folder
from qaedge.nn.teacher import load_teacher
from qaedge.nn.tracing import trace
from qaedge.project import FinetuneConfig, Workspace

CONFIG = FinetuneConfig(epochs=4, batch=4, learning_rate=2e-3, crop=(32, 48))


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    workspace = write_project(tmp_path_factory.mktemp("qat"))
    teacher = load_teacher(workspace)
    train, val = open_splits(workspace)
    graph = trace(teacher.module, teacher.input_shape)
    images = [train.preprocess(train.image(i)[None]) for i in range(4)]
    network = calibrate(graph, images, QuantScheme(2, 8)).freeze()
    return teacher, train, val, network


def tuned(setting, folder: Path, config: FinetuneConfig = CONFIG) -> Tuned:
    teacher, train, val, network = setting
    crop = trace(teacher.module, (3, *config.crop))
    *_, last = finetune_quantized(network, crop, teacher, train, val, config, folder / "finetune-x.pt")
    assert isinstance(last.result, Tuned)
    return last.result


def test_training_on_the_grids_mends_what_two_bits_cost(setting, tmp_path):
    teacher, _, val, network = setting
    found = tuned(setting, tmp_path)
    assert found.epoch > 0 and found.epochs == CONFIG.epochs
    images = [val.preprocess(val.image(i)[None]) for i in range(len(val))]
    with torch.no_grad():
        wanted = [teacher.module(x).softmax(1) for x in images]

        def apart(one: QuantizedGraph) -> float:
            pairs = zip(images, wanted, strict=True)
            return float(sum((one(x).softmax(1) - y).square().mean() for x, y in pairs))

        assert apart(found.network) < 0.8 * apart(network)
    before = network.integers(network.graph.nodes[0])[0]
    assert not torch.equal(found.network.integers(found.network.graph.nodes[0])[0], before)


def test_what_was_trained_is_what_the_files_compute(setting, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    _, _, val, _ = setting
    network = tuned(setting, tmp_path).network
    images = [val.preprocess(val.image(i)[None]) for i in range(len(val))]
    for name in ("net.onnx", "net.tflite"):
        from qaedge.nn.export import as_written

        artifact = write_file(network, tmp_path / name)
        found = network_parity(as_written(network, tmp_path / name), artifact, images)
        assert found.same_decided >= BOUNDS[artifact.format].network, name
    for node in network.graph.nodes:
        if node.weight:
            integers = network.integers(node)[0].detach()
            assert float(integers.abs().max()) <= 1 and torch.equal(integers, integers.round())


def test_an_interrupted_training_ends_where_a_whole_one_does(setting, tmp_path):
    whole = tuned(setting, tmp_path / "whole")
    teacher, train, val, network = setting
    folder = tmp_path / "cut"
    for folder_ in (tmp_path / "whole", folder):
        folder_.mkdir(exist_ok=True)
    crop = trace(teacher.module, (3, *CONFIG.crop))
    steps = finetune_quantized(network, crop, teacher, train, val, CONFIG, folder / "finetune-x.pt")
    for step in steps:
        if step.what.startswith("mIoU after epoch 2") and step.done == step.total:
            break
    steps.close()
    again = tuned(setting, folder)
    assert (again.miou, again.epoch) == (whole.miou, whole.epoch)
    for name, value in whole.network.graph.values.items():
        assert torch.equal(value, again.network.graph.values[name]), name


def test_a_training_that_gains_nothing_ends_early(setting, tmp_path):
    config = FinetuneConfig(epochs=9, batch=4, learning_rate=1e-12, crop=(32, 48))
    found = tuned(setting, tmp_path, config)
    assert found.epoch == 0
    assert found.tried_miou is not None and found.tried_miou <= found.miou and 1 <= found.tried_epoch <= 9
    _, _, _, network = setting
    for name, value in network.graph.values.items():
        assert torch.equal(value, found.network.graph.values[name])
    # Ended, it stays so: a second call trains no further.
    teacher, train, val, _ = setting
    crop = trace(teacher.module, (3, *config.crop))
    again = list(finetune_quantized(network, crop, teacher, train, val, config, tmp_path / "finetune-x.pt"))
    assert len(again) == 1 and again[0].result.epoch == 0
    assert (again[0].result.tried_miou, again[0].result.tried_epoch) == (found.tried_miou, found.tried_epoch)


def test_a_training_that_gained_nothing_tells_what_it_tried(tmp_path):
    workspace = write_project(tmp_path, epochs=0)
    file = tmp_path / "qaedge.toml"
    file.write_text(file.read_text() + "quantized_epochs = 1\nquantized_learning_rate = 1e-12\n")
    workspace = Workspace.open(file)
    teacher, space = load_teacher(workspace), space_of(workspace)
    steps = build_student(workspace, teacher, space, Architecture.own(space), "own", lambda bits: ("u8u8", ""))
    *_, last = steps
    report = last.result
    assert (report.kept, report.quantized, report.quantized_epoch, report.tried_epoch) == ("before", None, 0, 1)
    assert report.tried_miou == pytest.approx(report.miou, abs=0.01)
    assert load_report(student_folder(workspace, space, "own")) == report
    assert _rows(report, "own")[-1][2:] == (f"{report.tried_miou:.4f}", "1")
    old = {k: v for k, v in msgspec.to_builtins(report).items() if not k.startswith("tried_")}
    assert msgspec.convert(old, StudentReport).tried_miou is None


def test_blocks_guide_also_where_logits_do_not(setting, tmp_path):
    def trained(folder: str, **more: float) -> dict[str, torch.Tensor]:
        (tmp_path / folder).mkdir()
        teacher, train, val, network = setting
        config = msgspec.structs.replace(CONFIG, epochs=1, **more)
        crop = trace(teacher.module, (3, *config.crop))
        path = tmp_path / folder / "finetune-x.pt"
        list(finetune_quantized(network, crop, teacher, train, val, config, path))
        return torch.load(path, weights_only=True)["student"]

    without = trained("a", guidance=0.0, block_guidance=0.0)
    by_blocks = trained("b", guidance=0.0, block_guidance=10.0)
    assert not all(torch.equal(value, by_blocks[name]) for name, value in without.items())


def test_scales_are_not_pulled_to_where_they_began(setting, tmp_path, monkeypatch):
    seen = []
    real = torch.optim.AdamW

    def noted(groups, **settings):
        seen.append(real(groups, **settings))
        return seen[-1]

    monkeypatch.setattr(torch.optim, "AdamW", noted)
    tuned(setting, tmp_path, msgspec.structs.replace(CONFIG, epochs=1))
    decay = {id(p): group["weight_decay"] for group in seen[0].param_groups for p in group["params"]}
    network = setting[3]
    assert sum(value == 0 for value in decay.values()) == sum(bool(n.weight) for n in network.graph.nodes)
    assert any(value > 0 for value in decay.values())


def test_divergence_names_the_rate_of_this_stage(setting, tmp_path):
    with pytest.raises(TeacherError, match="diverged") as caught:
        tuned(setting, tmp_path, msgspec.structs.replace(CONFIG, learning_rate=1e30))
    assert "finetune.quantized_learning_rate" in caught.value.hint


def test_an_epoch_that_was_not_looked_at_is_trained_again(setting, tmp_path):
    whole = tuned(setting, tmp_path / "whole")
    teacher, train, val, network = setting
    crop = trace(teacher.module, (3, *CONFIG.crop))
    steps = finetune_quantized(network, crop, teacher, train, val, CONFIG, tmp_path / "finetune-x.pt")
    for step in steps:  # killed while the second epoch is scored
        if step.what.startswith("mIoU after epoch 2"):
            break
    steps.close()
    again = tuned(setting, tmp_path)
    assert (again.miou, again.epoch) == (whole.miou, whole.epoch)


def test_a_damaged_record_of_the_best_is_named(setting, tmp_path):
    tuned(setting, tmp_path)
    (tmp_path / "finetune-x.best.json").write_text("[0.5")
    with pytest.raises(InvalidFile, match=r"finetune-x\.best\.json"):
        tuned(setting, tmp_path)


def test_gradients_reach_weights_biases_and_scales(setting):
    teacher, train, _, network = setting
    student = Trained(network, trace(teacher.module, (3, 32, 48)), {})
    student(train.preprocess(train.image(0)[None])).square().mean().backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0, name


def test_a_network_survives_its_file(setting, tmp_path):
    teacher, train, _, network = setting
    save_quantized(network, tmp_path / "n.safetensors")
    again = load_quantized(trace(teacher.module, teacher.input_shape), tmp_path / "n.safetensors")
    x = train.preprocess(train.image(0)[None])
    assert torch.equal(again(x), network(x))
    assert (again.scales, again.weight_bits, again.scheme) == (network.scales, network.weight_bits, network.scheme)
    with pytest.raises(MissingFile):
        load_quantized(network.graph, tmp_path / "none.safetensors")
    with pytest.raises(InvalidFile, match="another architecture"):
        load_quantized(trace(torch.nn.Conv2d(3, 8, 3), (3, 32, 48)), tmp_path / "n.safetensors")
    (tmp_path / "n.safetensors").write_bytes(b"nothing")
    with pytest.raises(InvalidFile, match="a quantized network"):
        load_quantized(network.graph, tmp_path / "n.safetensors")


def test_a_part_computes_what_it_computes_in_the_whole(setting):
    teacher, train, _, network = setting
    x = train.preprocess(train.image(0)[None])
    seen: dict[str, torch.Tensor] = {}

    with torch.no_grad():
        network.run(x, seen.__setitem__)
    for block in teacher.blocks:
        part = part_of(network, top_modules(teacher.module, block.path))
        assert part is not None, block.name
        found = part.network(seen[part.given])
        step = network.scale_of(part.output)
        assert step is not None
        apart = (found - seen[part.output]).abs() / step.scale
        assert float((apart <= 1.001).float().mean()) >= 0.999, block.name
