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

import numpy as np

from qaedge import cli
from qaedge.architecture import Architecture, BlockChoice
from qaedge.artifact import Artifact
from qaedge.cli.form import choose_for
from qaedge.device import load_device
from qaedge.files import write_json
from qaedge.hil.profile import Measured, Settings, measure, open_session
from qaedge.nn.candidates import export_network
from qaedge.nn.student import load_report, student_folder
from qaedge.nn.teacher import load_teacher
from qaedge.project import Workspace
from qaedge.space import SearchSpace
from qaedge.tables import LatencyTable, LossTable

HERE = Path(__file__).resolve().parent
PROJECT = HERE / "qaedge.toml"
WORK = HERE / "work"
NETWORKS = 12
EPOCHS = 12


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
    """Run what is missing, then measure everything in one session."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", default="74%", help="limit for the search")
    parser.add_argument("--power", default="1.5", help="of the block losses in the search")
    flags = parser.parse_args()
    limit, power = flags.latency, flags.power
    started = time.perf_counter()
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
    command("profile")
    command(
        "search", "--latency", limit, "--power", power, "--output", str(architecture), "--plot", str(HERE / "front.png")
    )
    workspace = Workspace.open(PROJECT)
    teacher = load_teacher(workspace)
    space = SearchSpace.load(workspace.space_json)
    chosen = Architecture.load(architecture, space)
    for name, arguments in (("teacher", ["--teacher"]), ("student", [str(architecture), "--name", "student"])):
        folder = student_folder(workspace, space, name)
        wanted = chosen if name == "student" else Architecture.own(space)
        saved = folder / "architecture.json"
        if not (folder / "student.json").exists() or Architecture.load(saved, space).choices != wanted.choices:
            command("build", *arguments)
        command("export", name, "--output", str(WORK / f"{name}.onnx"))

    device = load_device(workspace.project.device)
    choose = choose_for(device, workspace)
    table = LatencyTable(device.name, LatencyTable.store(workspace.latency_file(device.name)).rows())
    random = np.random.default_rng(0)
    drawn = [random_network(space, random) for _ in range(NETWORKS)]
    files = [Artifact.of(WORK / f"{name}.onnx", name=name) for name in ("teacher", "student")]
    files += [export_network(workspace, teacher, space, network, choose) for network in drawn]
    found = {}
    with open_session(device) as session:
        for step in measure(session, files, Settings(), device.threads, interleave=True):
            if isinstance(step.result, Measured):
                found[step.result.artifact.name] = step.result.measurement
    rows = []
    for artifact, network in zip(files[2:], drawn, strict=True):
        predicted, _ = table.predict_latency(space, network.candidates(space))
        measured = found[artifact.name].median_s
        rows.append({"predicted_s": predicted, "measured_s": measured, "off": predicted / measured - 1})

    def network_figures(name: str) -> dict[str, object]:
        report = load_report(student_folder(workspace, space, name))
        measurement = found[name]
        return {
            "miou": report.miou,
            "latency_s": measurement.median_s,
            "latency_error_s": measurement.error_s,
            "size_bytes": next(f.size_bytes for f in files if f.name == name),
            "before": report.before,
            "after": report.after,
            "kept": report.kept,
            "epochs": report.epochs,
        }

    baseline, student = network_figures("teacher"), network_figures("student")
    predicted, error = table.predict_latency(space, chosen.candidates(space))
    offs = np.array([row["off"] for row in rows])
    result = {
        "baseline": baseline,
        "student": student,
        "predicted_latency_s": predicted,
        "predicted_latency_error_s": error,
        "seconds": time.perf_counter() - started,
        "faster": 1 - student["latency_s"] / baseline["latency_s"],
        "smaller": 1 - student["size_bytes"] / baseline["size_bytes"],
        "points_lost": 100 * (baseline["miou"] - student["miou"]),
        "limit": limit,
        "power": float(power),
        "architecture": {c.block: c.spec for c in chosen.choices},
        "form": next(iter(table.rows.values())).form,
        "networks": rows,
        "networks_mape": float(np.abs(offs).mean()),
        "networks_worst": float(np.abs(offs).max()),
        "teacher": f"the given CamVid teacher, trained {EPOCHS} epochs more by qaedge teacher train",
        "distill": distill_figures(workspace, space),
        "space": {"candidates": [len(b.candidates) for b in space.blocks], "networks": space.networks},
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("qaedge", "torch", "onnx", "onnxruntime", "numpy")},
        "date": datetime.date.today().isoformat(),
    }
    write_json(HERE / "result.json", result)
    print(
        f"INT8 teacher {1e3 * baseline['latency_s']:.2f} ms, mIoU {100 * baseline['miou']:.2f}; "
        f"INT8 student {1e3 * student['latency_s']:.2f} ms, mIoU {100 * student['miou']:.2f}: "
        f"{100 * result['faster']:.1f} % faster, {result['points_lost']:.2f} points lost; "
        f"predicted {1e3 * predicted:.2f} ms; {NETWORKS} random networks: "
        f"MAPE {100 * result['networks_mape']:.1f} %, worst {100 * result['networks_worst']:.1f} %"
    )


def distill_figures(workspace: Workspace, space: SearchSpace) -> dict[str, object]:
    """Per block: candidates trained, seconds each, and the share inside forward, backward and step."""
    rows = list(LossTable.store(workspace.loss_file(space.origin)).rows())
    figures: dict[str, object] = {}
    for block in space.blocks:
        mine = [row for row in rows if row.block == block.name and row.steps]
        total, inside = sum(row.seconds for row in mine), sum(row.train_seconds for row in mine)
        figures[block.name] = {"candidates": len(mine), "seconds_each": total / len(mine), "training": inside / total}
    trained = [row for row in rows if row.steps]
    figures["training"] = sum(row.train_seconds for row in trained) / sum(row.seconds for row in trained)
    return figures


def processor() -> str:
    """What the machine calls its processor, and what of it decides INT8 speed."""
    text = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in text.splitlines() if "model name" in line), "unknown")
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return f"{model} ({'with' if {'avx512_vnni', 'avx_vnni'} & set(flags) else 'without'} VNNI)"


if __name__ == "__main__":
    main()
