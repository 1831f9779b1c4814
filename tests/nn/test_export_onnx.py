"""Exported files against torch: every kind of candidate in every form, and whole networks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_samples import (
    IMAGE,
    OTHERS,
    SPECS,
    Shape,
    conv,
    deeplab_of,
    noise,
    pictures,
    quantized_of,
    settled,
    small_deeplab,
)
from torch import nn

from qaedge.candidate import BlockSpec
from qaedge.errors import DiskFull, InvalidFile, ParityError, UnsupportedOperator
from qaedge.nn import export_onnx
from qaedge.nn.blocks import build_block
from qaedge.nn.export_onnx import FORMS, write_onnx
from qaedge.nn.graph import Graph, Node
from qaedge.nn.onnx_session import OnnxSession
from qaedge.nn.parity import BOUNDS, Parity, block_parity, check, network_parity
from qaedge.nn.teacher import Teacher
from qaedge.nn.tracing import trace


@pytest.fixture(scope="module")
def deeplab() -> Teacher:
    return small_deeplab()


def operators_in(path: Path, folder: Path) -> list[str]:
    """Load a file with every optimization and return what the runtime made of it."""
    OnnxSession(path)  # sets up the runtime
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    # The default on Arm, where s8s8 is the form of choice; on x86 such files run in float without it.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


def stored_bytes(path: Path) -> int:
    """What weights, biases, and their scales take in a file."""
    graph = onnx.load(path).graph
    return sum(len(t.raw_data) for t in graph.initializer if "__weight" in t.name or "__bias" in t.name)


@pytest.fixture(scope="module")
def kinds(deeplab: Teacher) -> list[tuple[str, nn.Module, Shape]]:
    built = [(t, settled(build_block(BlockSpec.parse(t), s[0]), s), s) for t, s in SPECS.items()]
    return built + [(f"own {block.name}", block.module, block.input_shape) for block in deeplab.blocks]


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_block_computes_what_torch_scored(form, kinds, tmp_path):
    for text, module, shape in kinds:
        quantized = quantized_of(module, shape, 7 if form == "u8s8" else 8)
        path = tmp_path / "block.onnx"
        artifact = write_onnx(quantized, path, form, name=text, integer_ends=True)
        found = block_parity(quantized, artifact, noise(shape, 3, seed=7))
        assert found.images == 3 and found.within_one_step >= BOUNDS["onnx"].block, (text, found)
        check(found, artifact)

        operators = operators_in(path, tmp_path)
        assert not {"Conv", "FusedConv"} & set(operators), (text, operators)
        assert "QLinearConv" in operators, text

        model = onnx.load(path)
        ends = [*model.graph.input, *model.graph.output]
        kind = onnx.TensorProto.INT8 if form == "s8s8" else onnx.TensorProto.UINT8
        assert [e.type.tensor_type.elem_type for e in ends] == [kind, kind], text
        given, out = ([d.dim_value for d in e.type.tensor_type.shape.dim] for e in ends)
        assert (given, out) == ([1, *shape], list(module(noise(shape)[0]).shape)), text
        assert artifact.weight_bytes == stored_bytes(path) < artifact.size_bytes == path.stat().st_size
        assert (artifact.form, artifact.format, artifact.name) == (form, "onnx", text)


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_network_gives_each_pixel_its_class(form, tmp_path):
    quantized = deeplab_of(7)
    artifact = write_onnx(quantized, tmp_path / "net.onnx", form)
    found = network_parity(quantized, artifact, pictures(4))
    assert found.same_decided >= 0.999
    check(found, artifact)
    classes = torch.cat([quantized(x).argmax(1) for x in pictures(4)])
    assert len(classes.unique()) > 1, "a network of one class would agree with anything"
    operators = operators_in(tmp_path / "net.onnx", tmp_path)
    assert not {"Conv", "FusedConv"} & set(operators)
    graph = onnx.load(artifact.path).graph
    types = [e.type.tensor_type.elem_type for e in (*graph.input, *graph.output)]
    assert types == [onnx.TensorProto.FLOAT] * 2


def test_the_forms_hold_the_same_integers(tmp_path):
    quantized = deeplab_of(7)
    outputs = []
    for form in FORMS:
        artifact = write_onnx(quantized, tmp_path / f"{form}.onnx", form)
        outputs.append(OnnxSession(Path(artifact.path)).run(pictures(1)[0]))
    assert np.abs(outputs[0] - outputs[1]).max() <= 2 * np.abs(outputs[0]).max() / 255
    assert np.abs(outputs[0] - outputs[2]).max() <= 2 * np.abs(outputs[0]).max() / 255


def test_signed_files_compute_to_the_bit_what_unsigned_ones_do(tmp_path):
    """Additions in a row: what ONNX Runtime on x86 leaves in float where a file is signed."""
    shape = (16, 64, 64)
    text = "+".join(["ir_k3_s1_e6_c16"] * 4)
    quantized = quantized_of(settled(build_block(BlockSpec.parse(text), 16), shape), shape)
    signed, unsigned = (
        OnnxSession(Path(write_onnx(quantized, tmp_path / f"{form}.onnx", form, integer_ends=True).path))
        for form in ("s8s8", "u8u8")
    )
    assert (signed.dtype, unsigned.dtype) == ("int8", "uint8")
    assert (signed.zeros().dtype, signed.run(signed.zeros()).dtype) == ("int8", "int8")
    given = np.random.default_rng(0).integers(-128, 128, (1, *shape))
    one, other = signed.run(given.astype(np.int8)), unsigned.run((given + 128).astype(np.uint8))
    assert np.array_equal(one.astype(int) + 128, other)


def test_float_files_equal_torch(kinds, deeplab, tmp_path):
    for text, module, shape in [*kinds, ("whole", deeplab.module, IMAGE)]:
        graph = trace(module, shape)
        artifact = write_onnx(graph, tmp_path / "float.onnx", integer_ends=True)
        x = noise(shape)[0]
        with torch.no_grad():
            wanted = module(x).numpy()
        np.testing.assert_allclose(OnnxSession(Path(artifact.path)).run(x), wanted, rtol=1e-4, atol=1e-4, err_msg=text)
        assert artifact.form == "float" and artifact.weight_bytes == stored_bytes(Path(artifact.path))


@pytest.mark.parametrize("name", OTHERS)
def test_other_blocks_compute_what_torch_scored(name, tmp_path):
    torch.manual_seed(0)
    shape = (4, 8, 10)
    quantized = quantized_of(settled(OTHERS[name], shape), shape, 7)
    artifact = write_onnx(quantized, tmp_path / "block.onnx", "u8s8", integer_ends=True)
    found = block_parity(quantized, artifact, noise(shape, 5, seed=7))
    assert found.within_one_step >= BOUNDS["onnx"].block
    assert not {"Conv", "FusedConv"} & set(operators_in(tmp_path / "block.onnx", tmp_path))


def test_a_classifier_from_input_to_logits(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(conv(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6)).eval()
    quantized = quantized_of(network, (4, 8, 10))
    artifact = write_onnx(quantized, tmp_path / "net.onnx", "u8u8")
    x = noise((4, 8, 10), 1)[0]
    scale = quantized.scale_of(quantized.graph.output).scale
    apart = np.abs(OnnxSession(Path(artifact.path)).run(x) - quantized(x).detach().numpy())
    assert apart.max() <= 1.001 * scale


def test_few_bits_lie_in_eight_bit_containers(tmp_path):
    torch.manual_seed(0)
    quantized = quantized_of(nn.Sequential(conv(), nn.ReLU(), conv()).eval(), (4, 8, 8), 3)
    artifact = write_onnx(quantized, tmp_path / "few.onnx", "u8s8", integer_ends=True)
    weights = [
        onnx.numpy_helper.to_array(t) for t in onnx.load(artifact.path).graph.initializer if "weight/q" in t.name
    ]
    assert len(weights) == 2 and all(w.dtype == np.int8 and np.abs(w).max() == 3 for w in weights)
    assert block_parity(quantized, artifact, noise((4, 8, 8))).within_one_step >= BOUNDS["onnx"].block


# What cannot be written


def test_an_operator_without_a_form_is_named(tmp_path):
    graph = Graph((4, 8, 8), [Node("a", "softmax", ("input",), (1, 4, 8, 8), where="stage1.0")], "a", {})
    with pytest.raises(UnsupportedOperator, match=r"'softmax' in stage1\.0"):
        write_onnx(graph, tmp_path / "odd.onnx")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    artifact = write_onnx(trace(conv().eval(), (4, 8, 8)), path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=str(path)):
        write_onnx(trace(conv(4, 9).eval(), (4, 8, 8)), path)
    assert path.read_bytes() == before and len(before) == artifact.size_bytes
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_a_file_in_a_new_folder_is_the_same_each_time(tmp_path):
    graph = trace(conv().eval(), (4, 8, 8))
    one, two = (write_onnx(graph, tmp_path / name / "net.onnx") for name in ("one", "two"))
    assert one.sha256 == two.sha256 and one.name == "net"


# Parity finds what differs


def test_another_file_is_found_out(tmp_path):
    torch.manual_seed(0)
    quantized = quantized_of(nn.Sequential(conv(), conv()).eval(), (4, 8, 8))
    other = quantized_of(nn.Sequential(conv(), conv()).eval(), (4, 8, 8))
    artifact = write_onnx(other, tmp_path / "other.onnx", "u8u8", integer_ends=True)
    found = block_parity(quantized, artifact, noise((4, 8, 8)))
    assert found.within_one_step < 0.9
    with pytest.raises(ParityError, match=r"other: .* of outputs at most one"):
        check(found, artifact)
    with pytest.raises(ParityError, match="pixels of the same class"):
        check(Parity(1, same_class=0.999, same_decided=0.994, decided=0.9), artifact)
    with pytest.raises(ParityError, match=r"have 0\.00 % of pixels of the same class,"):
        check(Parity(1, same_class=0.0, same_decided=1.0, decided=0.1), artifact)
    with pytest.raises(ParityError, match="pixels of the same class"):
        check(Parity(1, same_class=0.0, decided=0.0), artifact)
    check(Parity(1, same_class=0.98, same_decided=1.0, decided=0.9), artifact)
    check(Parity(1), artifact)


def test_a_file_that_is_none_is_said(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"not a network")
    with pytest.raises(InvalidFile, match=r"bad\.onnx: expected an ONNX file"):
        OnnxSession(tmp_path / "bad.onnx")


def test_every_operator_has_a_form():
    from qaedge.nn.graph import OPERATORS

    assert set(export_onnx._EMITTERS) == set(OPERATORS) - {"requantize"}, "which quantizing does by itself"
