"""Weights of 4 and 2 bits in files: packed where they lie, and the same numbers as in torch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from export_samples import IMAGE, SPECS, noise, pictures, settled, small_deeplab
from torch import nn

from qaedge.candidate import BlockSpec, QuantScheme
from qaedge.nn.blocks import build_block
from qaedge.nn.export_onnx import FORMS, write_onnx
from qaedge.nn.export_tflite import write_tflite
from qaedge.nn.parity import BOUNDS, block_parity, network_parity
from qaedge.nn.quantize import QuantizedGraph, calibrate
from qaedge.nn.tflite_session import TfliteSession
from qaedge.nn.tracing import trace

BITS = (4, 2)


def quantized(text: str, bits: int, float_tail: bool = False) -> tuple[QuantizedGraph, tuple[int, int, int]]:
    shape = SPECS[text]
    module = settled(build_block(BlockSpec.parse(text), shape[0]), shape)
    graph = trace(module, shape)
    return calibrate(graph, noise(shape), QuantScheme(bits, 8), float_tail=float_tail).freeze(), shape


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("form", FORMS)
def test_onnx_files_hold_them_packed(form, bits, tmp_path):
    for text in SPECS:
        network, shape = quantized(text, bits)
        artifact = write_onnx(network, tmp_path / "block.onnx", form, integer_ends=True)
        found = block_parity(network, artifact, noise(shape, 3, seed=7))
        assert found.within_one_step >= BOUNDS["onnx"].block, text
        model = onnx.load(artifact.path)
        kind = onnx.TensorProto.INT4 if bits == 4 else onnx.TensorProto.INT2
        weights = [t for t in model.graph.initializer if t.name.endswith("__weight/q")]
        assert weights and {t.data_type for t in weights} == {kind}
        for tensor in weights:
            count = int(np.prod(tensor.dims))
            assert len(tensor.raw_data) == -(-count * bits // 8)
            limit = 2 ** (bits - 1) - 1
            assert np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max() <= limit
        onnx.checker.check_model(model)


@pytest.mark.parametrize("bits", BITS)
def test_tflite_files_hold_those_of_1x1_convolutions_packed(bits, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    for text in SPECS:
        network, shape = quantized(text, bits)
        artifact = write_tflite(network, tmp_path / "block.tflite")
        found = block_parity(network, artifact, noise(shape, 3, seed=7))
        assert found.within_one_step >= BOUNDS["tflite"].block, text
        operators = TfliteSession(tmp_path / "block.tflite").operators
        assert operators.count("DELEGATE") == 1, (text, operators)
        pointwise = [
            node
            for node in network.graph.nodes
            if node.weight
            and (weight := network.graph.values[node.weight]).shape[2:] == (1, 1)
            and weight.shape[1] * bits % 8 == 0  # XNNPACK takes rows of whole bytes alone; others lie in a byte each
        ]
        assert operators.count("FULLY_CONNECTED") == len(pointwise), text
        whole, _ = quantized(text, 8)
        eight = write_tflite(whole, tmp_path / "eight.tflite")
        saved = sum(network.graph.values[n.weight].numel() * (8 - bits) / 8 for n in pointwise)
        assert eight.weight_bytes - artifact.weight_bytes == pytest.approx(saved, abs=len(pointwise))
        assert artifact.size_bytes < eight.size_bytes or saved < 64


def test_a_network_of_mixed_bits_computes_what_torch_scored(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    teacher = small_deeplab()
    graph = trace(teacher.module, IMAGE)
    mixed = {node.name: (8, 4, 2)[i % 3] for i, node in enumerate(n for n in graph.nodes if n.weight)}
    network = calibrate(graph, pictures(8, "train"), QuantScheme(8, 8), mixed).freeze()
    images = pictures(4)
    for path in (tmp_path / "net.onnx", tmp_path / "net.tflite"):
        if path.suffix == ".onnx":
            compared, artifact = network, write_onnx(network, path, "u8s8")
        else:
            compared = network.with_integer_tail().freeze()
            artifact = write_tflite(compared, path)
        assert network_parity(compared, artifact, images).same_decided >= 0.999
    kinds = {t.data_type for t in onnx.load(tmp_path / "net.onnx").graph.initializer if "__weight/q" in t.name}
    assert kinds == {onnx.TensorProto.INT8, onnx.TensorProto.INT4, onnx.TensorProto.INT2}


def test_a_linear_layer_is_packed_too(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)).eval()
    quantized_ = calibrate(trace(network, (4, 8, 8)), noise((4, 8, 8)), QuantScheme(4, 8), float_tail=False).freeze()
    for path in (tmp_path / "net.onnx", tmp_path / "net.tflite"):
        write = write_onnx if path.suffix == ".onnx" else write_tflite
        if path.suffix == ".tflite":
            pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
        artifact = write(quantized_, path, integer_ends=True)
        assert block_parity(quantized_, artifact, noise((4, 8, 8), 5)).within_one_step == 1
