"""Activations of 16 bits in blocks of the real teacher, on real images: the files give the classes that torch gives."""

from __future__ import annotations

import pytest
import torch
from test_real_parity import CALIBRATION, COMPARED, images

from qaedge.candidate import QuantScheme
from qaedge.nn.deeplab import deeplabv3_mobilenetv2, stage_paths
from qaedge.nn.export import as_written, write_file
from qaedge.nn.parity import check, network_parity
from qaedge.nn.paths import top_modules
from qaedge.nn.quantize import QuantizedGraph, calibrate
from qaedge.nn.teacher import cut
from qaedge.nn.tracing import trace
from qaedge.nn.weights import load_weights
from qaedge.nn.widths import widened

pytestmark = [pytest.mark.data, pytest.mark.slow]

SIZE = (120, 160)


def of_widths(qaedge_data, *bits: int, weights: int = 8) -> tuple[QuantizedGraph, torch.nn.Module]:
    """The real teacher, its blocks' activations of so many bits in turn; and its float form."""
    network = deeplabv3_mobilenetv2(classes=11)
    load_weights(network, qaedge_data / "teachers" / "deeplabv3_mobilenetv2_camvid.safetensors")
    teacher = cut(network.eval(), stage_paths(1.0), (3, *SIZE), "digest")
    graph = trace(teacher.module, (3, *SIZE))
    blocks = [
        (tuple(top_modules(teacher.module, block.path)), QuantScheme(weights, bits[number % len(bits)]))
        for number, block in enumerate(teacher.blocks)
    ]
    graph, widths = widened(graph, blocks)
    calibration = images(qaedge_data / "camvid" / "train", CALIBRATION, SIZE)
    return calibrate(graph, calibration, QuantScheme(weights, max(bits)), widths=widths).freeze(), network


@pytest.mark.parametrize("bits", [(16,), (8, 16)], ids=str)
@pytest.mark.parametrize("weights", [8, 4])
def test_the_files_of_the_real_teacher_give_the_classes_that_torch_gives(bits, weights, qaedge_data, tmp_path):
    network, _ = of_widths(qaedge_data, *bits, weights=weights)
    compared = images(qaedge_data / "camvid" / "val", COMPARED, SIZE)
    for name in ("net.onnx", "net.tflite"):
        if name.endswith("tflite"):
            pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
        artifact = write_file(network, tmp_path / name)
        found = network_parity(as_written(network, tmp_path / name), artifact, compared)
        check(found, artifact)
        assert found.same_class is not None and found.same_class >= 0.98, (name, found)


def test_16_bits_give_more_pixels_the_class_of_the_float_teacher_than_8(qaedge_data):
    compared = images(qaedge_data / "camvid" / "val", COMPARED, SIZE)
    same = {}
    for bits in (8, 16):
        network, wanted = of_widths(qaedge_data, bits)
        with torch.no_grad():
            same[bits] = sum(float((network(x).argmax(1) == wanted(x).argmax(1)).float().mean()) for x in compared)
    assert same[16] > same[8], same
