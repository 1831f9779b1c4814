"""The whole chain on CamVid: `QAEDGE_DATA=... python benchmarks/camvid/run.py`.

Writes result.json and front.png beside itself; everything else goes to work/, which is not kept
in git. Interrupted, it goes on where it was. The student's ONNX file is work/student.onnx.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np

from qaedge import cli
from qaedge.architecture import Architecture, BlockChoice
from qaedge.artifact import Artifact
from qaedge.candidate import QuantScheme
from qaedge.cli.form import choose_for
from qaedge.device import Device, load_device, with_runtime
from qaedge.files import decode_json, write_json
from qaedge.hil.profile import Measured, Settings, measure, open_session
from qaedge.measurement import Measurement
from qaedge.nn.candidates import export_network
from qaedge.nn.student import is_built, load_report, student_folder
from qaedge.nn.teacher import load_teacher
from qaedge.project import Workspace
from qaedge.runtime import BOTH, FORMATS
from qaedge.space import SearchSpace
from qaedge.tables import LatencyTable, LossRow, LossTable

HERE = Path(__file__).resolve().parent
PROJECT = HERE / "qaedge.toml"
WORK = HERE / "work"
NETWORKS = 12
NAMES = ("teacher", "student", "student_fb_mp")
EPOCHS = 12
#: How often each ONNX candidate is loaded and measured: the machine is shared, and these times feel it most.
LOADS = 3


def command(*arguments: str) -> None:
    """Run one qaedge command on this project, and stop where it fails."""
    print(f"$ qaedge {' '.join(arguments)}", flush=True)
    status = cli.run([*arguments, "--project", str(PROJECT)])
    if status:
        sys.exit(status)


def random_network(space: SearchSpace, random: np.random.Generator) -> Architecture:
    """A network with a candidate drawn for each block."""
    own = Architecture.own(space)
    choices = []
    for block in space.blocks:
        index = int(random.integers(len(block.candidates)))
        candidate = block.candidates[index]
        choices.append(BlockChoice(block.name, str(candidate.spec), str(candidate.scheme), index))
    return Architecture(own.space, own.space_hash, own.teacher, tuple(choices), 0.0, {})


def main() -> None:
    """Run the chain, and write down what it found and how long it took, over all calls."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", default="70%", help="limit for the search of the INT8 student")
    parser.add_argument("--size", default="58%", help="limit for the search of the few-bit student, of the TFLite file")
    parser.add_argument(
        "--power", default="1.5", help="of the block losses in the search of the INT8 student; the other sums harm"
    )
    parser.add_argument("--loads", type=int, default=LOADS, help="how often each ONNX candidate is loaded and measured")
    flags = parser.parse_args()
    started = time.perf_counter()
    try:
        result = run(flags.latency, flags.size, flags.power, flags.loads)
    finally:  # a call that was interrupted has finished a part, too
        seconds = spent(time.perf_counter() - started)
    write_json(HERE / "result.json", {**result, "seconds": seconds})


def built(name: str, wanted: Architecture, *arguments: str) -> None:
    """Build a network, unless it is there: fine-tuned with these settings, from this library, in the device's form."""
    workspace = Workspace.open(PROJECT)
    space = SearchSpace.load(workspace.space_json)
    folder = student_folder(workspace, space, name)
    if is_built(folder, wanted, workspace.project.finetune):
        report = load_report(folder)
        bits = max(QuantScheme.parse(choice.scheme).weight_bits for choice in wanted.choices)
        if report.form == choose_for(load_device(workspace.project.device), workspace)(bits)[0]:
            return
    command("build", *arguments, *(() if name == "teacher" else ("--name", name)))


