"""How large the networks of result.json are as today's files: `QAEDGE_DATA=... python benchmarks/camvid/sizes.py`.

A file's size depends on its layers and their bits and on how it is written, not on what the weights are: so this needs
no training, and tells what a change of the files does to what run.py once found. Writes sizes.json beside itself.
"""

from __future__ import annotations

import datetime
import os
import sys
import tempfile
from pathlib import Path

import msgspec

from qaedge.architecture import Architecture, BlockChoice
from qaedge.cli.form import choose_for
from qaedge.cli.resolve import resolve
from qaedge.device import load_device
from qaedge.files import write_json
from qaedge.nn.candidates import export_network
from qaedge.project import Workspace
from qaedge.runtime import FORMATS
from qaedge.space import SearchSpace

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from machine import machine  # noqa: E402 - every benchmark tells its machine alike


def network(space: SearchSpace, chosen: dict[str, str]) -> Architecture:
    """Return the network of a candidate and a scheme for each block; w8a8 where no scheme is named."""
    own, choices = Architecture.own(space), []
    for block in space.blocks:
        spec, _, scheme = chosen[block.name].partition(" ")
        scheme = scheme or "w8a8"
        for index, candidate in enumerate(block.candidates):
            alike = candidate.spec.is_own if spec.startswith("own") else str(candidate.spec) == spec
            if alike and str(candidate.scheme) == scheme:
                choices.append(BlockChoice(block.name, str(candidate.spec), scheme, index))
                break
        else:
            sys.exit(f"The space has no {spec} in {scheme} in {block.name} any more.")
    return Architecture(own.space, own.space_hash, own.teacher, tuple(choices), 0.0, {})


def main() -> None:
    """Write the files, and count their bytes."""
    result = msgspec.json.decode((HERE / "result.json").read_bytes())
    given = Path(os.environ["QAEDGE_DATA"]) / "teachers" / "deeplabv3_mobilenetv2_camvid.safetensors"
    text = (HERE / "qaedge.toml").read_text().replace("work/teacher.safetensors", str(given))
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "qaedge.toml"
        project.write_text(text.replace("../../examples", str(HERE.parents[1] / "examples")))
        workspace = Workspace.open(project)
        teacher, space = resolve(workspace)
        choose = choose_for(load_device("local"), workspace)
        networks = {
            "baseline": Architecture.own(space),
            "student": network(space, result["architecture"]),
            "student_fb_mp": network(space, result["architecture_fb_mp"]),
        }
        found = {
            kind: {
                name: export_network(workspace, teacher, space, each, choose, kind).size_bytes
                for name, each in networks.items()
            }
            for kind in FORMATS
        }
    told = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine(),
        "networks_of": result["date"],
        **{
            kind: {
                "size_bytes": sizes,
                "smaller": {name: 1 - size / sizes["baseline"] for name, size in sizes.items() if name != "baseline"},
            }
            for kind, sizes in found.items()
        },
    }
    write_json(HERE / "sizes.json", told)
    print(found)


if __name__ == "__main__":
    main()
