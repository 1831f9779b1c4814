"""`qaedge demo`: the whole chain on generated street scenes and this machine."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from qaedge import report
from qaedge.cli import bench, build, distill, export, options, profile, search, teacher_train
from qaedge.cli.resolve import need_nn
from qaedge.cli.search import MARGIN
from qaedge.device import load_device, with_runtime
from qaedge.errors import Infeasible, MeasurementError
from qaedge.files import write_atomic, write_json
from qaedge.machine import Machine, this_machine, versions
from qaedge.project import FILE_NAME
from qaedge.runtime import BOTH
from qaedge.units import format_bytes, format_seconds, parse_seconds

EXAMPLES = ("qaedge demo", "qaedge demo --folder /tmp/demo")

#: What the figures hang on, besides qaedge itself.
PACKAGES = ("numpy", "torch", "onnx", "onnxruntime", "ai-edge-litert")

#: How long it waits where somebody else measures on this machine.
WAIT = "10min"
#: A margin beyond this share of the latency found is worth a word: what is found is smaller than need be.
WIDE = 0.2

PROJECT = """\
# The project of `qaedge demo`. See `qaedge init` for what each key means.
space = "space.toml"
device = "local"

[teacher]
function = "qaedge.nn.deeplab:deeplabv3_mobilenetv2"
weights = "teacher.safetensors"

[teacher.arguments]
classes = 8
width = 0.5
depth = 0.5
head_channels = 64
output_stride = 8

[teacher.blocks]
stage1 = "features[0:2]"
stage2 = "features[2:3]"
stage3 = "features[3:5]"
stage4 = "features[5:7]"
stage5 = "features[7:9]"
stage6 = "features[9:12]"
head = "head"

[data]
layout = "scenes"
height = 128
width = 192
count = 160

[limits]
latency = "75%"

[distill]
steps = 40
batch = 8
calibration_images = 16

[finetune]
epochs = 6
crop = [128, 192]
learning_rate = 1e-3
"""

_BLOCK = """
[[block]]
name = "{name}"
kind = "{kind}"
{axes}
schemes = ["w7a8"]
"""

SPACE = 'name = "demo"\n' + "".join(
    _BLOCK.format(name=name, kind=kind, axes=axes)
    for name, kind, axes in (
        ("stage1", "stem", "widths = [8, 12, 16]"),
        ("stage2", "inverted_residual", "expansions = [3, 4, 5]"),
        ("stage3", "inverted_residual", "depths = [1, 2]\nexpansions = [3, 4, 5]"),
        ("stage4", "inverted_residual", "depths = [1, 2]\nexpansions = [3, 4, 5]\ndilation = 2"),
        (
            "stage5",
            "inverted_residual",
            "depths = [1, 2]\nexpansions = [3, 4, 5]\nfirst_dilation = 2\ndilation = 2",
        ),
        (
            "stage6",
            "inverted_residual",
            "depths = [2, 3]\nexpansions = [2, 3, 4]\nwidths = [80]\nfirst_dilation = 2\ndilation = 4",
        ),
        ("head", "context", "widths = [16, 32, 64]\npooling = [true, false]"),
    )
)


class Network(msgspec.Struct, frozen=True):
    """What a network is worth: mIoU of its INT8 file, measured latency [s], file size [bytes]."""

    miou: float
    latency_s: float
    size_bytes: int


class Pair(msgspec.Struct, frozen=True):
    """The teacher and the network found, as files of one format."""

    baseline: Network
    student: Network


class Result(msgspec.Struct, frozen=True):
    """What `result.json` keeps: the teacher in INT8, the network found, what was predicted for it.

    `margin` is how many standard errors of the prediction the search stayed below the limit; 0 where it found no
    network with the usual one. Those are ONNX files; `tflite` are the same two networks as TFLite, None where that is
    not installed.
    `machine` and `versions` are what they were measured on, and with; `date` is the day, in UTC.
    """

    baseline: Network
    student: Network
    predicted_latency_s: float
    margin: float
    seconds: float
    machine: Machine
    versions: dict[str, str]
    date: str
    tflite: Pair | None = None


def run(
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="Where everything goes.")] = Path("demo"),
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run the whole chain on generated street scenes and this machine: minutes, nothing to download.

    Trains a small teacher, distills candidates for each of its blocks, measures them, searches for
    the best network within 75 % of the teacher's latency, fine-tunes and exports it, and measures
    it beside the teacher. A second run does only what is missing; remove the folder to start over.
    """
    need_nn()
    started = time.perf_counter()
    file = folder / FILE_NAME
    for path, text in ((file, PROJECT), (folder / "space.toml", SPACE)):
        if not path.exists():
            write_atomic(path, text.encode())
    outcome = Chain(file, folder, quiet or as_json).run()
    result = msgspec.structs.replace(outcome, seconds=time.perf_counter() - started)
    write_json(folder / "result.json", result)
    if as_json:
        report.json_out(result)
        return
    _show(result, folder)


