"""`qaedge device noise`: how far a device is from itself, and how often that is called slower."""

from __future__ import annotations

import hashlib
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from qaedge import report
from qaedge.artifact import Artifact
from qaedge.cli import options
from qaedge.cli.resolve import note_fake
from qaedge.device import Device, load_device
from qaedge.units import parse_seconds

if TYPE_CHECKING:
    from qaedge.regression.noise import Noise

EXAMPLES = ("qaedge device noise pi4", "qaedge device noise pi4 student.onnx --comparisons 60")


def run(
    name: options.DeviceName,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="What is compared with itself.  [default: forty convolutions]", show_default=False
        ),
    ] = None,
    comparisons: Annotated[
        int, typer.Option("--comparisons", min=10, metavar="N", help="How often, each in a session of its own.")
    ] = 30,
    threads: options.Threads = None,
    wait: options.Wait = "0s",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare a file with itself (A/A), again and again, and keep what that tells of the device.

    `compare` and suites then tell apart only what is three times above the noise floor, and print the rate of false
    alarms beside each verdict. A run that was interrupted goes on with what it had not finished.
    """
    from qaedge.hil.aa import aa
    from qaedge.hil.sample_file import sample_onnx
    from qaedge.regression.noise import KeptTrial, noise_of, of_the_last_state, save_noise, trial_store

    device = load_device(name)
    note_fake([device], quiet)
    store = trial_store(name)
    with tempfile.TemporaryDirectory() as folder:
        if file is None:
            file = Path(folder) / "sample.onnx"
            file.write_bytes(sample_onnx())
        artifact = Artifact.of(file)
        digest = _digest(device, artifact, threads)
        trials = of_the_last_state([row.trial for row in store.rows() if row.digest == digest])
        if trials:
            report.note(f"{len(trials)} comparisons are kept from a run that did not end", quiet)
        steps = aa(device, artifact, comparisons, threads, parse_seconds(wait), trials)
        for step in report.progress(steps, "comparing with itself", quiet):
            store.append(KeptTrial(digest, step.result))
            trials = of_the_last_state([*trials, step.result])
    found = noise_of(name, artifact.name, trials, datetime.now(timezone.utc).isoformat(timespec="seconds"))
    path = save_noise(found)
    store.path.unlink(missing_ok=True)
    if as_json:
        report.json_out({**_figures(found), "file": str(path)})
    else:
        _show(found)
    report.note(f"kept in {path}", quiet)


def _digest(device: Device, artifact: Artifact, threads: int | None) -> str:
    """Return what trials must share to be of one run."""
    said = [artifact.sha256, threads or device.threads, msgspec.to_builtins(device)]
    return hashlib.sha256(msgspec.json.encode(said, order="deterministic")).hexdigest()


def _figures(found: Noise) -> dict[str, object]:
    return {
        "device": found.device,
        "comparisons": found.comparisons,
        "noise_floor": found.floor,
        "noise_floor_across": found.floor_across,
        "spread": found.spread,
        "false_slower": found.false_slower,
        "false_faster": found.false_faster,
        "undecided": found.undecided,
        "false_alarm_bound": found.false_alarm_bound,
    }


def _show(found: Noise) -> None:
    from qaedge.regression.compare import LEAST_THRESHOLD, NOISE_FACTOR

    within, across = (max(LEAST_THRESHOLD, NOISE_FACTOR * floor) for floor in (found.floor, found.floor_across))
    report.table(
        (f"{found.device}, {found.comparisons} comparisons of {found.file} with itself", ">"),
        [
            ("noise floor, both measured in turn", f"{100 * found.floor:.2f} %"),
            ("noise floor, one session after another", f"{100 * found.floor_across:.2f} %"),
            ("spread of round medians", f"{100 * found.spread:.2f} %"),
            ("told apart, files in turn", f"from {100 * within:.1f} % on"),
            ("told apart, against a saved baseline", f"from {100 * across:.1f} % on"),
            ("called slower", f"{found.false_slower} (rate below {100 * found.false_alarm_bound:.1f} %)"),
            ("called faster", str(found.false_faster)),
            ("not decided", str(found.undecided)),
        ],
    )
