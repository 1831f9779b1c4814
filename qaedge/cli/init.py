"""`qaedge init`: a project file and a space file, with every key explained."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from qaedge import report
from qaedge.cli import options
from qaedge.errors import QaedgeError
from qaedge.files import write_atomic
from qaedge.project import FILE_NAME

EXAMPLES = ("qaedge init", "qaedge init --data camvid --project camvid/qaedge.toml")
SPACE_NAME = "space.toml"

_PROJECT = """\
# A qaedge project: what is made small and fast, with which images, for which device.
# Paths are relative to this file; $NAME is taken from the environment.

space = "space.toml"     # what may take the place of each block
device = "local"         # where to measure: qaedge devices
results = "results"      # everything that qaedge writes

[teacher]
# Any function that returns a torch.nn.Module: "module:function", called with `arguments`.
function = "qaedge.nn.deeplab:deeplabv3_mobilenetv2"
{weights}
[teacher.arguments]
{arguments}
# Name -> path of a submodule, or of a slice of an nn.Sequential, in the order of the network.
# A block has one tensor in and one out.
[teacher.blocks]
stage1 = "features[0:2]"
stage2 = "features[2:4]"
stage3 = "features[4:7]"
stage4 = "features[7:11]"
stage5 = "features[11:14]"
stage6 = "features[14:18]"
head = "head"

[data]
{data}
mean = [0.5, 0.5, 0.5]   # the network sees (x / 255 - mean) / std, per RGB channel
std = [0.5, 0.5, 0.5]

[limits]
# A quantity with a unit, or a share of the teacher's own in the same scheme. Empty: no limit.
latency = "75%"          # for instance "25ms"
size = ""                # for instance "1.2MiB"

[distill]
# Each candidate is trained alone to imitate its block of the teacher.
steps = 120              # optimizer steps per candidate
batch = 8
learning_rate = 1e-3     # of candidates that start from the teacher's weights
workers = 0              # candidates trained at the same time; 0: one per core
cache = "2GiB"           # bound of the teacher's features on disk
calibration_images = 32  # from which the ranges of activations are read
seed = 0

[quantize]
# The steps after rounding to the nearest, taken in this order: "ranges" (searched by squared error), "equalize"
# (of channels), "biases" (corrected), "rounding" (learned), "reconstruct" (by gradients of the block loss; slow).
few_bit = ["ranges", "rounding"]  # for schemes with some weights of 6 bits or fewer
int8 = []                # for the others
images = 16              # calibration images that rounding is learned on, at most
reconstruct_steps = 60   # optimizer steps of "reconstruct", each on so many images:
reconstruct_batch = 2
seed = 0

[finetune]
# The chosen network, end to end, guided by the teacher.
epochs = {epochs}
batch = 8
learning_rate = 5e-4
quantized_epochs = 4     # then on the grids of the INT8 file, until it gains no more; few-bit weights need it
quantized_learning_rate = 1e-4
crop = {crop}  # height, width
guidance = 1.0           # weight of the teacher's logits beside the labels
block_guidance = 0.1     # weight of the blocks' outputs, on the grids
freeze_batch_norm = true # its statistics stay as they were distilled
bfloat16 = false         # half precision inside, where the processor knows it (AVX512-BF16, AMX): twice as fast
seed = 0
"""

_SPACE = """\
# The search space: for each block of qaedge.toml, axes whose product is enumerated. Shapes come from
# the teacher, and candidate 0 of each block is the teacher's own. See it with: qaedge space
#
# kinds: stem               a strided 3x3 convolution, then inverted residuals
#        inverted_residual  `depths` layers: expand by `expansions`, filter with `kernels`, project
#        context            a segmentation head, with or without image pooling, `widths` channels inside
#
# schemes: "w8a8", or "w7a8": weights use 7 of their 8 bits. On x86 without VNNI only that is both fast and
# free of saturation; the size of the file is the same. Fewer bits make it smaller: "w4a8", or "w4dw8a8" with
# depthwise layers kept at 8, "w4fl8a8" with a block's first and last layer, "w4s2a8" with its two most sensitive;
# "w4*" stands for the usual ones. "fp32": in float, for networks that are so as a whole.

name = "{name}"

[[block]]
name = "stage1"
kind = "stem"
depths = [1, 2]
kernels = {stem_kernels}
expansions = [1]
widths = [{stem_widths}]
schemes = ["w7a8"]
{stages}
[[block]]
name = "head"
kind = "context"
kernels = [1, 3]
widths = [{head_widths}]
pooling = [true, false]
dilation = 2             # of kernels above 1
schemes = ["w7a8"]
"""

_STAGE = """
[[block]]
name = "stage{number}"
kind = "inverted_residual"
depths = {depths}
kernels = [3, 5]
expansions = [2, 3, 4, 6]
{dilation}schemes = ["w7a8"]
"""

_CAMVID = """\
layout = "camvid"        # SPLIT/images/NAME.png or .jpg, SPLIT/labels/NAME.png with 8-bit class ids
path = "{path}"
train_split = "train"
val_split = "val"
height = 360             # what the network sees [pixels]
width = 480
# In the order of the label ids.
classes = [
    "sky", "building", "pole", "road", "pavement", "tree",
    "sign", "fence", "car", "pedestrian", "bicyclist",
]
void = [11, 255]         # label ids that do not count"""

