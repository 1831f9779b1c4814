"""An architecture: one candidate per block of a search space, and what it is predicted to lose and to cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from qaedge.candidate import Candidate
from qaedge.errors import InvalidFile
from qaedge.files import decode_json, write_json
from qaedge.runtime import FORMATS
from qaedge.space import SearchSpace

FORMAT = "qaedge-architecture"
VERSION = 2  # 1: the first; 2: says in which format it was measured


class BlockChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was chosen for a block: the candidate's text, and its place in the space."""

    block: str
    spec: str
    scheme: str
    index: int


class Predicted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A predicted cost and its standard error, in the metric's unit [s, bytes]."""

    value: float
    error: float


class BorderCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two neighbours whose activations have unlike numbers of bits, and what the change takes on each device [s]."""

    between: tuple[str, str]
    bits: tuple[int, int]
    latency_s: dict[str, float]


class Architecture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A choice per block, in the order of the network.

    Attributes:
        space, space_hash: the search space it was chosen from.
        teacher: digest of the teacher that the space was resolved against.
        loss: predicted loss, the sum of the block losses.
        costs: metric (`latency@pi4` [s], `size` [bytes]) -> what the whole network is predicted to cost.
        limits: metric -> the limit that was asked for, in the same units.
        file_format: of the files that the costs are of: "onnx" or "tflite".
        borders: what lies between blocks, in the order of the network; a part of `costs`. Not there where nothing does.
    """

    space: str
    space_hash: str
    teacher: str
    choices: tuple[BlockChoice, ...]
    loss: float
    costs: dict[str, Predicted]
    limits: dict[str, float] = {}
    file_format: str = "onnx"
    format: str = FORMAT
    version: int = VERSION
    borders: tuple[BorderCost, ...] | msgspec.UnsetType = msgspec.UNSET

    def candidates(self, space: SearchSpace) -> tuple[Candidate, ...]:
        """Return the chosen candidate of each block of the space it was checked against."""
        return tuple(block.candidates[choice.index] for block, choice in zip(space.blocks, self.choices, strict=True))

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_json(path, self)

    @staticmethod
    def own(space: SearchSpace) -> Architecture:
        """Return the teacher itself: every block its own. Nothing is lost, so the predicted loss is 0."""
        return Architecture.of(space, [block.candidates[0] for block in space.blocks])

    @staticmethod
    def of(space: SearchSpace, network: Sequence[Candidate]) -> Architecture:
        """Return any network of a space, with nothing predicted of it."""
        choices = tuple(
            BlockChoice(block.name, str(candidate.spec), str(candidate.scheme), block.candidates.index(candidate))
            for block, candidate in zip(space.blocks, network, strict=True)
        )
        return Architecture(space.name, space.hash, space.teacher, choices, 0.0, {})

    @staticmethod
    def load(path: Path, space: SearchSpace) -> Architecture:
        """Read an architecture and check it against the space.

        Raises:
            MissingFile: no such file.
            InvalidFile: not an architecture, one of another space, or a choice the space does not have.
        """
        head = decode_json(path, _Head, hint="Make one with: qaedge search")
        if head.format != FORMAT:
            raise InvalidFile(path, "format", FORMAT, repr(head.format), "Make one with: qaedge search")
        if head.version > VERSION:
            raise InvalidFile(path, "version", f"{VERSION} or older", str(head.version), "Upgrade qaedge.")
        found = Architecture.read(path)
        _check(path, found, space)
        return found

    @staticmethod
    def read(path: Path) -> Architecture:
        """Read an architecture of this or an older version, unchecked; raise MissingFile or InvalidFile."""
        return msgspec.structs.replace(decode_json(path, Architecture), version=VERSION)


class _Head(msgspec.Struct):
    format: str = "none"
    version: int = 0


def _check(path: Path, found: Architecture, space: SearchSpace) -> None:
    again = "The space, or the teacher it was resolved against, has changed since. Run: qaedge search"
    if found.space_hash != space.hash:
        raise InvalidFile(
            path, "space_hash", f"{space.hash} (space {space.name!r})", f"{found.space_hash} ({found.space!r})", again
        )
    if found.teacher != space.teacher:
        raise InvalidFile(path, "teacher", space.teacher, found.teacher, again)
    if found.file_format not in FORMATS:
        raise InvalidFile(path, "file_format", " or ".join(FORMATS), repr(found.file_format), again)
    if len(found.choices) != len(space.blocks):
        raise InvalidFile(path, "choices", f"{len(space.blocks)} blocks", f"{len(found.choices)}", again)
    for number, (choice, block) in enumerate(zip(found.choices, space.blocks, strict=True)):
        where = f"choices[{number}]"
        if choice.block != block.name:
            raise InvalidFile(path, f"{where}.block", repr(block.name), repr(choice.block), again)
        texts = [(str(c.spec), str(c.scheme)) for c in block.candidates]
        if (choice.spec, choice.scheme) not in texts:
            raise InvalidFile(
                path, f"{where}.spec", f"a candidate of {block.name}", f"{choice.spec} ({choice.scheme})", again
            )
        place = texts.index((choice.spec, choice.scheme))
        if choice.index != place:
            raise InvalidFile(path, f"{where}.index", f"{place}, where {choice.spec} stands", str(choice.index), again)
    # JSON has no word for "not a number"; an infinite or negative figure would still decode.
    figures = [("loss", found.loss), *((f"limits.{metric}", limit) for metric, limit in found.limits.items())]
    for metric, cost in found.costs.items():
        figures += [(f"costs.{metric}.value", cost.value), (f"costs.{metric}.error", cost.error)]
    for number, border in enumerate(found.borders or ()):
        figures += [(f"borders[{number}].latency_s.{device}", value) for device, value in border.latency_s.items()]
    for key, value in figures:
        if not (math.isfinite(value) and value >= 0):
            raise InvalidFile(path, key, "a number from 0", str(value))
