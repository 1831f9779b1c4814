"""What all tests of networks share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same weights whichever tests ran before."""
    torch.manual_seed(0)
