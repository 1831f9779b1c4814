"""Verifying: what a device puts out for an exported file, held against what this machine does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from qaedge import report
from qaedge.device import Device
from qaedge.errors import ParityError
from qaedge.progress import Step
from qaedge.project import Workspace

if TYPE_CHECKING:
    from qaedge.nn.manifest import Release

#: Images that are run on a device, whole: an output may be megabytes.
IMAGES = 2


class Verified(msgspec.Struct, frozen=True):
    """How alike a device's outputs and this machine's are: shares of pixels, and of numbers at most a step apart.

    A step is the output's own, or a 255th of its range where it is float.
    """

    device: str
    runtime: str
    images: int
    same_class: float
    within_one_step: float
    bound: float

    def check(self, file: str) -> None:
        """Raise ParityError where they differ by more than the format's bound."""
        if self.same_class < self.bound:
            raise ParityError(
                f"{file}: {self.device} ({self.runtime}) gives {100 * self.same_class:.2f} % of the pixels the class "
                f"that this machine gives them, {100 * self.bound:.1f} % are wanted.",
                "The file is written, but does not mean there what was scored here. Try another version of the "
                "runtime there: qaedge device check tells which one it has.",
            )


def verify_on(
    device: Device, releases: Iterable[Release], workspace: Workspace, quiet: bool = False, wait_s: float = 0.0
) -> dict[str, Verified]:
    """Run each file on a device and here, on validation images; return how alike they are, by the file's hash.

    Raises:
        CandidateFailed, CandidateCrashed, CandidateTimeout: the device does not run the file.
        MeasurementError: it cannot be reached, or was lost.
    """
    found: dict[str, Verified] = {}
    for step in report.progress(
        _compare(device, list(releases), workspace, wait_s), f"verifying on {device.name}", quiet
    ):
        if step.result is not None:
            sha256, verified = step.result
            found[sha256] = verified
    return found


def _compare(device: Device, releases: list[Release], workspace: Workspace, wait_s: float) -> Iterator[Step]:
    from pathlib import Path

    import numpy as np

    from qaedge.hil.outputs import outputs_on
    from qaedge.hil.profile import open_session
    from qaedge.hil.runtimes import runtime_for
    from qaedge.nn.parity import BOUNDS
    from qaedge.nn.sessions import load_file
    from qaedge.nn.student import open_splits

    _, val = open_splits(workspace)
    count = min(IMAGES, len(val))
    total, done = count * len(releases), 0
    with open_session(device, wait_s=wait_s) as session:
        for release in releases:
            artifact = release.artifact
            runtime = runtime_for(session, artifact)
            here = load_file(Path(artifact.path))
            same, close = [], []
            for i in range(count):
                given = here.feed(val.preprocess(val.image(i)[None]))
                raw = here.run_raw(given)
                (there,) = outputs_on(session, artifact, {here.name: given}, runtime).values()
                step = 1.0 if raw.dtype.kind in "iu" else float(np.ptp(raw)) / 255
                close.append(float((np.abs(there.astype(np.float64) - raw) <= step).mean()))
                axis = 1 if artifact.format == "onnx" else -1
                same.append(float((there.argmax(axis) == raw.argmax(axis)).mean()))
                done += 1
                yield Step(done, total, artifact.name)
            verified = Verified(
                device.name,
                f"{runtime} {session.hello.runtimes[runtime]}",
                count,
                float(np.mean(same)),
                float(np.mean(close)),
                BOUNDS[artifact.format].pixels,
            )
            yield Step(done, total, artifact.name, (artifact.sha256, verified))
