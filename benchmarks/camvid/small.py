"""The few-bit half of the CamVid run by itself: `QAEDGE_DATA=... python benchmarks/camvid/small.py`.

After run.py has built the baseline and the few-bit student, which it does before anything is measured: a whole run also
fills a latency table, which takes a quiet machine. Renews `student_fb_mp` and `tflite.student_fb_mp` in result.json,
each with the baseline of its own run beside it, `architecture_fb_mp` and `size_limit`; the rest of result.json stays
that of the run before.
"""

from __future__ import annotations

import msgspec
from run import HERE, PROJECT, WORK, circumstances, command, compared_by_size, figures, measured

from qaedge.architecture import Architecture
from qaedge.artifact import Artifact
from qaedge.cli.sizes import size_table
from qaedge.device import load_device
from qaedge.files import write_json
from qaedge.measurement import Measurement
from qaedge.project import Workspace
from qaedge.runtime import FORMATS
from qaedge.space import SearchSpace

NAMES = {"baseline": "teacher", "student_fb_mp": "student_fb_mp"}


def main() -> None:
    """Export both networks, measure them in turn, and renew their part of result.json."""
    workspace = Workspace.open(PROJECT)
    space = SearchSpace.load(workspace.space_json)
    for name in NAMES.values():
        command("export", name, "--format", "onnx,tflite", "--output", str(WORK / f"{name}.onnx"))
    files = [Artifact.of(WORK / f"{name}.{kind}", f"{name}.{kind}") for kind in FORMATS for name in NAMES.values()]
    found = measured(load_device(workspace.project.device), files)
    path = HERE / "result.json"
    result = msgspec.json.decode(path.read_bytes())
    for kind, into in (("onnx", result), ("tflite", result["tflite"])):
        into["student_fb_mp"] = small_figures(workspace, space, kind, files, found)
    mixed = Architecture.load(WORK / "student_fb_mp.json", space)
    result["architecture_fb_mp"] = {choice.block: f"{choice.spec} {choice.scheme}" for choice in mixed.choices}
    result["size_limit"] = msgspec.json.decode((WORK / "limits.json").read_bytes())["size"]
    write_json(path, result)


def small_figures(
    workspace: Workspace, space: SearchSpace, kind: str, files: list[Artifact], found: dict[str, Measurement]
) -> dict[str, object]:
    """Return the figures of the few-bit student in a format, and beside them those of its baseline."""
    by_name = {key: next(file for file in files if file.name == f"{name}.{kind}") for key, name in NAMES.items()}
    small, baseline = (
        figures(workspace, space, NAMES[key], by_name[key], found) for key in ("student_fb_mp", "baseline")
    )
    mixed = Architecture.load(WORK / "student_fb_mp.json", space)
    table = size_table(workspace, space, load_device(workspace.project.device).name, kind, quiet=True)
    parts, (whole, _) = table.part_sizes(space, False), table.origin(space, False)
    pairs = zip(mixed.candidates(space), Architecture.own(space).candidates(space), strict=True)
    predicted = whole.size_bytes + sum(parts[chosen.key] - parts[own.key] for chosen, own in pairs)
    return {
        **small,
        **compared_by_size(small, baseline, predicted),
        "baseline": baseline,
        **circumstances(),
    }


if __name__ == "__main__":
    main()
