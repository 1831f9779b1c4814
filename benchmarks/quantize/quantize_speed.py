"""How long it takes to quantize a candidate and score it: observed once, then each step of a recipe, per scheme.

The largest block of DeepLabV3-MobileNetV2, stage6, of the teacher given for CamVid at 360x480 (96x23x30 in, 320x23x30
out): `QAEDGE_DATA=... python benchmarks/quantize/quantize_speed.py`. One thread, as in each of distill's processes. The
least of several wall times, for others may use the machine, and the least processor time. Writes result.json.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file

from qaedge import __version__
from qaedge.candidate import QuantScheme
from qaedge.files import write_json
from qaedge.nn.data import open_split
from qaedge.nn.deeplab import deeplabv3_mobilenetv2
from qaedge.nn.distill import SCORED, Sample, score
from qaedge.nn.recipe import STEPS, Bench, State, quantize
from qaedge.nn.tracing import trace
from qaedge.project import DataConfig, QuantizeConfig

T = TypeVar("T")
SHAPE, IMAGES, CALIBRATION = (96, 23, 30), 64, 32
SCHEMES = ("w8a8", "w4a8", "w2a8", "w4dw8a8", "w4s2a8")


def timed(work: Callable[[], T], repeats: int = 3) -> tuple[dict[str, float], T]:
    """Return the least wall time and the least processor time [s], and the last answer."""
    walls, processors = [], []
    for _ in range(repeats):
        begun, used = time.perf_counter(), time.process_time()
        answer = work()
        walls.append(time.perf_counter() - begun)
        processors.append(time.process_time() - used)
    return {"wall": round(min(walls), 3), "processor": round(min(processors), 3)}, answer


def load_block() -> tuple[torch.nn.Module, Sample]:
    """Return the block, and what goes in and comes out for some training images."""
    data = Path(os.environ["QAEDGE_DATA"])
    network = deeplabv3_mobilenetv2(classes=11).eval()
    network.load_state_dict(load_file(data / "teachers" / "deeplabv3_mobilenetv2_camvid.safetensors"))
    layers = list(network.features)
    before, block = torch.nn.Sequential(*layers[:14]).eval(), torch.nn.Sequential(*layers[14:18]).eval()
    config = DataConfig("camvid", 360, 480, str(data / "camvid"), classes=tuple(map(str, range(11))), void=(11,))
    split = open_split(config, data / "camvid", "train")
    given, out = [], []
    with torch.no_grad():
        for i in range(IMAGES):
            given.append(before(split.preprocess(split.image(i * (len(split) // IMAGES))[None])))
            out.append(block(given[-1]))
    inputs, outputs = torch.cat(given), torch.cat(out)
    scored = tuple(range(0, IMAGES, IMAGES // SCORED[1]))
    train = tuple(i for i in range(IMAGES) if i not in scored)
    return block, Sample("stage6", train, scored, *(_half(t) for t in (inputs, outputs)), outputs.var((0, 2, 3)), False)


def _half(values: torch.Tensor) -> np.ndarray[Any, Any]:
    return values.numpy().astype(np.float16)


def main() -> None:
    """Time it, and write the figures down."""
    torch.set_num_threads(1)
    block, sample = load_block()
    graph = trace(block, SHAPE)
    config = QuantizeConfig()
    observed, bench = timed(lambda: Bench(graph, sample, CALIBRATION))
    nearest, _ = timed(lambda: quantize(bench, QuantScheme(8, 8), config, ()))
    schemes = {}
    for text in SCHEMES:
        # A new bench each time, so that what is found once for all schemes is found in this time, too.
        schemes[text], found = timed(
            lambda text=text: quantize(Bench(graph, sample, CALIBRATION), QuantScheme.parse(text), config), 2
        )
        print(text, found.recipe, schemes[text], flush=True)
    steps = {}
    state = State(bench.nearest(QuantScheme(4, 8)), bench.graph)
    for name, step in STEPS.items():
        steps[name], after = timed(lambda step=step, state=state: step(bench, state, config), 1)
        if name != "equalize":  # it is not among the steps that distill takes
            state = after
        print(name, steps[name], flush=True)
    result = {
        "seconds": {
            "observe_once_per_candidate": observed,
            "nearest_and_score": nearest,
            "score_alone": timed(lambda: score(state.network.freeze(), sample))[0],
            "whole_by_scheme": schemes,
            "step_at_4_bits": steps,
        },
        "settings": {"steps_of_few_bit": list(config.few_bit), "reconstruct_steps": config.reconstruct_steps},
        "machine": {
            "arch": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load_1min": round(os.getloadavg()[0], 2),
        },
        "versions": {"qaedge": __version__, "python": platform.python_version(), "torch": str(torch.__version__)},
        "date": str(datetime.now(timezone.utc).date()),
    }
    write_json(Path(__file__).with_name("result.json"), result)


if __name__ == "__main__":
    main()
