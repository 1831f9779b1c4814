"""What all tests of networks share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_teacher import workspace

from qaedge.nn.teacher import Teacher, load_teacher


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights whichever tests ran before."""
    torch.manual_seed(0)


@pytest.fixture
def teacher(tmp_path: Path) -> Teacher:
    """The small built-in network, with fresh weights."""
    return load_teacher(workspace(tmp_path))
