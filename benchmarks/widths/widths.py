"""What activations of 16 bits cost: the blocks of DeepLabV3-MobileNetV2 in w8a16 beside w8a8, and the borders between.

Fresh weights, images of 240x320, one thread, as `qaedge bench` measures them, in both formats. Writes result.json
beside itself.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import torch

from qaedge.candidate import QuantScheme
from qaedge.nn.deeplab import deeplabv3_mobilenetv2, stage_paths
from qaedge.nn.export import write_file
from qaedge.nn.quantize import calibrate
from qaedge.nn.teacher import cut
from qaedge.nn.tracing import trace
from qaedge.nn.widths import crossing_alone

sys.path.append(str(Path(__file__).parents[1]))
from machine import machine

HERE = Path(__file__).parent
FORMATS = ("onnx", "tflite")
WIDTHS = (8, 16)
IMAGE = (3, 240, 320)


def write(folder: Path) -> dict[str, Path]:
    """Write a file for each block, width and format, and for each border; return them by name."""
    torch.manual_seed(0)
    teacher = cut(deeplabv3_mobilenetv2(classes=11).eval(), stage_paths(), IMAGE, "fresh")
    files = {}
    for block in teacher.blocks:
        graph, noise = trace(block.module, block.input_shape), [torch.randn(1, *block.input_shape)]
        networks = {
            f"{block.name}@w8a{width}": calibrate(graph, noise, QuantScheme(8, width), float_tail=False, arbitrary=True)
            for width in WIDTHS
        }
        for before, after in (WIDTHS, WIDTHS[::-1]):
            crossing, widths = crossing_alone(block.input_shape, before, after)
            name = f"border before {block.name}, {before} to {after} bits"
            networks[name] = calibrate(crossing, noise, QuantScheme(8, 8), float_tail=False, widths=widths)
        for name, network in networks.items():
            for suffix in FORMATS:
                path = folder / f"{len(files)}.{suffix}"
                write_file(network, path, "u8s8", name, integer_ends=True)
                files[f"{name} as {suffix}"] = path
    return files


def main() -> None:
    """Measure, and keep what came out."""
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder))
        command = [sys.executable, "-m", "qaedge", "bench", *map(str, files.values()), "--json", "--quiet"]
        ran = subprocess.run([*command, "--wait", "10min"], capture_output=True, text=True, check=False)
        if ran.returncode:
            sys.exit(ran.stderr)
        rows = {Path(row["file"]).name: row for row in json.loads(ran.stdout)}
        taken_s = {name: rows[path.name]["median_s"] for name, path in files.items()}
    found = {}
    for suffix in FORMATS:
        mine = {name.removesuffix(f" as {suffix}"): s for name, s in taken_s.items() if name.endswith(f" as {suffix}")}
        blocks = [name.removesuffix("@w8a8") for name in mine if name.endswith("@w8a8")]
        ratios = {block: mine[f"{block}@w8a16"] / mine[f"{block}@w8a8"] for block in blocks}
        found[suffix] = {
            "ratio_least": min(ratios.values()),
            "ratio_median": statistics.median(ratios.values()),
            "ratio_most": max(ratios.values()),
            "ratio_whole": sum(mine[f"{b}@w8a16"] for b in blocks) / sum(mine[f"{b}@w8a8"] for b in blocks),
            "ratios": ratios,
            "median_s": mine,
        }
    told = {"date": datetime.now(timezone.utc).date().isoformat(), "machine": machine(), "image": IMAGE, **found}
    (HERE / "result.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
