"""`distill` on what no range can be read from: one error, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from tiny_scenes import write_project

from qaedge.project import Workspace


def spoil(folder: Path, change) -> None:
    """Change the teacher's weights: name -> tensor."""
    path = folder / "teacher.safetensors"
    weights = safetensors.torch.load_file(path)
    change(weights)
    path.write_bytes(safetensors.torch.save(weights))


def norms(weights, prefix: str) -> list[str]:
    """The batch norms below a prefix."""
    return [name[: -len("running_mean")] for name in weights if name.startswith(prefix) and "running_mean" in name]


def dead_end(weights) -> None:
    for name in norms(weights, "features.0.") + norms(weights, "features.1."):
        weights[f"{name}weight"].zero_()
        weights[f"{name}bias"].zero_()


def dead_inside(weights) -> None:
    name = norms(weights, "features.1.")[0]  # a residual goes past it
    weights[f"{name}weight"].zero_()
    weights[f"{name}bias"].fill_(-1)


def not_a_number(weights) -> None:
    weights[f"{norms(weights, 'features.1.')[0]}bias"][0] = torch.nan


def too_large(weights) -> None:
    weights[f"{norms(weights, 'features.1.')[0]}weight"].fill_(3e38)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dead_end, "The block 'stage1' puts out the same numbers everywhere in all 12 images"),
        (dead_inside, "The teacher's own block 'stage1' cannot be quantized. The layer "),
        (not_a_number, "hold NaN or infinity in 1 of their tensors (features.1."),
        (too_large, "not finite"),
    ],
)
def test_a_teacher_without_ranges_is_one_error(change, said, tmp_path, qaedge):
    write_project(tmp_path)
    spoil(tmp_path, change)
    ran = qaedge("distill", "--project", tmp_path / "qaedge.toml", "--quiet")
    assert ran.status == 1 and ran.out == "", ran.err
    assert ran.err.count("error:") == 1 and "warning:" not in ran.err and said in ran.err, ran.err
    assert not list(Workspace.open(tmp_path / "qaedge.toml").results.rglob("loss.jsonl"))


def test_images_of_one_color_are_one_error(tmp_path, qaedge):
    workspace = write_project(tmp_path)
    layout = 'layout = "camvid"\npath = "images"\nclasses = ["a", "b", "c", "d", "e", "f", "g", "h"]'
    workspace.file.write_text(workspace.file.read_text().replace('layout = "scenes"', layout))
    for split in ("train", "val"):
        for kind, depth in (("images", 3), ("labels", 1)):
            (tmp_path / "images" / split / kind).mkdir(parents=True)
            pixels = np.zeros((32, 48, 3)[: 2 + (depth > 1)], np.uint8)
            for number in range(5):
                Image.fromarray(pixels).save(tmp_path / "images" / split / kind / f"{number}.png")
    ran = qaedge("distill", "--project", workspace.file, "--quiet")
    assert ran.status == 1 and ran.err.count("error:") == 1 and "nothing but one color" in ran.err, ran.err
