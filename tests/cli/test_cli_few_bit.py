"""Few-bit families from distill to a file that is run, as ONNX and as TFLite."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from test_cli_chain import Project, command
from tiny_scenes import SPACE, write_project

from qaedge.architecture import Architecture
from qaedge.nn.manifest import Manifest
from qaedge.nn.student import file_miou, open_splits
from qaedge.tables import LatencyTable, LossTable, table_keys

pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")

#: All at two bits; the first and the last layer kept; the most sensitive one kept; the depthwise one kept.
FAMILIES = ("w2a8", "w4fl8a8", "w4s1a8", "w2dw8a8")
FORMATS = ("onnx", "tflite")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Distilled, and measured as both kinds of file."""
    project = Project(tmp_path_factory.mktemp("few"))
    stage3 = f"expansions = [2]\nschemes = {json.dumps(['w8a8', *FAMILIES])}"
    space = SPACE.replace('expansions = [2, 6]\nschemes = ["w7a8", "w4a8"]', stage3).replace('"w7a8"', '"w8a8"')
    write_project(project.folder, space=space)
    command(project, "distill")
    command(project, "profile", "--runtime", "both", "--wait", "4min")
    return project


@pytest.mark.slow
@pytest.mark.parametrize("scheme", FAMILIES)
def test_a_family_goes_from_distill_to_a_file_that_runs(few, qaedge, scheme, monkeypatch, tmp_path):
    monkeypatch.chdir(few.folder)
    project = ("--project", few.file)
    path = tmp_path / f"{scheme}.json"
    # A candidate that is trained, and one that is the teacher's own.
    other = "own" if scheme == "w4s1a8" else "ir_k3_s2_e2_c8"
    flags = ("--latency", "none", "--fix", f"stage3={other}@{scheme}", "--runtime", "onnx")
    ran = qaedge("search", *flags, "--output", path, *project)
    assert ran.status == 0, ran.err
    assert Architecture.load(path, few.space).choices[1].scheme == scheme
    assert qaedge("build", path, "--epochs", "0", *project, "--quiet").status == 0
    ran = qaedge("export", path.stem, "--format", "onnx,tflite", "--json", *project)
    assert ran.status == 0, ran.err
    files = [Path(row["file"]) for row in json.loads(ran.out)]
    assert [file.suffix for file in files] == [".onnx", ".tflite"]

    candidate = Architecture.load(path, few.space).candidates(few.space)[1]
    row = LossTable(LossTable.store(few.workspace.loss_file(few.space.origin)).rows()).row("stage3", candidate)
    assert len(row.layer_bits) == 3 and min(row.layer_bits) == int(scheme[1])
    assert (max(row.layer_bits) == 8) == (scheme != "w2a8")
    _, val = open_splits(few.workspace)
    for file in files:
        manifest = msgspec.json.decode(Path(f"{file}.json").read_bytes(), type=Manifest)
        assert manifest.architecture["stage3"].endswith(f" {scheme}")
        assert scheme in manifest.scheme.split(", ") and manifest.ranges.startswith("least squared error over ")
        *_, last = file_miou(file, val)
        assert last.result.miou == pytest.approx(manifest.miou)
        table = LatencyTable.read(few.workspace.latency_file("local"), "local", file.suffix[1:])
        predicted = table.predict_size(few.space, Architecture.load(path, few.space).candidates(few.space))
        assert predicted == pytest.approx(file.stat().st_size, rel=0.02)
    ran = qaedge("bench", *files, "--json", "--quiet", *project)
    assert ran.status == 0, ran.err
    # What was predicted is of the format that was searched; of the other file nothing was.
    assert all(row["median_s"] > 0 for row in json.loads(ran.out))
    assert [row["predicted_s"] is not None for row in json.loads(ran.out)] == [True, False]


def test_every_family_was_scored_and_measured(few, qaedge):
    for file_format in FORMATS:
        table = LatencyTable.read(few.workspace.latency_file("local"), "local", file_format)
        assert table.rows.keys() == table_keys(few.space)
    ran = qaedge("space", "--gains", "--project", few.file)
    assert ran.status == 0 and all(scheme in ran.out for scheme in FAMILIES), ran.out
    steps = json.loads(qaedge("space", "--json", "--project", few.file).out)["steps"]
    told = {(one["scheme"], one["step"]) for one in steps}
    assert {(scheme, step) for scheme in FAMILIES for step in ("nearest", "ranges", "rounding")} <= told
    sizes = {
        scheme: min(
            LatencyTable.read(few.workspace.latency_file("local"), "local").row(candidate.key).weight_bytes
            for candidate in few.space.block("stage3").candidates
            if str(candidate.scheme) == scheme
        )
        for scheme in ("w8a8", *FAMILIES)
    }
    assert sizes["w2a8"] < sizes["w2dw8a8"] < sizes["w8a8"] and sizes["w4fl8a8"] < sizes["w8a8"]


def test_the_front_over_size_mixes_bits(few, qaedge):
    ran = qaedge("search", "--by", "size", "--latency", "none", "--pareto", "--json", "--project", few.file)
    assert ran.status == 0, ran.err
    front = json.loads(ran.out)["front"]
    schemes = {candidate.partition("@")[2] for one in front for candidate in one["candidates"]}
    assert schemes >= {"w8a8"} and schemes & set(FAMILIES)
