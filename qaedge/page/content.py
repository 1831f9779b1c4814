"""What the page shows, as plain data: it is embedded in the page as JSON, and tested without a browser.

Units are in the names: `_s` seconds, `_bytes` bytes; losses are noise over signal, 0 being a copy of
the teacher. What is not known is None, and never a number. A network names its candidates by their
places in the blocks, and its kind of file by its place in `Content.kinds`.
"""

from __future__ import annotations

import msgspec

from qaedge.fit import Fit


class Convolution(msgspec.Struct, frozen=True):
    """A layer with weights: what it is ("3x3 depthwise"), its channels, and the bits of its weights."""

    name: str
    given: int
    out: int
    bits: int | None


class Layer(msgspec.Struct, frozen=True):
    """A layer of a candidate as it is drawn; `stride`, `expansion` and `dilation` are 1 where it has none."""

    kind: str
    text: str
    kernel: int
    stride: int
    expansion: int
    channels: int
    dilation: int
    convolutions: tuple[Convolution, ...]


class Cost(msgspec.Struct, frozen=True):
    """What a candidate costs alone, as a file of one format, and reasons to distrust it.

    The latency is the median without the call that it was measured by [s], its standard error beside it [s].
    """

    latency_s: float
    error_s: float
    size_bytes: int
    doubts: tuple[str, ...]


class CandidateView(msgspec.Struct, frozen=True):
    """A candidate of a block; `costs` has an entry for each of `Content.formats`, None where it was not measured.

    `bits` are those of the layers with weights, in order, where they are known and the candidate is
    the teacher's own, whose layers the space does not tell.
    """

    spec: str
    scheme: str
    is_own: bool
    is_float: bool
    weight_bits: int
    layers: tuple[Layer, ...]
    bits: tuple[int, ...]
    loss: float | None
    float_loss: float | None
    recipe: str
    costs: tuple[Cost | None, ...]


class BlockView(msgspec.Struct, frozen=True):
    """A block: shapes are (channels, height, width)."""

    name: str
    input_shape: tuple[int, int, int]
    output_shape: tuple[int, int, int]
    candidates: tuple[CandidateView, ...]


class Kind(msgspec.Struct, frozen=True):
    """A kind of file that networks may be: a format, in float or in integers, and the teacher as such a file.

    `own` are the places of the teacher's own blocks; `fit` is how much of a difference between blocks alone is left
    in whole networks.
    """

    name: str
    format: int
    is_float: bool
    own: tuple[int, ...]
    teacher_latency_s: float
    teacher_error_s: float
    teacher_size_bytes: int
    teacher_loss: float | None
    fit: Fit


class Network(msgspec.Struct, frozen=True, omit_defaults=True):
    """A network, with what is predicted of it; `kind` is None where no problem could be made of its kind of file."""

    kind: int | None
    indices: tuple[int, ...]
    latency_s: float | None
    size_bytes: float | None
    loss: float | None
    error_s: float | None = None


class Built(msgspec.Struct, frozen=True):
    """A file that was built of a network: where its scores come from, and its mIoU on the validation images."""

    file: str
    size_bytes: int
    miou: float


class Chosen(msgspec.Struct, frozen=True):
    """A network that was chosen: by a file of `qaedge search`, or as the best within a limit."""

    name: str
    origin: str
    network: Network
    limits: dict[str, float]
    built: Built | None = None


class Measured(msgspec.Struct, frozen=True):
    """A network that was measured whole; `is_fitted` where it took part in what predicts (the slope)."""

    name: str
    network: Network
    measured_s: float
    error_s: float
    size_bytes: int
    doubts: tuple[str, ...]
    is_fitted: bool


class Agreement(msgspec.Struct, frozen=True):
    """How well predictions of one kind of file hold: shares, and the rank correlation (None below three networks)."""

    kind: int
    networks: int
    fitted: int
    mape: float
    within_5: float
    within_10: float
    spearman: float | None
    worst: str
    worst_error: float


class Panel(msgspec.Struct, frozen=True):
    """A picture: what it is, a data URI, and the image's own mIoU where it is a network's."""

    title: str
    source: str
    miou: float | None = None


class Picture(msgspec.Struct, frozen=True):
    """An image of the data set, and what the label and each network make of it."""

    name: str
    panels: tuple[Panel, ...]


class ClassColor(msgspec.Struct, frozen=True):
    """A class and its color in the pictures, "#rrggbb"."""

    name: str
    color: str


class Doubt(msgspec.Struct, frozen=True):
    """A reason to distrust rows: how many have it, as which kind of file, and what it means."""

    name: str
    format: str
    rows: int
    meaning: str


class Condition(msgspec.Struct, frozen=True):
    """Something that was read on the device: what, and its values over the rows of each of `Content.formats`."""

    name: str
    values: tuple[str, ...]


class Content(msgspec.Struct, frozen=True):
    """All of it.

    Attributes:
        title: of the page.
        space, space_hash, teacher: what was searched; the hashes as the tables have them.
        device, device_description: where it was measured.
        networks_in_all: how many networks the space holds.
        formats: of the files that were measured: "onnx", "tflite".
        summed: what is summed over a network's blocks and called its loss: "block loss", or "harm" where block losses
            are weighed by what they do to the teacher's classes (`qaedge.influence`).
        kinds: of files that networks may be.
        blocks: in the order of the network.
        fronts: "latency" and "size" -> places in `networks`, cheapest first.
        networks: every network on one of the fronts.
        chosen, measured, agreement, pictures, classes, conditions, doubts: see their types.
        missing: what is not on the page, why, and what brings it there.
        warnings: what makes numbers of this page doubtful.
        version: of qaedge.
        teacher_built: format -> the teacher's file of that format.
    """

    title: str
    space: str
    space_hash: str
    teacher: str
    device: str
    device_description: str
    networks_in_all: int
    formats: tuple[str, ...]
    summed: str
    kinds: tuple[Kind, ...]
    blocks: tuple[BlockView, ...]
    fronts: dict[str, tuple[int, ...]]
    networks: tuple[Network, ...]
    chosen: tuple[Chosen, ...]
    measured: tuple[Measured, ...]
    agreement: tuple[Agreement, ...]
    conditions: tuple[Condition, ...]
    doubts: tuple[Doubt, ...]
    missing: tuple[str, ...]
    warnings: tuple[str, ...]
    version: str
    teacher_built: dict[str, Built] = {}
    pictures: tuple[Picture, ...] = ()
    classes: tuple[ClassColor, ...] = ()
