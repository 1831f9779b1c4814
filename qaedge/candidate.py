"""A candidate: one alternative for a block, as a value that can be printed, parsed and compared.

A block's text is its layers joined by `+`; equal neighbors are folded, `r2_` meaning twice:
`ir_k3_s2_e6_c32+r2_ir_k3_s1_e6_c32`. Fields that a kind does not have are left out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

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
_SCHEME = re.compile(r"^w(?P<weights>[2-8][0-9a-z.]*)a(?P<activations>8|16)$")
_OTHER_ACTIVATIONS = re.compile(r"^(?P<weights>w[2-8][0-9a-z.]*)a(?P<activations>[0-9]+)$")
_MIX = re.compile(r"^([2-8])(?:dw([2-8]))?(?:fl([2-8]))?(?:s([1-9][0-9]?))?$")
_LIST = re.compile(r"^[2-8](?:\.[2-8])+$")
#: What a family of schemes is, for a number of weight bits: all layers alike; depthwise ones kept at 8, whose few
#: weights are spread widest; the first and the last kept at 8; both; the two most sensitive kept at 8.
FAMILY = ("w{}a8", "w{}dw8a8", "w{}fl8a8", "w{}dw8fl8a8", "w{}s2a8")
_FAMILY = re.compile(r"^w([2-7])\*$")
#: kind of a layer -> how many convolutions it has, and what adds one. `own` is not known here.
_CONVOLUTIONS = {"conv": 1, "ir": 2, "context": 2, "poolcontext": 4, "logits": 1}


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

    @property
    def convolutions(self) -> int | None:
        """How many layers with weights a runtime sees; None where only the teacher tells."""
        if any(layer.kind not in _CONVOLUTIONS for layer in self.layers):
            return None
        return sum(_CONVOLUTIONS[layer.kind] + _more(layer) for layer in self.layers)


def _more(layer: LayerSpec) -> int:
    """What a layer has beside the convolutions of its kind: an expansion, or a depthwise kernel before a head."""
    return int(layer.expansion > 1) if layer.kind == "ir" else int(layer.kernel > 1) if "context" in layer.kind else 0


class Mix(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which layers' weights have how many bits, where they are not all alike.

    Attributes:
        base: bits of the layers that nothing else is said of; 0 where `layers` says it all.
        depthwise: bits of depthwise convolutions; 0: as `base`.
        ends: bits of the block's first and last layer; 0: as `base`.
        sensitive: so many layers are kept at 8, those whose rounding costs the block most.
        layers: bits of each layer that has weights, in the order of the block.
    """

    base: int = 0
    depthwise: int = 0
    ends: int = 0
    sensitive: int = 0
    layers: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Return what stands between `w` and `a` in a scheme's text."""
        if self.layers:
            return ".".join(map(str, self.layers))
        kept = (("dw", self.depthwise), ("fl", self.ends), ("s", self.sensitive))
        return f"{self.base}" + "".join(f"{name}{value}" for name, value in kept if value)

    @property
    def widest(self) -> int:
        """The most bits that any layer has."""
        return max(self.base, self.depthwise, self.ends, 8 if self.sensitive else 0, *self.layers)