def run(limit: str, size_limit: str, power: str, loads: int) -> dict[str, object]:
    """Run what is missing, measure everything in one session, and return the figures."""
    architecture = WORK / "student.json"
    weights = WORK / "teacher.safetensors"
    if not weights.exists():
        given = Path(os.environ["QAEDGE_DATA"]) / "teachers" / "deeplabv3_mobilenetv2_camvid.safetensors"
        command(
            "teacher",
            "train",
            "--from",
            str(given),
            "--epochs",
            str(EPOCHS),
            "--learning-rate",
            "5e-4",
            "--guidance",
            "1",
        )
    command("distill")
    few_bit = WORK / "student_fb_mp.json"
    asked = {"latency": limit, "size": size_limit, "power": power, "small": "by size"}
    told = WORK / "limits.json"
    if not told.exists() or decode_json(told, dict[str, str]) != asked:
        for path in (architecture, few_bit):
            path.unlink(missing_ok=True)
        write_json(told, asked)
    # What asks for no time comes before what measures: where measuring does not succeed, this is there.
    if not few_bit.exists():
        command(
            *("search", "--runtime", "tflite", "--by", "size", "--latency", "none", "--size", size_limit),
            *("--output", str(few_bit)),
        )
    workspace = Workspace.open(PROJECT)
    teacher = load_teacher(workspace)
    space = SearchSpace.load(workspace.space_json)
    mixed = Architecture.load(few_bit, space)
    built("teacher", Architecture.own(space), "--teacher")
    built("student_fb_mp", mixed, str(few_bit))
    for file_format, repeat in (("onnx", loads), ("tflite", 1)):
        command("profile", "--runtime", file_format, "--repeat", str(repeat))
    if not architecture.exists():  # a network that was chosen stays, though its rows were measured anew
        command(
            *("search", "--runtime", "onnx", "--precision", "w8a8", "--latency", limit, "--verify", "3"),
            *("--power", power, "--output", str(architecture), "--plot", str(HERE / "front.png")),
        )
    chosen = Architecture.load(architecture, space)
    built("student", chosen, str(architecture))
    built("teacher", Architecture.own(space), "--teacher")  # again where another machine has measured it by now
    built("student_fb_mp", mixed, str(few_bit))
    for name in NAMES:
        command("export", name, "--format", "onnx,tflite", "--output", str(WORK / f"{name}.onnx"))

    device = with_runtime(load_device(workspace.project.device), BOTH)
    choose = choose_for(device, workspace)
    tables = {kind: LatencyTable.read(workspace.latency_file(device.name), device.name, kind) for kind in FORMATS}
    random = np.random.default_rng(0)
    drawn = [random_network(space, random) for _ in range(NETWORKS)]
    files = [Artifact.of(WORK / f"{name}.{kind}", f"{name}.{kind}") for kind in FORMATS for name in NAMES]
    networks = {kind: [export_network(workspace, teacher, space, n, choose, kind) for n in drawn] for kind in FORMATS}
    for kind, exported in networks.items():  # the same network has one name in either format
        networks[kind] = [msgspec.structs.replace(a, name=f"{a.name} {kind}") for a in exported]
    found = measured(device, [*files, *(artifact for exported in networks.values() for artifact in exported)])

    def predictions(kind: str) -> dict[str, object]:
        """Hold predictions against measurements, each as a share of the teacher's, and in seconds.

        The teacher took its turns among the networks: what it takes more or less than in the table is the machine's.
        """
        then, _ = tables[kind].predict_latency(space, Architecture.own(space).candidates(space))
        again = found[f"teacher.{kind}"].median_s / then
        rows = []
        for artifact, network in zip(networks[kind], drawn, strict=True):
            predicted, _ = tables[kind].predict_latency(space, network.candidates(space))
            measured = found[artifact.name].median_s
            rows.append(
                {
                    "predicted_s": predicted,
                    "measured_s": measured,
                    "off": predicted * again / measured - 1,
                    "off_in_seconds": predicted / measured - 1,
                }
            )
        offs = np.array([row["off"] for row in rows])
        return {
            "networks": rows,
            "networks_mape": float(np.abs(offs).mean()),
            "networks_worst": float(np.abs(offs).max()),
            "networks_mape_in_seconds": float(np.mean([abs(row["off_in_seconds"]) for row in rows])),
            "teacher_again": again,
        }

    def network_figures(name: str, kind: str = "onnx") -> dict[str, object]:
        return figures(workspace, space, name, next(f for f in files if f.name == f"{name}.{kind}"), found)

    baseline, student = network_figures("teacher"), network_figures("student")
    predicted, error = tables["onnx"].predict_latency(space, chosen.candidates(space))
    onnx = predictions("onnx")
    tflite = {name: network_figures(key, "tflite") for name, key in zip(("baseline", *NAMES[1:]), NAMES, strict=True)}
    fb_mp = network_figures("student_fb_mp")

    def small_figures(one: dict[str, object], teacher: dict[str, object], kind: str) -> dict[str, object]:
        return compared_by_size(one, teacher, tables[kind].predict_size(space, mixed.candidates(space)))

    result = {
        "baseline": baseline,
        "student": student,
        "student_fb_mp": {**fb_mp, **small_figures(fb_mp, baseline, "onnx")},
        "predicted_latency_s": predicted,
        "predicted_latency_error_s": error,
        "seconds": 0.0,
        "faster": 1 - student["latency_s"] / baseline["latency_s"],
        "smaller": 1 - student["size_bytes"] / baseline["size_bytes"],
        "points_lost": 100 * (baseline["miou"] - student["miou"]),
        "limit": limit,
        "size_limit": size_limit,
        "power": float(power),
        "loads": loads,
        "architecture": {c.block: c.spec for c in chosen.choices},
        "architecture_fb_mp": {c.block: f"{c.spec} {c.scheme}" for c in mixed.choices},
        "form": next(iter(tables["onnx"].rows.values())).form,
        **onnx,
        "tflite": {
            **tflite,
            "student_fb_mp": {
                **tflite["student_fb_mp"],
                **small_figures(tflite["student_fb_mp"], tflite["baseline"], "tflite"),
            },
            "faster": 1 - tflite["student"]["latency_s"] / tflite["baseline"]["latency_s"],
            "smaller": 1 - tflite["student"]["size_bytes"] / tflite["baseline"]["size_bytes"],
            "points_lost": 100 * (tflite["baseline"]["miou"] - tflite["student"]["miou"]),
            "predicted_latency_s": tables["tflite"].predict_latency(space, chosen.candidates(space))[0],
            **predictions("tflite"),
        },
        "distill": distill_figures(
            list(LossTable.store(workspace.loss_file(space.origin)).rows()), [block.name for block in space.blocks]
        ),
        "space": {"candidates": [len(b.candidates) for b in space.blocks], "networks": space.networks},
        **circumstances(),
    }
    print(
        f"INT8 teacher {1e3 * baseline['latency_s']:.2f} ms, mIoU {100 * baseline['miou']:.2f}; "
        f"INT8 student {1e3 * student['latency_s']:.2f} ms, mIoU {100 * student['miou']:.2f}: "
        f"{100 * result['faster']:.1f} % faster, {result['points_lost']:.2f} points lost; "
        f"predicted {1e3 * predicted:.2f} ms; {NETWORKS} random networks: "
        f"MAPE {100 * result['networks_mape']:.1f} %, worst {100 * result['networks_worst']:.1f} %"
    )
    small = result["tflite"]["student_fb_mp"]
    print(
        f"few-bit student as TFLite: {small['size_bytes'] / 2**20:.2f} MiB, {100 * small['smaller']:.1f} % smaller, "
        f"{small['points_lost']:.2f} points lost, {100 * small['faster']:.1f} % faster; "
        f"its size was predicted {100 * small['size_off']:+.1f} % off"
    )
    return result


