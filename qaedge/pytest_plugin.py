"""A plugin for pytest: `assert_not_slower(model, baseline, device="pi4")` in anybody's own tests.

pytest finds it by itself where qaedge is installed (entry point `pytest11`). It is imported at every start of
pytest, so it imports nothing of qaedge before a test asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from qaedge.hil.contest import Contest

_MARKER = "measured_on"
#: What the marker takes, in this order.
_TOLD = "device", "threshold"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flags."""
    group = parser.getgroup("qaedge", "measuring on devices")
    group.addoption("--qaedge-device", metavar="NAME", default=None, help="Measure on this device, whatever tests say.")
    group.addoption(
        "--qaedge-wait", metavar="TIME", default="10min", help="How long to wait where somebody else measures."
    )
    group.addoption(
        "--qaedge-undecided",
        choices=("fail", "skip", "pass"),
        default="fail",
        help="What a comparison that decides nothing does to its test.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers", f"{_MARKER}(device, threshold='3%'): what assert_not_slower takes where its call says nothing"
    )


@pytest.fixture
def assert_not_slower(request: pytest.FixtureRequest) -> Callable[..., Contest]:
    """Compare a model with its baseline on a device, live; fail the test where it is slower.

    Called with `(model, baseline, device=..., threshold="3%", threads=None)`: two files. Returns the Contest,
    whose `comparison` has every figure.
    """
    marker = request.node.get_closest_marker(_MARKER)
    told = dict(zip(_TOLD, marker.args, strict=False)) | marker.kwargs if marker else {}
    if marker and (len(marker.args) > len(_TOLD) or not marker.kwargs.keys() <= set(_TOLD)):
        pytest.fail(f"@pytest.mark.{_MARKER} takes {' and '.join(_TOLD)}, and no more.", pytrace=False)
    config = request.config

    def assert_not_slower(
        model: str | Path,
        baseline: str | Path,
        *,
        device: str | None = None,
        threshold: str | None = None,
        threads: int | None = None,
    ) -> Contest:
        from qaedge.errors import QaedgeError

        __tracebackhide__ = True
        name = config.getoption("--qaedge-device") or device or told.get("device") or "local"
        asked = threshold or told.get("threshold", "3%")
        try:
            found = _compare(Path(model), Path(baseline), name, asked, threads, config.getoption("--qaedge-wait"))
        except QaedgeError as error:  # what a user can cause, told as the command line tells it
            pytest.fail(str(error), pytrace=False)
        request.node.user_properties.append(("qaedge_ratio", round(found.comparison.ratio, 4)))
        _say(found, Path(model), Path(baseline), name, config.getoption("--qaedge-undecided"))
        return found

    return assert_not_slower


def _compare(model: Path, baseline: Path, name: str, threshold: str, threads: int | None, wait: str) -> Contest:
    from qaedge.artifact import Artifact
    from qaedge.device import load_device
    from qaedge.hil.contest import contest
    from qaedge.regression.compare import parse_threshold
    from qaedge.regression.noise import load_noise
    from qaedge.units import parse_seconds

    pair = (Artifact.of(baseline, name=str(baseline)), Artifact.of(model, name=str(model)))
    steps = contest(
        load_device(name),
        pair,
        threads=threads,
        threshold=parse_threshold(threshold),
        noise=load_noise(name),
        wait_s=parse_seconds(wait),
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Contest = end.value
            return found


def _say(found: Contest, model: Path, baseline: Path, device: str, undecided: str) -> None:
    from qaedge.regression.compare import Verdict
    from qaedge.regression.writers.words import behind, change

    __tracebackhide__ = True
    comparison = found.comparison
    text = f"{model} against {baseline} on {device}: {change(comparison)} ({behind(comparison)})"
    if comparison.verdict is Verdict.SLOWER:
        pytest.fail(f"slower: {text}", pytrace=False)
    if comparison.verdict is Verdict.UNKNOWN and undecided != "pass":
        text = f"not decided: {comparison.reason + '; ' if comparison.reason else ''}{text}"
        if undecided == "skip":
            pytest.skip(text)
        pytest.fail(text, pytrace=False)
