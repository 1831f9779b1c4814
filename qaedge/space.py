"""The search space: the candidates of each block, enumerated from TOML.

A space file names axes; the shapes they apply to come from the teacher. Resolving one against
the other (`SpaceFile.resolve`) gives a `SearchSpace`, which is saved as JSON: everything that
does not need torch (search, tables, bench) reads that.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from qaedge.candidate import BlockSpec, Candidate, LayerSpec, QuantScheme, expand_family
from qaedge.errors import InvalidFile, QaedgeError, UsageError
from qaedge.files import decode_json, decode_toml, write_json

Shape = tuple[int, int, int]


class Axes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The axes of one block; their product is enumerated.

    Attributes:
        name: the block, as in the project file.
        kind: `inverted_residual`, `stem` or `context`.
        depths: numbers of layers.
        kernels: sizes of the depthwise kernel.
        expansions: expansion factors of inverted residuals.
        widths: channels of the layers before the last; empty means as many as go out.
        pooling: for `context`: with image pooling, without, or both.
        first_dilation: dilation of the first layer's depthwise kernel.
        dilation: dilation of every depthwise kernel after it.
        schemes: quantization schemes, such as "w8a8" (`QuantScheme`); "w4*" stands for the family of 4 bits
            (`candidate.FAMILY`). One that lists each layer's bits holds for candidates of as many layers.
    """

    name: str
    kind: str = "inverted_residual"
    depths: tuple[int, ...] = (1,)
    kernels: tuple[int, ...] = (3,)
    expansions: tuple[int, ...] = (6,)
    widths: tuple[int, ...] = ()
    pooling: tuple[bool, ...] = (True,)
    first_dilation: int = 1
    dilation: int = 1
    schemes: tuple[str, ...] = ("w8a8",)

    @property
    def all_schemes(self) -> tuple[str, ...]:
        """The texts of the schemes, families expanded, each once."""
        return tuple(dict.fromkeys(itertools.chain.from_iterable(map(expand_family, self.schemes))))


class SpaceFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A space as its author wrote it."""

    name: str
    block: tuple[Axes, ...]

    @staticmethod
    def read(path: Path) -> SpaceFile:
        """Decode and check a space file; raise InvalidFile naming the key that is wrong."""
        space = decode_toml(path, SpaceFile, hint="Write one with: qaedge init")
        written = decode_toml(path, dict[str, Any])["block"]  # a struct does not tell what was left out
        if not space.block:
            raise InvalidFile(path, "block", "at least one block", "none")
        seen: set[str] = set()
        for index, axes in enumerate(space.block):
            where = f"block[{index}]"
            if axes.name in seen:
                raise InvalidFile(path, f"{where}.name", "each block once", repr(axes.name))
            seen.add(axes.name)
            _check(path, where, axes, written[index])
        return space

    def resolve(
        self,
        shapes: dict[str, tuple[Shape, Shape]],
        own: dict[str, str],
        teacher: str,
        data: str = "",
        layers: Mapping[str, int] | None = None,
    ) -> SearchSpace:
        """Enumerate the candidates of each block.

        Args:
            shapes: block name -> input and output shape, (channels, height, width) each.
            own: block name -> digest of the teacher's own block.
            teacher: digest of the whole teacher.
            data: digest of what images it sees; `DataConfig.digest`.
            layers: block name -> how many layers with weights the teacher's own has, where that is known.

        Raises:
            QaedgeError: a block of the space that the teacher does not have, or the reverse; a list of bits
                that fits no candidate of its block; or blocks in float alone beside blocks in integers alone.
        """
        named = [axes.name for axes in self.block]
        if set(named) != set(shapes):
            only = [
                f"only in {where}: {', '.join(names)}"
                for where, names in (
                    ("the space file", [name for name in named if name not in shapes]),
                    ("teacher.blocks of the project file", [name for name in shapes if name not in named]),
                )
                if names
            ]
            raise QaedgeError(
                f"The space {self.name!r} and the teacher do not have the same blocks: {'; '.join(only)}.",
                "Give the blocks the same names in both files.",
            )
        blocks = []
        for name, (given, wanted) in shapes.items():
            axes = next(a for a in self.block if a.name == name)
            own_spec = BlockSpec((LayerSpec("own", digest=own[name]),))
            specs = [own_spec, *dict.fromkeys(ENUMERATORS[axes.kind](axes, given, wanted))]
            candidates = []
            counts = {spec: (layers or {}).get(name) if spec.is_own else spec.convolutions for spec in specs}
            schemes = [QuantScheme.parse(text) for text in axes.all_schemes]
            for spec, scheme in itertools.product(specs, schemes):
                if counts[spec] is None or scheme.mix is None or len(scheme.mix.layers) in (0, counts[spec]):
                    candidates.append(Candidate(spec, scheme, given))
            _check_lists(self.name, name, schemes, candidates, counts[own_spec], set(counts.values()))
            blocks.append(Block(name, given, wanted, tuple(candidates)))
        resolved = SearchSpace(self.name, teacher, tuple(blocks), data)
        if not resolved.precisions:
            alone = [b.name for b in blocks if b.own(False) is None]
            others = [b.name for b in blocks if b.own(True) is None]
            raise QaedgeError(
                f"The space {self.name!r} holds no network: {', '.join(alone)} in float alone, "
                f"{', '.join(others)} in integers alone.",
                "A network is in float or in integers as a whole: give each block the same kinds of schemes.",
            )
        return resolved


class Block(msgspec.Struct, frozen=True):
    """A block of the teacher and its candidates; candidate 0 is the teacher's own."""

    name: str
    input_shape: Shape
    output_shape: Shape
    candidates: tuple[Candidate, ...]

    def own(self, is_float: bool) -> int | None:
        """Return the place of the teacher's own block, in float or in integers; None where it is not among them."""
        return next((i for i, c in enumerate(self.candidates) if c.spec.is_own and c.scheme.is_float == is_float), None)


