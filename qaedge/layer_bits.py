"""The bits of each layer of what is exported to be timed, where schemes alone do not tell them.

A scheme such as `w4s2a8` keeps the layers that were found to be the most sensitive. Until a candidate is in the loss
table, its largest layers are kept instead, and its size is an upper bound.
"""

from __future__ import annotations

from collections.abc import Sequence

from qaedge.candidate import Candidate, QuantScheme
from qaedge.network_key import FITTED, HELD_OUT, network_of
from qaedge.project import Workspace
from qaedge.space import SearchSpace
from qaedge.tables import LossTable, anchor_key


class LayerBits:
    """What a loss table knows of them, for all that is measured of a space; nothing where it knows nothing."""

    def __init__(self, space: SearchSpace, losses: LossTable) -> None:
        """Look up every candidate that keeps its most sensitive layers."""
        self._space, self._losses = space, losses
        found: dict[str, set[tuple[int, ...]]] = {}
        for block in space.blocks:
            for candidate in block.candidates:
                if candidate.scheme.keeps_sensitive:
                    found.setdefault(candidate.key, set()).add(losses.sensitive_bits(block.name, candidate))
        # Blocks that share a measurement, and keep other layers: the largest stay.
        self._candidates = {key: several.pop() for key, several in found.items() if len(several) == 1}
        self._anchors = {
            anchor_key(space, str(scheme)): scheme
            for scheme in dict.fromkeys(c.scheme for c in space.unique())
            if scheme.keeps_sensitive
        }

    @staticmethod
    def read(workspace: Workspace, space: SearchSpace) -> LayerBits:
        """Read the loss table of a project."""
        return LayerBits(space, LossTable(LossTable.store(workspace.loss_file(space.origin)).rows()))

    def of_candidate(self, candidate: Candidate) -> tuple[int, ...]:
        """Return those of a candidate, wherever it stands."""
        return self._candidates.get(candidate.key, ())

    def of_network(self, chosen: Sequence[Candidate]) -> tuple[tuple[int, ...], ...]:
        """Return those of each block of a network."""
        blocks = zip(self._space.blocks, chosen, strict=True)
        return tuple(self._losses.sensitive_bits(block.name, candidate) for block, candidate in blocks)

    def of_teacher(self, scheme: QuantScheme) -> tuple[tuple[int, ...], ...]:
        """Return those of each block of the teacher in one scheme."""
        owns = [
            next((c for c in block.candidates if c.spec.is_own and c.scheme == scheme), None)
            for block in self._space.blocks
        ]
        return tuple(
            self._losses.sensitive_bits(block.name, own) if own else ()
            for block, own in zip(self._space.blocks, owns, strict=True)
        )

    def of_row(self, key: str) -> tuple[int, ...]:
        """Return those of what a row of a latency table measured, one block after the other; a border has none."""
        if key in self._candidates:
            return self._candidates[key]
        scheme = self._anchors.get(key)
        if scheme is not None:
            return joined(self.of_teacher(scheme))
        for role in (FITTED, HELD_OUT):
            network = network_of(self._space, key, role)
            if network is not None:
                return joined(self.of_network(network))
        return ()


def joined(blocks: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the bits of several blocks in one row."""
    return tuple(bits for block in blocks for bits in block)
