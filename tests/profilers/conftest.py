"""The agent's files import each other as neighbors in one folder; so do their tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "profilers"))
