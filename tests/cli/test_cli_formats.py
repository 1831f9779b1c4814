"""ONNX beside TFLite through the command line: measured, searched, built and given away as both."""

from __future__ import annotations

import json
import re

import msgspec
import numpy as np
import pytest
from test_cli_chain import Project, command, save_architecture
from tiny_scenes import SPACE, write_project

from qaedge.architecture import Architecture
from qaedge.nn.manifest import Manifest
from qaedge.nn.student import StudentReport, file_miou, open_splits
from qaedge.nn.tflite_session import TfliteSession
from qaedge.tables import LatencyTable, table_keys

pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")

#: Every block in float, too.
BOTH = SPACE.replace('"w7a8", "w4a8"', '"w7a8", "fp32"').replace('schemes = ["w7a8"]', 'schemes = ["w7a8", "fp32"]')


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Distilled, measured as ONNX and as TFLite, in float and in integers; one student built."""
    project = Project(tmp_path_factory.mktemp("both"))
    write_project(project.folder, space=BOTH)
    file = project.folder / "qaedge.toml"
    file.write_text(file.read_text() + "quantized_epochs = 2\nquantized_learning_rate = 5e-4\n")
    command(project, "distill")
    command(project, "profile", "--runtime", "both", "--wait", "4min")
    save_architecture(project, project.folder / "small.json", (2, 2, 2))
    command(project, "build", project.folder / "small.json")
    return project


def test_each_format_has_its_rows(both, qaedge):
    for name in ("onnx", "tflite"):
        table = LatencyTable.read(both.workspace.latency_file("local"), "local", name)
        assert table.rows.keys() == table_keys(both.space)
        assert {row.measurement.runtime for row in table.rows.values()} == {
            {"onnx": "onnxruntime", "tflite": "tflite"}[name]
        }
        forms = {row.form for key, row in table.rows.items() if "@w7a8" in key}
        assert forms == ({"s8s8"} if name == "tflite" else forms) and "float" not in forms
    ran = qaedge("profile", "--runtime", "both", "--json", "--project", both.file)
    onnx, tflite = json.loads(ran.out)
    assert (onnx["format"], tflite["format"]) == ("onnx", "tflite")
    assert onnx["measured"] == tflite["measured"] == 0 and onnx["kept"] == tflite["kept"] == len(table_keys(both.space))
    # Where integers are slower, the two measured figures are there, the slower one first.
    for found in (*onnx["slower"], *tflite["slower"]):
        assert found["integer_s"] > found["float_s"] > 0 and found["scheme"] == "w7a8"


def test_search_takes_the_faster_kind_of_file(both, qaedge):
    def found(*flags: str) -> dict[str, object]:
        ran = qaedge("search", "--latency", "none", "--json", *flags, "--project", both.file)
        assert ran.status == 0, ran.err
        return json.loads(ran.out)["architecture"]

    kinds = {
        (name, precision): found("--runtime", name, "--precision", precision)
        for name in ("onnx", "tflite")
        for precision in ("integers", "float")
    }
    for (name, precision), one in kinds.items():
        assert one["file_format"] == name
        assert {c["scheme"] for c in one["choices"]} == {"w7a8" if precision == "integers" else "fp32"}
    chosen = found("--runtime", "best")
    assert chosen["loss"] == min(one["loss"] for one in kinds.values())
    rivals = [one for one in kinds.values() if one["choices"] == chosen["choices"]]
    assert len(rivals) == 2
    assert chosen["costs"]["latency@local"]["value"] == min(r["costs"]["latency@local"]["value"] for r in rivals)

    assert found("--runtime", "onnx", "--precision", "w7a8") == kinds["onnx", "integers"]

    front = json.loads(qaedge("search", "--pareto", "--json", "--latency", "none", "--project", both.file).out)["front"]
    times, losses = [p["latency_s"] for p in front], [p["loss"] for p in front]
    assert times == sorted(times) and losses == sorted(losses, reverse=True)
    assert all(len({c.partition("@")[2] for c in p["candidates"]}) == 1 for p in front), "no file mixes precisions"
    shown = qaedge("search", "--runtime", "best", "--latency", "none", "--project", both.file)
    assert "this network as" in shown.out and "tflite" in shown.out and "chosen" in shown.out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--runtime", "tfl"), "--runtime 'tfl' is none"),
        (("--precision", "int4"), "--precision 'int4' is none"),
        (("--precision", "w8a8,w9"), "--precision 'w8a8' is none"),
    ],
)
def test_words_that_are_none_are_told(both, qaedge, flags, said):
    ran = qaedge("search", *flags, "--project", both.file)
    assert ran.status == 2 and said in ran.err and "Known: " in ran.err


def test_what_was_not_measured_is_not_chosen_between(tables, qaedge):
    ran = qaedge("search", "--runtime", "best")
    assert ran.status == 1 and "qaedge profile --device local --runtime tflite" in ran.err
    ran = qaedge("search", "--runtime", "tflite")
    assert ran.status == 1 and "was not measured on local as tflite" in ran.err
    ran = qaedge("search", "--precision", "float")
    assert ran.status == 2 and "has no networks in float" in ran.err


def test_both_files_are_given_away_checked_and_verified(both, qaedge, monkeypatch):
    monkeypatch.chdir(both.folder)
    ran = qaedge("export", "small", "--format", "onnx,tflite", "--verify-on", "local", "--json", "--project", both.file)
    assert ran.status == 0, ran.err
    onnx, tflite = json.loads(ran.out)
    assert (onnx["file"], tflite["file"]) == ("small.onnx", "small.tflite")
    for row in (onnx, tflite):
        assert row["same_class"] >= 0.97 and row["within_one_step"] >= 0.995 and row["images"] == 4
        assert row["verified"]["same_class"] >= 0.999 and row["verified"]["device"] == "local"
    assert tflite["verified"]["runtime"].startswith("tflite ai-edge-litert")

    path = both.folder / "small.tflite"
    manifest = msgspec.json.decode((both.folder / "small.tflite.json").read_bytes(), type=Manifest)
    session = TfliteSession(path)
    assert (manifest.input.type, manifest.input.layout, manifest.input.shape) == ("int8", "NHWC", (1, 32, 48, 3))
    assert (manifest.input.scale, manifest.input.zero_point) == session.input_grid
    assert (manifest.output.scale, manifest.output.zero_point) == session.output_grid
    assert manifest.output.shape == (1, 32, 48, 8) and manifest.form == "s8s8" and manifest.format == "tflite"
    assert "ai-edge-litert" in manifest.versions

    report = msgspec.json.decode((both.student("small") / "student.json").read_bytes(), type=StudentReport)
    _, val = open_splits(both.workspace)
    *_, last = file_miou(path, val)
    assert last.result.miou == pytest.approx(report.tflite.miou) == pytest.approx(manifest.miou)
    # As a user would feed it from the manifest alone.
    image = val.image(0).astype(np.float32) / 255
    normalized = (image - np.float32(manifest.input.mean)) / np.float32(manifest.input.std)
    fed = np.round(normalized / manifest.input.scale) + manifest.input.zero_point
    integers = np.clip(fed, -128, 127).astype(np.int8)[None]
    assert np.mean(integers == session.feed(val.preprocess(val.image(0)[None]))) > 0.999
    shown = qaedge("bench", "small.onnx", "small.tflite")
    assert shown.status == 0 and "small.tflite" in shown.out


def test_the_best_of_three_stages_is_kept(both):
    folder = both.student("small")
    report = msgspec.json.decode((folder / "student.json").read_bytes(), type=StudentReport)
    stages = {"before": report.before, "after": report.after, "quantized": report.quantized}
    assert report.miou == max(scores.miou for scores in stages.values() if scores is not None)
    assert report.kept == max((k for k, v in stages.items() if v is not None), key=lambda k: stages[k].miou)
    assert report.file == f"{report.kept}.onnx" and (folder / f"{report.kept}.network.safetensors").exists()
    assert (report.quantized is None) == (report.quantized_epoch == 0)
    _, val = open_splits(both.workspace)
    *_, last = file_miou(folder / report.file, val)
    assert last.result.miou == pytest.approx(report.miou)


def test_the_format_that_search_chose_is_the_one_exported(both, qaedge, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file = both.student("small") / "architecture.json"
    before = file.read_bytes()
    msgspec.structs.replace(Architecture.read(file), file_format="tflite").save(file)
    try:
        assert qaedge("export", "small", "--project", both.file).status == 0
    finally:
        file.write_bytes(before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.tflite", "small.tflite.json"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--format", "tf"), "--format 'tf' is no format"),
        (("--format", "tflite", "--output", "a.onnx"), "is no name of a file in tflite"),
        (("--output", "a.bin"), "does not say which format it is"),
    ],
)
def test_formats_that_are_none_are_told(both, qaedge, flags, said):
    ran = qaedge("export", "small", *flags, "--project", both.file)
    assert ran.status == 2 and said in ran.err


def test_a_build_without_tflite_says_how_to_get_it(both, qaedge, monkeypatch, tmp_path):
    file = both.student("small") / "student.json"
    before = file.read_bytes()
    report = msgspec.json.decode(before, type=StudentReport)
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(report, tflite=None)))
    try:
        ran = qaedge("export", "small", "--output", tmp_path / "a.tflite", "--project", both.file)
    finally:
        file.write_bytes(before)
    assert ran.status == 1 and "small has no tflite file" in ran.err and "qaedge[tflite]" in ran.err


def test_every_kind_is_tried_before_any_training(both, qaedge, monkeypatch):
    ran = qaedge("space", "check", "--runtime", "both", "--json", "--project", both.file)
    assert ran.status == 0, ran.err
    rows = json.loads(ran.out)
    assert {row["runtime"] for row in rows} == {"onnxruntime", "tflite"} and not any(row["problem"] for row in rows)
    each = [row for row in rows if row["runtime"] == "tflite"]
    candidates = sum(len(block.candidates) for block in both.space.blocks)
    assert sum(row["candidates"] for row in each if row["block"]) == candidates
    assert sum(not row["block"] for row in each) == 2, "the teacher in either scheme"


def test_a_kind_that_cannot_run_is_named_with_its_operator_and_runtime(both, qaedge, monkeypatch):
    from qaedge.nn.tflite_operators import EMITTERS

    monkeypatch.delitem(EMITTERS, "mean")  # as a runtime that has no such operator
    ran = qaedge("space", "check", "--project", both.file)
    assert ran.status == 1
    assert "poolcontext_k1_c8+logits_c8" in ran.out and "'mean'" in ran.out and "tflite" in ran.out
    assert "stage3" not in ran.out, "what runs is not listed"
    count = sum(len(block.candidates) for block in both.space.blocks)
    assert (
        f"On local, tflite does not run 4 of 12 kinds of candidates (4 of {count} candidates), "
        "the whole teacher (w7a8), the whole teacher (fp32)."
    ) in " ".join(ran.err.split()), "the teacher's own head and another one, in both schemes"


def test_kinds_that_blocks_share_are_counted_for_each_and_the_teacher_for_none(qaedge, monkeypatch, tmp_path):
    """Two blocks of the same shapes: their candidates are the same files."""
    from qaedge.nn.tflite_operators import EMITTERS

    stages = "".join(f'[[block]]\nname = "{n}"\nexpansions = [2, 6]\nschemes = ["w7a8"]\n' for n in ("one", "two"))
    write_project(tmp_path, space=f'name = "shared"\n{stages}')
    file = tmp_path / "qaedge.toml"
    text = file.read_text().replace("depth = 0.34", "depth = 1.0").replace("teacher.safetensors", "")
    file.write_text(re.sub(r"stage1 = .*\n.*\n.*\n", 'one = "features[5:6]"\ntwo = "features[6:7]"\n', text))
    ran = qaedge("space", "check", "--runtime", "tflite", "--json", "--project", file)
    assert ran.status == 0, ran.err
    rows = json.loads(ran.out)
    counts = {name: [row["candidates"] for row in rows if row["block"] == name] for name in ("one", "two", "")}
    assert counts[""] == [0] and sum(counts["one"]) == sum(counts["two"]) == 3

    monkeypatch.delitem(EMITTERS, "add")
    ran = qaedge("space", "check", "--runtime", "tflite", "--project", file)
    said = " ".join(ran.err.split())
    assert ran.status == 1 and "(6 of 6 candidates), the whole teacher (w7a8)." in said
    assert ran.out.count("one ") == ran.out.count("two ") >= 1
