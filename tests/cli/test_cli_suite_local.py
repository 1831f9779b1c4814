"""Suites and `compare --data` with files that run for real on this machine, whoever else is using it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_files import write_convolutions
from tiny_scenes import write_project

#: A machine that others use is not what it was a minute ago; then nothing is decided, and that is told.
MOVED = "reference model"
SUITE = """
limits = ["latency_median < 60s", "size < 1MiB", "slower_than_baseline < 150%"]
[[model]]
file = "one.onnx"
[[model]]
name = "renamed"
file = "two.onnx"
"""


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A suite of two files of equal cost; the current folder is theirs."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        write_convolutions(Path(f"{name}.onnx"), 2)
    Path("benchmarks.toml").write_text(SUITE)


def measured(ran):
    assert ran.status in (0, 3, 4), ran.err
    return {outcome["model"]: outcome for outcome in json.loads(ran.out)["outcomes"]}


def test_a_suite_finds_the_file_that_takes_ten_times_as_long(suite, qaedge):
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--save-baseline", "main")
    assert ran.status == 0, ran.err
    (file,) = Path("baselines/main").iterdir()
    assert file.name.startswith("local-") and file.stat().st_size < 10_000

    write_convolutions(Path("two.onnx"), 20)
    found = measured(qaedge("bench", "--suite", "benchmarks.toml", "--against", "main", "--json"))
    one, renamed = found["one"]["comparison"], found["renamed"]["comparison"]
    assert one["verdict"] != "slower" and renamed["ratio"] > 3 and renamed["size_ratio"] > 1.5
    assert renamed["verdict"] == "slower" or MOVED in renamed["reason"]
    if renamed["verdict"] == "slower":
        kept = {held["limit"]: held["kept"] for held in found["renamed"]["held"]}
        assert kept == {"latency_median < 60s": True, "size < 1MiB": True, "slower_than_baseline < 150%": False}

    ran = qaedge("compare", file, "two.onnx", "--json")  # no model of that name among two
    assert ran.status == 1 and "holds results of one, renamed, and none of two" in ran.err


def test_a_baseline_file_is_judged_in_one_session(suite, qaedge):
    write_convolutions(Path("two.onnx"), 20)
    Path("benchmarks.toml").write_text(SUITE.replace('"two.onnx"', '"two.onnx"\nbaseline = "one.onnx"'))
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--json")
    found = measured(ran)["renamed"]
    assert ran.status == 3 and found["comparison"]["verdict"] == "slower"
    assert found["comparison"]["p_value"] < 0.002 and found["comparison"]["samples"] >= 100


def write_classifier(path: Path, seed: int) -> None:
    """Write a network of one convolution with 1x1 kernels: eight classes for each pixel."""
    onnx = pytest.importorskip("onnx")
    weight = np.random.default_rng(seed).standard_normal((8, 3, 1, 1)).astype(np.float32)
    node = onnx.helper.make_node("Conv", ["image", "w"], ["logits"])
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, 32, 48])
        for name, channels in (("image", 3), ("logits", 8))
    ]
    graph = onnx.helper.make_graph(
        [node], "classifier", ends[:1], ends[1:], [onnx.numpy_helper.from_array(weight, "w")]
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.fixture
def classifiers(tmp_path, monkeypatch):
    """A project on generated scenes, and three networks for it, two of which are the same."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path)
    for name, seed in (("old", 1), ("same", 1), ("other", 2)):
        write_classifier(Path(f"{name}.onnx"), seed)


def test_accuracy_and_agreement_are_told(classifiers, qaedge):
    ran = qaedge("compare", "old.onnx", "same.onnx", "--data", "--threshold", "900%", "--json")
    assert ran.status in (0, 4), ran.err
    found = json.loads(ran.out)
    assert found["agreement"] == 1 and found["miou"] == found["baseline_miou"] > 0
    ran = qaedge("compare", "old.onnx", "other.onnx", "--data", "--threshold", "900%")
    assert ran.status in (0, 4) and "the same class at" in ran.out and "mIoU" in ran.out


def test_limits_on_accuracy_are_held(classifiers, qaedge):
    limits = 'project = "qaedge.toml"\nlimits = ["agreement > 99%", "miou > 0.0001"]\n'
    models = "".join(f'[[model]]\nfile = "{name}.onnx"\nbaseline = "old.onnx"\n' for name in ("same", "other"))
    Path("benchmarks.toml").write_text(limits + models)
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--json")
    found = measured(ran)
    assert ran.status == 3
    assert [held["kept"] for held in found["same"]["held"]] == [True, True]
    assert found["other"]["held"][0]["kept"] is False and found["other"]["agreement"] < 0.9
    assert found["same"]["result"]["miou"] == found["same"]["baseline_miou"]


def test_scoring_says_what_is_missing(suite, qaedge):
    ran = qaedge("compare", "one.onnx", "two.onnx", "--data")
    assert ran.status == 1 and "qaedge.toml" in ran.err
    Path("x.json").write_text("{}")
    assert qaedge("compare", "x.json", "one.onnx", "--data").status == 2
    ran = qaedge("compare", "x.json", "one.onnx")
    assert ran.status == 1 and "x.json: format: expected 'qaedge baseline'" in ran.err