class Chain:
    """The commands of the chain, in order, over one project."""

    def __init__(self, project: Path, folder: Path, quiet: bool) -> None:
        """Name the project and the folder for results."""
        self.project, self.folder, self.quiet = project, folder, quiet
        self.architecture = folder / "student.json"

    def run(self) -> Result:
        """Run what is missing; measure, and return the figures."""
        from qaedge.architecture import Architecture
        from qaedge.cli.resolve import resolve
        from qaedge.nn.student import is_built, load_report, student_folder
        from qaedge.project import Workspace

        if not (self.folder / "teacher.safetensors").exists():
            self._step(
                "1/7 train a teacher",
                lambda: teacher_train.run(epochs=15, learning_rate=6e-3, project=self.project, quiet=self.quiet),
            )
        self._step(
            "2/7 distill the candidates of each block", lambda: distill.run(project=self.project, quiet=self.quiet)
        )
        self._step("3/7 measure the candidates", lambda: profile.run(wait=WAIT, project=self.project, quiet=self.quiet))
        margin = self._search()
        workspace = Workspace.open(self.project)
        _, space = resolve(workspace)
        chosen = Architecture.load(self.architecture, space)
        cost = next(v for k, v in chosen.costs.items() if k.startswith("latency@"))
        if margin * cost.error > WIDE * cost.value:
            report.warn(
                f"Times shake on this machine: the search stayed {format_seconds(margin * cost.error)} below its "
                "limit, and what it found is smaller, and worse, than it would be on a quiet one."
            )
        for number, name in ((5, "teacher"), (6, "student")):
            there = student_folder(workspace, space, name)
            wanted = chosen if name == "student" else Architecture.own(space)
            if is_built(there, wanted, workspace.project.finetune):
                continue
            self._step(f"{number}/7 build the {name}", lambda name=name: self._build(name))  # type: ignore[misc]
        reports = {name: load_report(student_folder(workspace, space, name)) for name in ("teacher", "student")}
        formats = ["onnx", *(["tflite"] if all(found.tflite for found in reports.values()) else [])]
        for name in reports:
            there = self.folder / f"{name}.onnx"
            self._step(
                "",
                lambda name=name, there=there: export.run(  # type: ignore[misc]
                    name, output=there, formats=",".join(formats), project=self.project, quiet=True
                ),
            )
        report.note("7/7 measure the files in turn", self.quiet)
        files = [self.folder / f"{name}.{kind}" for kind in formats for name in reports]
        device = with_runtime(load_device(workspace.project.device), BOTH if len(formats) > 1 else "")
        rows, failed = bench.measure_files(files, device, wait_s=parse_seconds(WAIT), quiet=self.quiet)
        if failed:
            raise MeasurementError(f"{failed[0].artifact.name} was not measured.", str(failed[0].error))
        networks = {}
        for path, row in zip(files, rows, strict=True):
            kind = path.suffix.lstrip(".")
            file = reports[path.stem].file_of(kind)
            assert file is not None
            networks[path.stem, kind] = Network(file.miou, row.median_s, row.size_bytes)
        pairs = {kind: Pair(networks["teacher", kind], networks["student", kind]) for kind in formats}
        onnx = pairs["onnx"]
        return Result(
            baseline=onnx.baseline,
            student=onnx.student,
            predicted_latency_s=cost.value,
            margin=margin,
            seconds=0.0,
            machine=this_machine(),
            versions=versions(*PACKAGES),
            date=datetime.now(timezone.utc).date().isoformat(),
            tflite=pairs.get("tflite"),
        )

    def _search(self) -> float:
        """Search within the limit and its margin; within the limit alone where no network keeps the margin, too.

        On a machine that does other work the margin may be most of the limit. The demo then goes on and says so: what
        it chose is measured in the end anyhow.
        """

        def search_with(margin: float) -> None:
            search.run(
                output=self.architecture,
                plot=self.folder / "front.png",
                margin=margin,
                project=self.project,
                quiet=self.quiet,
            )

        try:
            self._step("4/7 search", lambda: search_with(MARGIN))
        except Infeasible:
            report.warn(
                "No network keeps the limit and the margin for the error of the table: times shake on this machine. "
                "Searching again without that margin; the network found may miss the limit."
            )
            self._step("", lambda: search_with(0.0))
            return 0.0
        return MARGIN

    def _build(self, name: str) -> None:
        if name == "teacher":
            build.run(teacher=True, project=self.project, quiet=self.quiet)
        else:
            build.run(self.architecture, name="student", project=self.project, quiet=self.quiet)

    def _step(self, title: str, command: Callable[[], None]) -> None:
        if title:
            report.note(title, self.quiet)
        # Each command prints its table on stdout; of a quiet demo that is the last table's alone.
        with contextlib.redirect_stdout(io.StringIO()) if self.quiet else contextlib.nullcontext():
            command()


def _show(result: Result, folder: Path) -> None:
    pairs = {"ONNX": Pair(result.baseline, result.student)}
    if result.tflite is not None:
        pairs["TFLite"] = result.tflite
    report.line()
    rows: list[tuple[str | None, ...]] = []
    for kind, pair in pairs.items():
        baseline, student = pair.baseline, pair.student
        predicted_s = result.predicted_latency_s if kind == "ONNX" else None  # only ONNX candidates were measured
        rows += [
            (
                f"teacher, INT8 {kind}",
                f"{100 * baseline.miou:.1f} %",
                format_seconds(baseline.latency_s),
                None,
                format_bytes(baseline.size_bytes),
            ),
            (
                f"found, INT8 {kind}",
                f"{100 * student.miou:.1f} %",
                format_seconds(student.latency_s),
                format_seconds(predicted_s) if predicted_s else None,
                format_bytes(student.size_bytes),
            ),
            (
                "change",
                f"{100 * (student.miou - baseline.miou):+.1f} points",
                f"{100 * (student.latency_s / baseline.latency_s - 1):+.0f} %",
                f"{100 * (predicted_s / student.latency_s - 1):+.1f} % off" if predicted_s else None,
                f"{100 * (student.size_bytes / baseline.size_bytes - 1):+.0f} %",
            ),
        ]
    report.table(
        ("network", ">mIoU", ">latency", ">predicted", ">size"),
        rows,
        title=f"Measured on this machine, one thread, all files in turn ({result.seconds:.0f} s in all)",
    )
    files = ", ".join(str(folder / name) for name in ("result.json", "front.png", "student.onnx"))
    report.line(f"wrote {files}{' and .tflite' if result.tflite is not None else ''}, each network with its manifest")
