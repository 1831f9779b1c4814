"""What activations of 16 bits give on CamVid: `QAEDGE_DATA=... python benchmarks/widths/camvid.py`.

The given CamVid teacher with weights of 8 and 4 bits and activations of 8 and 16, in all blocks and in some, rounded to
the nearest (no step of `qaedge.nn.recipe`), as files of either format that are run on the val images: mIoU, the share
of pixels with the class of the float teacher, and the file's size. Writes camvid.json beside itself.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch

from qaedge.candidate import QuantScheme
from qaedge.nn.data import Split, open_split
from qaedge.nn.deeplab import deeplabv3_mobilenetv2, stage_paths
from qaedge.nn.export import write_file
from qaedge.nn.metrics import Confusion
from qaedge.nn.paths import top_modules
from qaedge.nn.quantize import calibrate
from qaedge.nn.sessions import load_file
from qaedge.nn.teacher import Teacher, cut
from qaedge.nn.tracing import trace
from qaedge.nn.weights import load_weights
from qaedge.nn.widths import widened
from qaedge.project import DataConfig

sys.path.append(str(Path(__file__).parents[1]))
from machine import machine

HERE = Path(__file__).parent
IMAGE = (3, 360, 480)
CLASSES = 11
CALIBRATION_IMAGES = 16
#: Bits of weights, and of the activations of each block; the head is the last.
NETWORKS = {
    "w8a8": (8, (8,) * 7),
    "w8a16": (8, (16,) * 7),
    "w8a8, stage6 and head w8a16": (8, (8, 8, 8, 8, 8, 16, 16)),
    "w4a8": (4, (8,) * 7),
    "w4a16": (4, (16,) * 7),
}


def run_on(path: Path, val: Split, wanted: list[np.ndarray]) -> dict[str, float]:
    """Run a file on the val images: mIoU, and the share of pixels that have the class wanted."""
    session, confusion, same = load_file(path), Confusion(CLASSES), []
    for number, classes in enumerate(wanted):
        given = session.run(val.preprocess(val.image(number)[None])).argmax(1)
        confusion.add(given, val.label(number)[None])
        same.append(float((given == classes).mean()))
    return {"miou": confusion.miou, "same_class": float(np.mean(same)), "size_bytes": path.stat().st_size}


def files_of(teacher: Teacher, train: Split, folder: Path) -> dict[str, list[Path]]:
    """Write each network in both formats."""
    chosen = np.linspace(0, len(train) - 1, CALIBRATION_IMAGES).astype(int)
    images = [train.preprocess(train.image(int(number))[None]) for number in chosen]
    found = {}
    for name, (weights, bits) in NETWORKS.items():
        blocks = [
            (tuple(top_modules(teacher.module, block.path)), QuantScheme(weights, width))
            for block, width in zip(teacher.blocks, bits, strict=True)
        ]
        graph, widths = widened(trace(teacher.module, IMAGE), blocks)
        network = calibrate(graph, images, QuantScheme(weights, max(bits)), widths=widths).freeze()
        found[name] = [folder / f"{len(found)}.{suffix}" for suffix in ("onnx", "tflite")]
        for path in found[name]:
            write_file(network, path)
    return found


def main() -> None:
    """Write, run, and keep what came out."""
    data = Path(os.environ["QAEDGE_DATA"])
    config = DataConfig("camvid", *IMAGE[1:], classes=tuple(map(str, range(CLASSES))), void=(11,))
    train, val = (open_split(config, data / "camvid", split) for split in ("train", "val"))
    module = deeplabv3_mobilenetv2(classes=CLASSES)
    load_weights(module, data / "teachers" / "deeplabv3_mobilenetv2_camvid.safetensors")
    teacher = cut(module.eval(), stage_paths(), IMAGE, "given")
    wanted, confusion = [], Confusion(CLASSES)
    with torch.no_grad():
        for number in range(len(val)):
            wanted.append(module(val.preprocess(val.image(number)[None])).argmax(1).numpy())
            confusion.add(wanted[-1], val.label(number)[None])
    rows: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, paths in files_of(teacher, train, Path(folder)).items():
            rows[name] = {path.suffix[1:]: run_on(path, val, wanted) for path in paths}
            print(name, rows[name], flush=True)
    told = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": machine(),
        "images": len(val),
        "float_miou": confusion.miou,
        "networks": rows,
    }
    (HERE / "camvid.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