_CITYSCAPES = """\
layout = "cityscapes"    # leftImg8bit/SPLIT/CITY/*.png, gtFine/SPLIT/CITY/*_labelIds.png; the official 19 classes
path = "{path}"
train_split = "train"
val_split = "val"
height = 512             # what the network sees [pixels]
width = 1024"""

_SCENES = """\
layout = "scenes"        # generated street scenes, eight classes: nothing to download
height = 128             # what the network sees [pixels]
width = 192
count = 128              # training images; a quarter as many for validation"""

_TRAINED = 'weights = "{path}"   # safetensors, or a .pt with a state dict'
_UNTRAINED = 'weights = "teacher.safetensors"  # `qaedge teacher train` writes it; or safetensors or a .pt of your own'


class Layout(str, Enum):
    """The forms of data that a project can start from."""

    camvid = "camvid"
    cityscapes = "cityscapes"
    scenes = "scenes"


class Preset(msgspec.Struct, frozen=True):
    """What differs between the projects of two layouts; each value is TOML text."""

    data: str
    arguments: str
    weights: str
    epochs: int
    crop: str
    stem_kernels: str
    stem_widths: str
    head_widths: str
    depths: tuple[str, str]  # for small stages, for large ones


PRESETS: dict[Layout, Preset] = {
    Layout.camvid: Preset(
        data=_CAMVID.format(path="$QAEDGE_DATA/camvid"),
        arguments="classes = 11\n",
        weights=_TRAINED.format(path="$QAEDGE_DATA/teachers/deeplabv3_mobilenetv2_camvid.safetensors"),
        epochs=12,
        crop="[256, 320]",
        stem_kernels="[3, 5, 7]",
        stem_widths="8, 16, 24, 32",
        head_widths="32, 64, 96, 128, 192, 256",
        depths=("[1, 2, 3]", "[1, 2, 3, 4]"),
    ),
    Layout.cityscapes: Preset(
        data=_CITYSCAPES.format(path="$CITYSCAPES_DATASET"),
        arguments="classes = 19\n",
        weights=_TRAINED.format(path="teacher.safetensors"),
        epochs=12,
        crop="[512, 512]",
        stem_kernels="[3, 5, 7]",
        stem_widths="8, 16, 24, 32",
        head_widths="32, 64, 96, 128, 192, 256",
        depths=("[1, 2, 3]", "[1, 2, 3, 4]"),
    ),
    Layout.scenes: Preset(
        data=_SCENES,
        arguments="classes = 8\nwidth = 0.5  # factor on the channels of the backbone\nhead_channels = 64\n",
        weights=_UNTRAINED,
        epochs=6,
        crop="[96, 128]",
        stem_kernels="[3, 5]",
        stem_widths="8, 16",
        head_widths="32, 64",
        depths=("[1, 2]", "[1, 2]"),
    ),
}


def run(
    data: Annotated[Layout, typer.Option("--data", help="The form of the images and labels.")] = Layout.scenes,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    project: options.Project = None,
    quiet: options.Quiet = False,
) -> None:
    """Write a project file and a space file, every key explained.

    `scenes` works at once, on generated street scenes, and its teacher is trained with `qaedge teacher
    train`. `camvid` and `cityscapes` read your images; look at data.path and teacher.weights after writing.
    """
    file = project or Path(FILE_NAME)
    preset = PRESETS[data]
    written = {
        file: project_text(preset),
        file.parent / SPACE_NAME: space_text(preset, data.value),
    }
    there = [str(path) for path in written if path.exists()]
    if there and not force:
        raise QaedgeError(
            f"{' and '.join(there)} {'is' if len(there) == 1 else 'are'} there already; nothing was written.",
            "Overwrite with --force, or name another place with --project.",
        )
    for path, text in written.items():
        write_atomic(path, text.encode())
        report.line(f"wrote {path}")
    if data is not Layout.scenes:
        report.note(f"Look at data.path and teacher.weights in {file} first.", quiet)
    report.note("Next: qaedge teacher train" if data is Layout.scenes else "Next: qaedge teacher check", quiet)


def project_text(preset: Preset) -> str:
    """Return a whole qaedge.toml."""
    return _PROJECT.format(
        data=preset.data,
        arguments=preset.arguments,
        weights=preset.weights + "\n",
        epochs=preset.epochs,
        crop=f"{preset.crop:<16}",
    )


def space_text(preset: Preset, name: str) -> str:
    """Return a whole space.toml."""
    small, large = preset.depths
    stages = "".join(
        _STAGE.format(
            number=number,
            depths=large if number in (4, 6) else small,
            dilation="dilation = 2             # as the teacher has it there\n" if number == 6 else "",
        )
        for number in range(2, 7)
    )
    return _SPACE.format(
        name=name,
        stages=stages,
        stem_kernels=preset.stem_kernels,
        stem_widths=preset.stem_widths,
        head_widths=preset.head_widths,
    )
