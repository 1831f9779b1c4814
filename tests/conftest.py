"""Fixtures that many tests share, and checked tensor shapes in `qaedge.nn`."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import install_import_hook
from sshd import NO_SSHD, netns_sshd, sshd, start_sshd  # noqa: F401 - fixtures

# Small tensors gain nothing from more threads, and on a busy machine threads that wait for each other
# take ten times as long. It has to be set before torch is imported, and reaches every process started here.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Whoever measures on this machine, another run of the tests for one, does not keep these from measuring.
if "QAEDGE_LOCKS" not in os.environ:
    os.environ["QAEDGE_LOCKS"] = tempfile.mkdtemp(prefix="qaedge-locks-")
    atexit.register(shutil.rmtree, os.environ["QAEDGE_LOCKS"], ignore_errors=True)

# Two runs of the tests keep each other from quiet moments all the time; few are worth waiting for.
os.environ.setdefault("QAEDGE_QUIET_S", "0.2")

# Shapes in signatures are checked in the tests alone, and only where no module is traced by
# torch.fx, whose proxies are no tensors.
_CHECKED = ["qaedge.nn.data", "qaedge.nn.metrics", "qaedge.nn.teacher"]
install_import_hook(_CHECKED, "beartype.beartype")


def pytest_configure() -> None:
    # A shell starts its background jobs with Ctrl-C ignored, and children inherit that: tests that
    # interrupt a command would wait for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # A suite that is green because it was not run is worse than a red one.
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if NO_SSHD in str(report.longrepr)]
    if skipped:
        terminalreporter.section("NOT TESTED: boards over SSH", red=True, bold=True)
        terminalreporter.line(
            f"{len(skipped)} tests were skipped: {NO_SSHD} (Debian, Ubuntu: apt install openssh-server)"
        )


@pytest.fixture(scope="session")
def qaedge_data() -> Path:
    """The folder with the real images and teachers; skips the test where there is none."""
    text = os.environ.get("QAEDGE_DATA", "")
    if not text:
        pytest.skip("QAEDGE_DATA is not set; it names the folder with camvid/ and teachers/")
    folder = Path(text).resolve()
    if not (folder / "camvid").is_dir():
        pytest.skip(f"QAEDGE_DATA={text} holds no camvid/")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded numpy generator."""
    return np.random.default_rng(0)
