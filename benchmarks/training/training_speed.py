"""What a training step takes, with and without what makes it quick: `python benchmarks/training/training_speed.py`.

A candidate of DeepLabV3-MobileNetV2's stage6 being distilled, on one thread as in each of distill's processes; the
whole network being fine-tuned under a guide, on all; and the first two epochs of generated scenes. Each in a process of
its own, in turns, for the C library's memory is not told twice; with `--one CASE VARIANT` one process prints its
seconds. Weights are fresh: they change no time. Writes result.json.
"""

from __future__ import annotations

import contextlib
import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch

from qaedge.files import write_json
from qaedge.nn import data, distill, finetune, processor
from qaedge.nn.deeplab import deeplabv3_mobilenetv2
from qaedge.nn.layout import lay_out
from qaedge.project import DataConfig, DistillConfig, FinetuneConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import machine

HERE = Path(__file__).resolve().parent
TURNS, STEPS = 5, 6
#: Variant -> what it leaves out.
VARIANTS = {
    "quick": (),
    "without quick dilation": ("dilation",),
    "without kept memory": ("memory",),
}
CASES = {
    "distill stage6": ("quick", "without quick dilation"),
    "fine-tune DeepLabV3": tuple(VARIANTS),
    "two epochs of scenes": ("quick", "drawn anew"),
}


@contextlib.contextmanager
def without(*parts: str) -> Iterator[None]:
    """Leave parts out of training."""
    if "dilation" in parts:
        for module in (distill, finetune):
            module.QuickDilation = contextlib.nullcontext  # type: ignore[attr-defined, misc, assignment]
    with contextlib.nullcontext() if "memory" in parts else processor.kept_memory():
        yield


def distill_stage6() -> Callable[[], None]:
    """Return a step of the distillation of a block as large as the teacher's own."""
    torch.set_num_threads(1)
    block = torch.nn.Sequential(*list(deeplabv3_mobilenetv2(classes=11).eval().features)[14:18])
    inputs = torch.randn(8, 96, 23, 30)
    with torch.no_grad():
        outputs = block(inputs)
    sample = distill.Sample(
        "stage6", tuple(range(8)), (0,), inputs.numpy(), outputs.numpy(), outputs.var((0, 2, 3)), False
    )
    lay_out(block, torch.channels_last)
    config = DistillConfig(steps=1, batch=4)

    def step() -> None:
        distill._train(block, sample, config, 1e-6, torch.device("cpu"))

    return step


def finetune_whole() -> Callable[[], None]:
    """Return a step of the fine-tuning of the whole network, guided by a copy."""
    student = deeplabv3_mobilenetv2(classes=11)
    lay_out(student, torch.channels_last)
    guide = copy.deepcopy(student).eval()
    finetune._train_mode(student, freeze_batch_norm=True)
    optimizer = finetune._optimizer(student, 1e-6, ())
    images = torch.randn(8, 3, 256, 320).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 11, (8, 256, 320), dtype=torch.uint8)

    def step() -> None:
        with finetune.QuickDilation():
            loss = finetune._loss(student, guide, images, labels, 1.0)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def epochs_of_scenes() -> Callable[[], None]:
    """Return the drawing of the demo's training images, twice."""

    def epochs() -> None:
        split = data.open_split(DataConfig("scenes", 128, 192, count=160), None, "train")
        config, random = FinetuneConfig(crop=(128, 192)), np.random.default_rng(0)
        for _ in range(2):
            order = random.permutation(len(split))
            for at in range(0, len(split), 8):
                finetune._batch(split, order[at : at + 8], config, random)

    return epochs


def one(case: str, variant: str) -> float:
    """Return the median seconds of a step, in this process."""
    torch.manual_seed(0)
    if variant == "drawn anew":
        data.KEPT_BYTES = 0
    with without(*VARIANTS.get(variant, ())):
        step = {
            "distill stage6": distill_stage6,
            "fine-tune DeepLabV3": finetune_whole,
            "two epochs of scenes": epochs_of_scenes,
        }[case]()
        times = []
        for _ in range(STEPS if "scenes" not in case else 1):
            begun = time.perf_counter()
            step()
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def main() -> None:
    """Time each variant in turns, and write down medians, ranges and ratios to the quick one."""
    if sys.argv[1:2] == ["--one"]:
        print(one(*sys.argv[2:]))
        return
    rows = []
    for case, variants in CASES.items():
        found: dict[str, list[float]] = {variant: [] for variant in variants}
        for _ in range(TURNS):
            for variant, times in found.items():
                command = [sys.executable, __file__, "--one", case, variant]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                times.append(float(done.stdout))
        for variant, times in found.items():
            ratios = [mine / quick for mine, quick in zip(times, found["quick"], strict=True)]
            rows.append(
                {
                    "case": case,
                    "variant": variant,
                    "median_seconds": statistics.median(times),
                    "range_seconds": [min(times), max(times)],
                    "over_quick": statistics.median(ratios),
                    "over_quick_range": [min(ratios), max(ratios)],
                }
            )
            print(
                f"{case}, {variant}: {statistics.median(times):.3f} s, {statistics.median(ratios):.2f} times the quick"
            )
    write_json(
        HERE / "result.json",
        {"turns": TURNS, "rows": rows, "machine": machine(), "date": datetime.now(timezone.utc).date().isoformat()},
    )


if __name__ == "__main__":
    main()
