"""A candidate: one alternative for a block, as a value that can be printed, parsed and compared.

A block's text is its layers joined by `+`; equal neighbors are folded, `r2_` meaning twice:
`ir_k3_s2_e6_c32+r2_ir_k3_s1_e6_c32`. Fields that a kind does not have are left out.
"""

from __future__ import annotations

import itertools
import re

import msgspec

from qaedge.errors import UsageError

#: kind -> the fields its text carries, in order (short letter, attribute).
LAYER_FIELDS: dict[str, tuple[tuple[str, str], ...]] = {
    "conv": (("k", "kernel"), ("s", "stride"), ("c", "channels"), ("d", "dilation")),
    "ir": (("k", "kernel"), ("s", "stride"), ("e", "expansion"), ("c", "channels"), ("d", "dilation")),
    "context": (("k", "kernel"), ("c", "channels"), ("d", "dilation")),
    "poolcontext": (("k", "kernel"), ("c", "channels"), ("d", "dilation")),
    "logits": (("c", "channels"),),
    "own": (),
}
_OPTIONAL = {"dilation"}
_NUMBER = re.compile(r"^[1-9][0-9]{0,5}$")
_REPEAT = re.compile(r"^r([0-9]+)_(.+)$")
_MOST_REPEATS = 1000
_SCHEME = re.compile(r"^w([2-8])a(8|16)$")


class LayerSpec(msgspec.Struct, frozen=True):
    """One layer of a block.

    Kinds: `conv` (convolution, batch norm, ReLU6), `ir` (inverted residual), `context` and
    `poolcontext` (a segmentation head without and with image pooling), `logits` (1x1
    convolution with bias), `own` (the teacher's own block; `digest` tells which).
    """

    kind: str
    kernel: int = 1
    stride: int = 1
    expansion: int = 1
    channels: int = 0
    dilation: int = 1
    digest: str = ""

    def __post_init__(self) -> None:
        """Refuse a kind that has no text."""
        if self.kind not in LAYER_FIELDS:
            # As a decoder words it, so that a file's error names the place and both halves.
            raise ValueError(f"Expected `one of {', '.join(LAYER_FIELDS)}`, got `{self.kind}`")

    def __str__(self) -> str:
        """Return the text that `BlockSpec.parse` reads."""
        if self.kind == "own":
            return f"own_{self.digest}"
        parts = [self.kind]
        for letter, field in LAYER_FIELDS[self.kind]:
            value = getattr(self, field)
            if field not in _OPTIONAL or value != 1:
                parts.append(f"{letter}{value}")
        return "_".join(parts)

    @staticmethod
    def parse(text: str) -> LayerSpec:
        """Return the layer that `text` names; raise UsageError where it names none."""
        kind, _, rest = text.partition("_")
        if kind == "own" and re.fullmatch(r"[0-9a-f]{6,64}", rest):
            return LayerSpec(kind="own", digest=rest)
        fields = {letter: field for letter, field in LAYER_FIELDS.get(kind, ())}
        values: dict[str, int] = {}
        for part in rest.split("_"):
            if part[:1] not in fields or not _NUMBER.match(part[1:]) or fields[part[0]] in values:
                raise UsageError(
                    f"{text!r} is not a layer.",
                    f"Layers look like ir_k3_s2_e6_c32; kinds: {', '.join(LAYER_FIELDS)}.",
                )
            values[fields[part[0]]] = int(part[1:])
        missing = [field for field in fields.values() if field not in values and field not in _OPTIONAL]
        if not fields or missing:
            raise UsageError(f"{text!r} is not a layer: {', '.join(missing) or 'unknown kind'}.")
        return msgspec.structs.replace(LayerSpec(kind), **values)


class BlockSpec(msgspec.Struct, frozen=True):
    """The layers of a block, first to last."""

    layers: tuple[LayerSpec, ...]

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        parts = []
        for layer, run in itertools.groupby(self.layers):
            count = len(list(run))
            parts.append(f"r{count}_{layer}" if count > 1 else str(layer))
        return "+".join(parts)

    @staticmethod
    def parse(text: str) -> BlockSpec:
        """Return the block that `text` names; raise UsageError where it names none."""
        layers: list[LayerSpec] = []
        for part in text.split("+"):
            repeat = _REPEAT.match(part)
            count = int(repeat.group(1)) if repeat else 1
            if not 1 <= count <= _MOST_REPEATS:
                raise UsageError(f"{part!r} repeats a layer {count} times.", f"From 1 to {_MOST_REPEATS}.")
            layers += [LayerSpec.parse(repeat.group(2) if repeat else part)] * count
        return BlockSpec(tuple(layers))

    @property
    def is_own(self) -> bool:
        """Whether this is the teacher's own block."""
        return self.layers[0].kind == "own"


class QuantScheme(msgspec.Struct, frozen=True):
    """How numbers are stored: bits of weights and activations; 32 and 32 is float.

    Weights are symmetric per output channel, activations asymmetric per tensor. Fewer than 8
    weight bits lie in 8-bit containers until a format that packs them is chosen: `w7a8` is what
    runtimes call "reduced range".
    """

    weight_bits: int
    activation_bits: int

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return "fp32" if self.is_float else f"w{self.weight_bits}a{self.activation_bits}"

    @staticmethod
    def parse(text: str) -> QuantScheme:
        """Return the scheme that `text` names; raise UsageError where it names none."""
        if text == "fp32":
            return QuantScheme(32, 32)
        match = _SCHEME.match(text)
        if match is None:
            raise UsageError(f"{text!r} is not a quantization scheme.", "Known: fp32, w8a8, w7a8.")
        return QuantScheme(int(match.group(1)), int(match.group(2)))

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized."""
        return self.weight_bits == 32


class Candidate(msgspec.Struct, frozen=True):
    """One alternative for a block: what it is, how it is quantized, and what goes in.

    It knows no position, no weights and no device, so equal candidates share a measurement.
    `input_shape` is (channels, height, width); the batch is one.
    """

    spec: BlockSpec
    scheme: QuantScheme
    input_shape: tuple[int, int, int]

    @property
    def key(self) -> str:
        """The name under which tables keep this candidate; stable across runs and versions."""
        return f"{self.spec}@{self.scheme}@{'x'.join(map(str, self.input_shape))}"
