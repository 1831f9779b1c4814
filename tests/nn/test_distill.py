"""The block loss, the split of a block's features, and the training of one candidate."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from tiny_scenes import write_project

from qaedge.candidate import BlockSpec, QuantScheme
from qaedge.errors import TeacherError
from qaedge.nn import distill
from qaedge.nn.data import open_split
from qaedge.nn.distill import Sample, block_loss, floor_variance, score, train_candidate
from qaedge.nn.features import Features, compute_features, to_tensor
from qaedge.nn.graph import Graph
from qaedge.nn.inherit import OwnBlock, start_block
from qaedge.nn.recipe import Bench, quantize
from qaedge.nn.teacher import Teacher, load_teacher
from qaedge.nn.tracing import trace
from qaedge.project import DataConfig, DistillConfig, QuantizeConfig

CPU = torch.device("cpu")
CONFIG = DistillConfig(steps=25, batch=4, learning_rate=1e-3)
CHEAP = BlockSpec.parse("ir_k3_s2_e2_c8")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return load_teacher(write_project(tmp_path_factory.mktemp("distill")))


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory, teacher: Teacher) -> Features:
    folder = tmp_path_factory.mktemp("features")
    data = DataConfig("scenes", 32, 48, count=12)
    list(compute_features(folder, teacher, open_split(data, None, "train"), 1 << 20))
    return Features(folder)


@pytest.fixture(scope="module")
def sample(features: Features, teacher: Teacher) -> Sample:
    return Sample.of(features, "stage3", teacher.block("stage3").module)


@pytest.fixture(scope="module")
def own(sample: Sample, teacher: Teacher) -> OwnBlock:
    return OwnBlock(teacher.block("stage3").module, to_tensor(sample.inputs[list(sample.train)]))


# The loss


def test_a_copy_loses_nothing_and_the_mean_loses_one():
    wanted = torch.randn(6, 5, 7, 9) * torch.tensor([0.1, 1, 10, 3, 50.0])[:, None, None] + 4
    variance = wanted.var((0, 2, 3), correction=0)
    assert block_loss(wanted, wanted, variance) == 0
    mean = wanted.mean((0, 2, 3), keepdim=True).expand_as(wanted)
    torch.testing.assert_close(block_loss(mean, wanted, variance), torch.tensor(1.0))


def test_every_channel_counts_alike():
    wanted = torch.randn(4, 2, 8, 8) * torch.tensor([1.0, 1000.0])[:, None, None]
    variance = wanted.var((0, 2, 3))
    for channel in range(2):
        given = wanted.clone()
        given[:, channel] = 0
        assert 0.4 < float(block_loss(given, wanted, variance)) < 0.6


def test_a_margin_does_not_count():
    wanted, given = torch.zeros(1, 2, 9, 9), torch.zeros(1, 2, 9, 9)
    given[:, :, :2] = 100
    given[:, :, :, -2:] = 100
    assert block_loss(given, wanted, torch.ones(2), margin=2) == 0 < block_loss(given, wanted, torch.ones(2))


def test_dead_channels_do_not_rule():
    live = torch.tensor([1.0, 3.0, 0.05])
    assert torch.equal(floor_variance(live), live), "channels that vary keep their own"
    variance = floor_variance(torch.tensor([1.0, 1.0, 0.0]))
    assert 0.005 < variance.min() < 0.01 and variance[0] == 1
    wanted = torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted[:, 0] = 0
    given = wanted + 0.01 * torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    loss = float(block_loss(given, wanted, floor_variance(wanted.var((0, 2, 3)))))
    assert loss < 10 * float(block_loss(given[:, 1:], wanted[:, 1:], wanted[:, 1:].var((0, 2, 3))))
    assert (floor_variance(torch.zeros(3)) > 0).all()


# The sample


def test_no_image_is_trained_on_and_scored(sample, features):
    assert set(sample.train).isdisjoint(sample.scored)
    assert sorted((*sample.train, *sample.scored)) == list(range(len(features)))
    assert set(sample.spread(3)) <= set(sample.train)


def test_few_images_are_refused(tmp_path, teacher):
    data = DataConfig("scenes", 32, 48, count=3)
    list(compute_features(tmp_path, teacher, open_split(data, None, "train"), 1 << 20))
    with pytest.raises(TeacherError, match="at least 4 images, found 3"):
        Sample.of(Features(tmp_path), "stage3", teacher.block("stage3").module)


def test_batches_are_whole_images_or_crops_that_fit(features, teacher, monkeypatch):
    stage1 = Sample.of(features, "stage1", teacher.block("stage1").module)
    assert stage1.local
    given, wanted, margin = stage1.batch(np.random.default_rng(0), 4)
    assert given.shape == (4, 3, 32, 48) and margin == 0
    monkeypatch.setattr(distill, "CROP", 16)
    given, wanted, margin = stage1.batch(np.random.default_rng(0), 4)
    assert given.shape == (4, 3, 16, 16) and wanted.shape[2:] == (8, 8) and margin == distill.MARGIN
    with torch.no_grad():  # away from the edge a crop of the input gives the crop of the output
        out = teacher.block("stage1").module(given)
    edge = slice(2, -2)
    torch.testing.assert_close(out[..., edge, edge], wanted[..., edge, edge], rtol=0.02, atol=0.02)

    head = Sample.of(features, "head", teacher.block("head").module)
    assert not head.local, "its mean sees the whole image"


# Training


def test_training_lowers_the_loss(sample, own):
    block, origin = start_block(CHEAP, own, CONFIG.seed)
    before = score(block, sample)
    trained = train_candidate(CHEAP, own, sample, CONFIG, CPU)
    assert trained.started_from == origin == "teacher"
    assert trained.float_loss < before and trained.float_loss == pytest.approx(score(trained.module, sample))
    assert not trained.module.training and trained.steps == 25 and trained.train_seconds > 0


def test_training_is_never_worse_than_its_start(sample, own):
    block, _ = start_block(CHEAP, own, CONFIG.seed)
    wild = msgspec.structs.replace(CONFIG, learning_rate=1e3, steps=8)
    trained = train_candidate(CHEAP, own, sample, wild, CPU)
    assert trained.float_loss == score(block, sample)
    for name, value in trained.module.state_dict().items():
        assert torch.equal(value, block.state_dict()[name])


def test_the_same_seed_trains_the_same_weights(sample, own):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        short = msgspec.structs.replace(CONFIG, steps=4)
        one, two = (train_candidate(CHEAP, own, sample, short, CPU).module.state_dict() for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_candidate_of_another_shape_is_named(sample, own):
    with pytest.raises(TeacherError, match=r"stage3 puts out \(8, 8, 12\), the teacher \(8, 4, 6\)"):
        train_candidate(BlockSpec.parse("ir_k3_s1_e2_c8"), own, sample, CONFIG, CPU)


def test_a_loss_that_is_no_number_is_an_error(sample, own):
    dead = Sample(
        sample.block,
        sample.train,
        sample.scored,
        np.full_like(sample.inputs, np.nan),
        sample.outputs,
        sample.variance,
        sample.local,
    )
    with pytest.raises(TeacherError, match="block loss of"):
        train_candidate(CHEAP, own, dead, msgspec.structs.replace(CONFIG, steps=1), CPU)


# Quantization


def rounded_loss(graph: Graph, scheme: QuantScheme, sample: Sample) -> float:
    return quantize(Bench(graph, sample, 4), scheme, QuantizeConfig(), steps=()).loss


def test_more_bits_lose_less(sample, teacher):
    module = teacher.block("stage3").module
    graph = trace(module, teacher.block("stage3").input_shape)
    losses = [rounded_loss(graph, QuantScheme(bits, 8), sample) for bits in (8, 6, 4, 2)]
    # The cached features are half precision, so even the teacher itself is not a perfect copy.
    assert 0 < score(module, sample) < 1e-3
    assert losses == sorted(losses) and losses[0] < 0.01 < losses[-1]


def test_the_quantized_network_is_the_one_scored(sample, teacher):
    block = teacher.block("stage3")
    graph = trace(block.module, block.input_shape)
    assert rounded_loss(graph, QuantScheme(8, 16), sample) < rounded_loss(graph, QuantScheme(8, 8), sample)
