"""The real teacher, quantized: torch and the files give the same classes, at sizes of real images, odd ones, too."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qaedge.candidate import QuantScheme
from qaedge.nn.deeplab import deeplabv3_mobilenetv2
from qaedge.nn.export import as_written, write_file
from qaedge.nn.parity import check, network_parity
from qaedge.nn.quantize import calibrate
from qaedge.nn.sessions import load_file
from qaedge.nn.tracing import trace
from qaedge.nn.weights import load_weights

pytestmark = [pytest.mark.data, pytest.mark.slow]
CALIBRATION, COMPARED = 16, 6


def images(split: Path, count: int, size: tuple[int, int]) -> list[torch.Tensor]:
    paths = sorted((split / "images").glob("*.jpg"))
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, count).astype(int)]
    loaded = [np.asarray(Image.open(p).convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR)) for p in chosen]
    return [torch.from_numpy(x.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None] for x in loaded]


SIZES = [(360, 480), (120, 160), (181, 241), (97, 129)]
#: At least this share of all pixels gets the same class from LiteRT and from torch or ONNX Runtime; and from these two.
SAME, SAME_ONNX = 0.99, 0.995


@pytest.mark.parametrize("size", SIZES, ids=["x".join(map(str, size)) for size in SIZES])
def test_the_files_of_the_real_teacher_give_the_classes_that_torch_gives(size, qaedge_data, tmp_path):
    network = deeplabv3_mobilenetv2(classes=11)
    load_weights(network, qaedge_data / "teachers" / "deeplabv3_mobilenetv2_camvid.safetensors")
    graph = trace(network.eval(), (3, *size))
    calibration = images(qaedge_data / "camvid" / "train", CALIBRATION, size)
    quantized = calibrate(graph, calibration, QuantScheme(8, 8)).freeze()
    kinds = [("net.onnx", "u8s8"), ("arm.onnx", "s8s8")]
    try:
        import ai_edge_litert  # noqa: F401

        kinds.append(("net.tflite", "s8s8"))
    except ImportError:
        pass
    compared = images(qaedge_data / "camvid" / "val", COMPARED, size)
    with torch.no_grad():
        classes = {"torch": [quantized(x).argmax(1).numpy() for x in compared]}
    for name, form in kinds:
        artifact = write_file(quantized, tmp_path / name, form)
        found = network_parity(as_written(quantized, tmp_path / name), artifact, compared)
        check(found, artifact)
        # TFLite ends in integers, and is held against torch that does so, too: what is left are single roundings. How
        # much these are depends on the processor, but they decide no class that two others are not as good as.
        assert found.decided is not None and found.decided >= 0.9, (name, found)
        assert found.same_decided is not None and found.same_decided >= 0.999, (name, found)
        session = load_file(tmp_path / name)
        classes[name] = [session.run(x).argmax(1) for x in compared]
    for one, other in itertools.combinations(classes, 2):
        same = float(np.mean([np.mean(a == b) for a, b in zip(classes[one], classes[other], strict=True)]))
        assert same >= (SAME if "net.tflite" in (one, other) else SAME_ONNX), (one, other, same)
