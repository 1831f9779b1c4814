"""Activations of 16 bits beside 8, from distill to files that are run, with what lies between measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli_chain import Project, command
from tiny_scenes import ALL, write_project

from qaedge.architecture import Architecture
from qaedge.borders import borders, borders_in
from qaedge.nn.student import load_network
from qaedge.nn.teacher import load_teacher
from qaedge.nn.widths import crossings
from qaedge.tables import LatencyTable, LossTable, table_keys

pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")

FORMATS = ("onnx", "tflite")
BLOCK = '[[block]]\nname = "{}"\nkind = "{}"\n{}\nschemes = {}\n'
SPACE = 'name = "wide"\n' + "".join(
    BLOCK.format(name, kind, axes, '["w8a8", "w8a16", "w4a16"]' if name == "stage3" else '["w8a8"]')
    for name, kind, axes in (
        ("stage1", "stem", "widths = [8]"),
        ("stage2", "inverted_residual", "expansions = [2]"),
        ("stage3", "inverted_residual", "expansions = [2]"),
        ("rest", "inverted_residual", "expansions = [2]"),
        ("head", "context", "kernels = [1]\nwidths = [8]"),
    )
)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Distilled, and measured as both kinds of file."""
    project = Project(tmp_path_factory.mktemp("wide"))
    write_project(project.folder, space=SPACE, blocks=ALL)
    command(project, "distill")
    command(project, "profile", "--runtime", "both", "--wait", "4min")
    return project


def test_16_bits_lose_less_and_borders_are_measured(wide):
    losses = LossTable(LossTable.store(wide.workspace.loss_file(wide.space.origin)).rows())
    for candidate in wide.space.block("stage3").candidates:
        if str(candidate.scheme) == "w8a16":
            eight = next(
                c for c in wide.space.block("stage3").candidates if c.spec == candidate.spec and str(c.scheme) == "w8a8"
            )
            wide_row, row = losses.row("stage3", candidate), losses.row("stage3", eight)
            # Nearer to the loss in float: a candidate that is far from its teacher may also be less far by chance.
            assert abs(wide_row.loss - wide_row.float_loss) < abs(row.loss - row.float_loss)
    assert len(borders(wide.space)) == 2, "into the block, and out of it"
    for file_format in FORMATS:
        table = LatencyTable.read(wide.workspace.latency_file("local"), "local", file_format)
        assert table.rows.keys() == table_keys(wide.space) >= borders(wide.space).keys()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["w8a16", "w4a16"])
def test_a_mixed_network_goes_from_search_to_files_that_run(wide, qaedge, scheme, monkeypatch, tmp_path):
    monkeypatch.chdir(wide.folder)
    project = ("--project", wide.file)
    path = tmp_path / f"{scheme}.json"
    flags = ("--latency", "none", "--fix", f"stage3=ir_k3_s2_e2_c8@{scheme}", "--runtime", "tflite")
    ran = qaedge("search", *flags, "--output", path, *project)
    assert ran.status == 0, ran.err
    assert "Borders: 2 " in ran.out
    architecture = Architecture.load(path, wide.space)
    network = architecture.candidates(wide.space)
    table = LatencyTable.read(wide.workspace.latency_file("local"), "local", "tflite")
    rows = [table.row(one.key).measurement for one in borders_in(wide.space, network)]
    assert len(rows) == 2 and all(row.median_s > 0 for row in rows)

    ran = qaedge("build", path, "--epochs", "1", *project, "--quiet")
    assert ran.status == 0, ran.err
    ran = qaedge("export", path.stem, "--format", "onnx,tflite", "--verify-on", "local", "--json", *project)
    assert ran.status == 0, ran.err
    exported = json.loads(ran.out)
    assert all(row["verified"]["same_class"] >= 0.97 for row in exported)
    files = [Path(row["file"]) for row in exported]
    for file in files:
        told = json.loads(Path(f"{file}.json").read_text())
        assert told["architecture"]["stage3"].endswith(f" {scheme}") and scheme in told["scheme"]
    predicted = table.predict_size(wide.space, network)
    assert predicted == pytest.approx(files[1].stat().st_size, rel=0.02)
    found, _, _ = load_network(wide.workspace, load_teacher(wide.workspace), wide.space, path.stem)
    assert len(crossings(found.graph)) == 2
    ran = qaedge("bench", *files, "--json", "--quiet", *project)
    assert ran.status == 0, ran.err
    assert all(row["median_s"] > 0 for row in json.loads(ran.out))


def test_layers_outside_the_blocks_are_named_before_anything_runs(qaedge, tmp_path):
    project = Project(tmp_path)
    write_project(tmp_path, space=_without(SPACE))
    ran = qaedge("space", "--project", project.file)
    assert ran.status != 0 and "Traceback" not in ran.err
    assert "operators of the teacher lie in no block: features.2." in ran.err and "chain of blocks" in ran.err


def _without(space: str) -> str:
    """The space of three blocks, with layers between them."""
    first, *blocks = space.split("[[block]]")
    return first + "".join(f"[[block]]{block}" for block in blocks if '"stage2"' not in block and '"rest"' not in block)
