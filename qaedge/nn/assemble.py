"""From an architecture to a student: the teacher with its chosen blocks in place."""

from __future__ import annotations

from torch import nn

from qaedge.architecture import Architecture
from qaedge.errors import MissingFile
from qaedge.nn.library import load_candidate
from qaedge.nn.teacher import Teacher, with_blocks
from qaedge.project import Workspace
from qaedge.space import SearchSpace


def assemble(workspace: Workspace, teacher: Teacher, space: SearchSpace, architecture: Architecture) -> nn.Module:
    """Return the student with its distilled weights, in eval mode; the teacher is not changed.

    Raises:
        MissingFile: blocks that were not distilled yet; all of them are named.
        TeacherError: a block that puts out another shape than the teacher's.
    """
    chosen = zip(space.blocks, architecture.candidates(space), strict=True)
    blocks: dict[str, nn.Module] = {}
    missing: list[str] = []
    for block, candidate in chosen:
        if candidate.spec.is_own:
            continue
        try:
            blocks[block.name] = load_candidate(workspace, space, teacher, block.name, candidate.spec)
        except MissingFile:
            missing.append(f"{block.name} {candidate.spec}")
    if missing:
        raise MissingFile(f"No distilled weights of {', '.join(missing)}.", "Run: qaedge distill")
    return with_blocks(teacher, blocks).eval()