class SearchSpace(msgspec.Struct, frozen=True):
    """Everything that may be chosen: per block, in the order of the network, its candidates."""

    name: str
    teacher: str
    blocks: tuple[Block, ...]
    data: str = ""

    @property
    def hash(self) -> str:
        """Twelve hex digits that change whenever any candidate, shape, the teacher or its data do."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:12]

    @property
    def origin(self) -> str:
        """Twelve hex digits of what block losses depend on: the teacher, its data, and how it is cut.

        Weights and losses lie under it, so that a space that grows keeps what was distilled.
        """
        cut = [(block.name, block.input_shape, block.output_shape) for block in self.blocks]
        return hashlib.sha256(msgspec.json.encode((self.teacher, self.data, cut))).hexdigest()[:12]

    @property
    def networks(self) -> int:
        """How many networks the space holds."""
        return math.prod(len(block.candidates) for block in self.blocks)

    @property
    def precisions(self) -> tuple[bool, ...]:
        """Which networks it holds, in the order of its candidates: in float (True), in integers (False).

        A network is the one or the other as a whole: no file mixes them.
        """
        each = [{c.scheme.is_float for c in block.candidates if c.spec.is_own} for block in self.blocks]
        first = dict.fromkeys(c.scheme.is_float for c in self.blocks[0].candidates)
        return tuple(kind for kind in first if all(kind in kinds for kinds in each))

    def block(self, name: str) -> Block:
        """Return a block by name; raise UsageError where there is none."""
        for block in self.blocks:
            if block.name == name:
                return block
        raise UsageError(f"No block {name!r}.", f"Known: {', '.join(b.name for b in self.blocks)}.")

    def unique(self) -> Iterator[Candidate]:
        """Yield each candidate once, however many blocks share it."""
        yield from dict.fromkeys(c for block in self.blocks for c in block.candidates)

    def save(self, path: Path) -> None:
        """Write the resolved space as JSON."""
        write_json(path, self)

    @staticmethod
    def load(path: Path) -> SearchSpace:
        """Read a resolved space; raise MissingFile where it was not resolved yet."""
        space = decode_json(path, SearchSpace, hint="Make it with: qaedge space")
        for number, block in enumerate(space.blocks):
            if not block.candidates:
                raise InvalidFile(path, f"blocks[{number}].candidates", "at least one candidate", "none")
        if not space.blocks:
            raise InvalidFile(path, "blocks", "at least one block", "none")
        return space


def _check(path: Path, where: str, axes: Axes, written: Iterable[str]) -> None:
    if axes.kind not in ENUMERATORS:
        raise InvalidFile(path, f"{where}.kind", f"one of {', '.join(ENUMERATORS)}", repr(axes.kind))
    takes = AXES[axes.kind]
    for key in written:
        if key not in (*_ALWAYS, *takes):
            wanted = f"an axis of the kind {axes.kind!r} ({', '.join(takes)})"
            raise InvalidFile(path, f"{where}.{key}", wanted, repr(key), "Take it out: it would change nothing.")
    for field in ("depths", "kernels", "expansions", "widths"):
        values = getattr(axes, field)
        if not values and field != "widths":
            raise InvalidFile(path, f"{where}.{field}", "at least one number", "none")
        for value in values:
            odd = field == "kernels" and value % 2 == 0
            if value < 1 or odd:
                wanted = "odd numbers from 1" if field == "kernels" else "numbers from 1"
                raise InvalidFile(path, f"{where}.{field}", wanted, str(value))
    for field in ("schemes", "pooling"):
        values = getattr(axes, field)
        if not values:
            raise InvalidFile(path, f"{where}.{field}", "at least one", "none")
        if len(set(values)) < len(values):
            raise InvalidFile(path, f"{where}.{field}", "each once", str(list(values)))
    for field in ("first_dilation", "dilation"):
        if getattr(axes, field) < 1:
            raise InvalidFile(path, f"{where}.{field}", "a number from 1", str(getattr(axes, field)))
    for scheme in axes.all_schemes:
        try:
            QuantScheme.parse(scheme)
        except UsageError as error:
            raise InvalidFile(
                path, f"{where}.schemes", "quantization schemes such as w8a8", repr(scheme), error.hint
            ) from error


def _check_lists(
    space: str,
    block: str,
    schemes: Iterable[QuantScheme],
    candidates: Iterable[Candidate],
    own: int | None,
    counts: set[int | None],
) -> None:
    """Refuse schemes that list the bits of more or fewer layers than any candidate has, or than the own block needs."""
    used = {candidate.scheme for candidate in candidates}
    for scheme in schemes:
        if scheme not in used and scheme.mix is not None:
            known = " or ".join(str(count) for count in sorted(count for count in counts if count is not None))
            raise QaedgeError(
                f"The space {space!r}, block {block!r}: {scheme} names {len(scheme.mix.layers)} layers; "
                f"the candidates have {known} with weights.",
                "Give one number for each layer, or a scheme without a list, such as w4dw8a8.",
            )
    if not any(candidate.spec.is_own for candidate in candidates):
        raise QaedgeError(
            f"The space {space!r}, block {block!r}: the teacher's own block has no scheme; it has {own} layers with "
            "weights, and each scheme lists another number.",
            f"Add a scheme without a list, such as w8a8, or one that lists {own}.",
        )


def _stride(given: Shape, wanted: Shape) -> int:
    return max(1, round(given[1] / wanted[1]))


def _inverted_residuals(axes: Axes, given: Shape, wanted: Shape) -> Iterator[BlockSpec]:
    out = wanted[0]
    for depth, kernel, expansion, width in itertools.product(
        axes.depths, axes.kernels, axes.expansions, axes.widths or (out,)
    ):
        yield BlockSpec(
            tuple(
                LayerSpec(
                    "ir",
                    kernel=kernel,
                    stride=_stride(given, wanted) if layer == 0 else 1,
                    expansion=expansion,
                    channels=out if layer == depth - 1 else width,
                    dilation=axes.first_dilation if layer == 0 else axes.dilation,
                )
                for layer in range(depth)
            )
        )


def _stems(axes: Axes, given: Shape, wanted: Shape) -> Iterator[BlockSpec]:
    out = wanted[0]
    for depth, kernel, expansion, width in itertools.product(
        axes.depths, axes.kernels, axes.expansions, axes.widths or (out,)
    ):
        first = LayerSpec("conv", kernel=3, stride=_stride(given, wanted), channels=width)
        second = LayerSpec("ir", kernel=kernel, expansion=1, channels=out)
        more = LayerSpec("ir", kernel=kernel, expansion=expansion, channels=out)
        yield BlockSpec((first, second, *[more] * (depth - 1)))


def _contexts(axes: Axes, given: Shape, wanted: Shape) -> Iterator[BlockSpec]:
    for kernel, width, pooling in itertools.product(axes.kernels, axes.widths or (256,), axes.pooling):
        kind = "poolcontext" if pooling else "context"
        dilation = axes.dilation if kernel > 1 else 1
        first = LayerSpec(kind, kernel=kernel, channels=width, dilation=dilation)
        yield BlockSpec((first, LayerSpec("logits", channels=wanted[0])))


#: kind of a block -> what enumerates its axes. A new kind is one line here and one in `AXES`, its layers
#: in `candidate.LAYER_FIELDS`, and their modules in `nn/blocks.py`.
ENUMERATORS: dict[str, Callable[[Axes, Shape, Shape], Iterator[BlockSpec]]] = {
    "inverted_residual": _inverted_residuals,
    "stem": _stems,
    "context": _contexts,
}

#: kind of a block -> the axes that it takes; another one would be written and change nothing.
AXES: dict[str, tuple[str, ...]] = {
    "inverted_residual": ("depths", "kernels", "expansions", "widths", "first_dilation", "dilation"),
    "stem": ("depths", "kernels", "expansions", "widths"),
    "context": ("kernels", "widths", "pooling", "dilation"),
}
#: What a block says whatever its kind.
_ALWAYS = ("name", "kind", "schemes")