class QuantScheme(msgspec.Struct, frozen=True, omit_defaults=True):
    """How numbers are stored: bits of weights and activations; 32 and 32 is float.

    Weights are symmetric per output channel, activations per tensor: asymmetric of 8 bits, symmetric
    of 16. Fewer than 8 weight bits lie in 8-bit containers until a format that packs them is chosen:
    `w7a8` is what runtimes call "reduced range".

    Texts: `fp32`; `w8a8` (all layers alike); `w8.4.4.8a8` (a number for each layer that has
    weights, in the block's order); `w4dw8a8` (depthwise convolutions at 8), `w4fl8a8` (first and last
    layer at 8), `w4s2a8` (the two most sensitive layers at 8), and these together, in that order:
    `w2dw8fl8s1a8`. A layer of which several are said has the most of them.

    Attributes:
        weight_bits: of all layers, or the most that any has: it says which form of a file fits.
        activation_bits: of all tensors between layers.
        mix: which layers have fewer; None where all are alike.
    """

    weight_bits: int
    activation_bits: int
    mix: Mix | None = None

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return "fp32" if self.is_float else f"w{self.mix or self.weight_bits}a{self.activation_bits}"

    @staticmethod
    def parse(text: str) -> QuantScheme:
        """Return the scheme that `text` names; raise UsageError where it names none."""
        if text == "fp32":
            return QuantScheme(32, 32)
        match = _SCHEME.match(text)
        mix = _parse_mix(match["weights"]) if match else None
        if match is None or mix is None:
            others = _OTHER_ACTIVATIONS.match(text)
            if others is not None and _parse_mix(others["weights"][1:]) is not None:
                raise UsageError(
                    f"{text!r} has activations of {others['activations']} bits, which no runtime here holds.",
                    f"Activations have 8 bits, or 16: {others['weights']}a8. docs/schemes.md tells why.",
                )
            raise UsageError(
                f"{text!r} is not a quantization scheme.",
                "Known: fp32, w8a8, w7a8, w4a8, w2a8, w4dw8a8 (depthwise layers at 8 bits), w4fl8a8 (first and last), "
                "w4s2a8 (the 2 most sensitive), w8.4.4.8a8 (each layer's); in a space file w4*, for schemes of 4 bits "
                "and a8. What is kept has more bits than the rest; "
                "weights have 2 to 8 bits, activations 8 or 16.",
            )
        plain = mix == Mix(mix.base)
        return QuantScheme(mix.widest, int(match["activations"]), None if plain else mix)

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized."""
        return self.weight_bits == 32

    @property
    def keeps_sensitive(self) -> bool:
        """Whether which layers have how many bits depends on their weights."""
        return self.mix is not None and self.mix.sensitive > 0

    @property
    def fewest_bits(self) -> int:
        """The fewest bits that this scheme may give a layer's weights."""
        return self.weight_bits if self.mix is None else self.mix.base or min(self.mix.layers)

    def layer_bits(self, depthwise: Sequence[bool], sensitivity: Sequence[float] = ()) -> tuple[int, ...]:
        """Return the bits of each layer's weights.

        Args:
            depthwise: for each layer that has weights, in order: whether it is a depthwise convolution.
            sensitivity: what rounding each costs, in any unit; read where `mix.sensitive` asks for it.

        Raises:
            UsageError: the scheme names another number of layers than there are.
        """
        mix, count = self.mix, len(depthwise)
        if mix is None:
            return (self.weight_bits,) * count
        if mix.layers:
            if len(mix.layers) != count:
                raise UsageError(
                    f"{self} names {len(mix.layers)} layers; the block has {count} with weights.",
                    "Give one number for each, or a scheme without a list, such as w4dw8a8.",
                )
            return mix.layers
        bits = [max(mix.base, mix.depthwise if is_depthwise else 0) for is_depthwise in depthwise]
        for end in (0, count - 1) if count else ():
            bits[end] = max(bits[end], mix.ends)
        if mix.sensitive:
            costs = zip(sensitivity, range(count), strict=True)
            # What is kept at 8 anyway takes no place of those that need it.
            ranked = sorted(costs, key=lambda pair: (bits[pair[1]] >= 8, -pair[0], pair[1]))
            for _, layer in ranked[: mix.sensitive]:
                bits[layer] = 8
        return tuple(bits)


def _parse_mix(text: str) -> Mix | None:
    if _LIST.match(text):
        return Mix(layers=tuple(map(int, text.split("."))))
    match = _MIX.match(text)
    if match is None:
        return None
    base, depthwise, ends, sensitive = (int(part or 0) for part in match.groups())
    kept = [bits for bits in (depthwise, ends, 8 if sensitive else 0) if bits]
    return Mix(base, depthwise, ends, sensitive) if all(bits > base for bits in kept) else None


def expand_family(text: str) -> tuple[str, ...]:
    """Return the schemes that a text of a space file stands for: `w4*` for the family of 4 bits, else itself."""
    match = _FAMILY.match(text)
    return tuple(scheme.format(match[1]) for scheme in FAMILY) if match else (text,)


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