def figures(
    workspace: Workspace, space: SearchSpace, name: str, file: Artifact, found: dict[str, Measurement]
) -> dict[str, object]:
    """Return what a network's file is worth: its mIoU, what it took, its size, and how it was fine-tuned."""
    report = load_report(student_folder(workspace, space, name))
    return {
        "miou": report.file_of(file.format).miou,
        "latency_s": found[file.name].median_s,
        "latency_error_s": found[file.name].error_s,
        "size_bytes": file.size_bytes,
        "before": report.before,
        "after": report.after,
        "quantized": report.quantized,
        "kept": report.kept,
        "epochs": report.epochs,
        "quantized_epoch": report.quantized_epoch,
        "tried_miou": report.tried_miou,
        "tried_epoch": report.tried_epoch,
        "bfloat16": report.bfloat16,
    }


def measured(device: Device, files: list[Artifact]) -> dict[str, Measurement]:
    """Measure files in one session, all of a format in turn; return what each took, by its name."""
    device, found = with_runtime(device, BOTH), {}
    with open_session(device) as session:
        for kind in FORMATS:
            together = [file for file in files if file.format == kind]
            for step in measure(session, together, Settings(), device.threads, interleave=True):
                if isinstance(step.result, Measured):
                    found[step.result.artifact.name] = step.result.measurement
    return found


def compared_by_size(one: dict[str, object], teacher: dict[str, object], predicted_bytes: float) -> dict[str, object]:
    """Return by how much a network is smaller than the teacher, what that cost, and how well its size was predicted."""
    return {
        "smaller": 1 - one["size_bytes"] / teacher["size_bytes"],
        "points_lost": 100 * (teacher["miou"] - one["miou"]),
        "faster": 1 - one["latency_s"] / teacher["latency_s"],
        "predicted_size_bytes": predicted_bytes,
        "size_off": predicted_bytes / one["size_bytes"] - 1,
    }


def circumstances() -> dict[str, object]:
    """Return which teacher it was, what it ran on, with which versions, and when."""
    packages = ("qaedge", "torch", "onnx", "onnxruntime", "ai-edge-litert", "numpy")
    return {
        "teacher": f"the given CamVid teacher, trained {EPOCHS} epochs more by qaedge teacher train",
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "date": datetime.date.today().isoformat(),
    }


def spent(seconds: float) -> float:
    """Add the seconds of this call to those of the calls before it, which the work folder keeps; return all."""
    path = WORK / "seconds.json"
    before = decode_json(path, float) if path.exists() else 0.0
    write_json(path, before + seconds)
    return before + seconds


def distill_figures(rows: list[LossRow], blocks: list[str]) -> dict[str, object]:
    """Per block: candidates trained, seconds each, and the share inside forward, backward and step.

    None where nothing was trained, as where all rows come from kept weights.
    """
    # Of a candidate's rows, one for each scheme, only that which trained it counts.
    trained = [row for row in rows if row.train_seconds]
    figures: dict[str, object] = {}
    for name in blocks:
        mine = [row for row in trained if row.block == name]
        each = sum(row.seconds for row in mine) / len(mine) if mine else None
        figures[name] = {"candidates": len(mine), "seconds_each": each, "training": training_share(mine)}
    return {**figures, "training": training_share(trained)}


def training_share(rows: list[LossRow]) -> float | None:
    """The share of the rows' seconds that was inside forward, backward and step; None where there are none."""
    total = sum(row.seconds for row in rows)
    return sum(row.train_seconds for row in rows) / total if total else None


def processor() -> str:
    """What the machine calls its processor, and what of it decides INT8 speed."""
    text = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in text.splitlines() if "model name" in line), "unknown")
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return f"{model} ({'with' if {'avx512_vnni', 'avx_vnni'} & set(flags) else 'without'} VNNI)"


if __name__ == "__main__":
    main()
