"""`qaedge report`: the page that it writes, with what there is, and what it says of the rest."""

from __future__ import annotations

import json

import pytest

from qaedge.project import Workspace

pytest.importorskip("plotly", reason="plotly is not installed: qaedge[page]")


@pytest.fixture
def student(tables, qaedge, tmp_path):
    assert qaedge("search", "--latency", "12ms", "--output", tmp_path / "student.json", "--quiet").status == 0
    return tmp_path / "student.json"


def test_a_page_is_written_from_tables_alone(tables, qaedge, scenes):
    ran = qaedge("report", "--no-pictures")
    assert ran.status == 0, ran.err
    assert ran.out.startswith("wrote report.html (")
    assert "No network was chosen" in ran.err and "error" not in ran.err
    text = (scenes / "report.html").read_text()
    assert "tiny on local" in text and "No network was chosen" in text


def test_json_tells_what_is_on_the_page(student, qaedge, tmp_path):
    ran = qaedge("report", student, "--latency", "50%", "--output", tmp_path / "page.html", "--no-pictures", "--json")
    assert ran.status == 0, ran.err
    value = json.loads(ran.out)
    assert value["page"] == str(tmp_path / "page.html")
    assert value["size_bytes"] == (tmp_path / "page.html").stat().st_size
    assert [chosen["name"] for chosen in value["chosen"]] == ["student", "within 50%"]
    assert value["chosen"][0]["network"]["latency_s"] <= 0.012
    assert value["front"]["latency"] > 2 and value["agreement"] == []
    assert any("qaedge build student.json" in text for text in value["missing"])


def test_plots_are_written_for_papers(student, qaedge, tmp_path):
    pytest.importorskip("matplotlib")
    ran = qaedge("report", student, "--no-pictures", "--png", tmp_path / "figures")
    assert ran.status == 0, ran.err
    written = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert written == ["candidates-onnx.png", "front-latency.png", "front-size.png"]
    assert f"wrote {tmp_path / 'figures' / 'front-size.png'}" in ran.out


def test_no_loss_table_is_a_note(tables, qaedge, scenes):
    Workspace.open().loss_file(tables.origin).unlink()
    ran = qaedge("report", "--no-pictures")
    assert ran.status == 0 and "qaedge distill" in ran.err
    assert "qaedge distill" in (scenes / "report.html").read_text()


def test_no_latency_table_is_a_note(tables, qaedge, scenes):
    Workspace.open().latency_file("local").unlink()
    ran = qaedge("report", "--no-pictures", "--latency", "50%")
    assert ran.status == 0 and "qaedge profile --device local" in ran.err


def test_a_network_of_another_space_is_an_error(student, qaedge):
    value = json.loads(student.read_text())
    student.write_text(json.dumps({**value, "space_hash": "0" * 12}))
    ran = qaedge("report", student, "--no-pictures")
    assert ran.status == 1 and "space_hash" in ran.err


def test_a_limit_without_its_unit_is_wrong_usage(tables, qaedge):
    assert qaedge("report", "--latency", "25", "--no-pictures").status == 2


def test_pictures_show_generated_scenes(tables, qaedge, scenes):
    pytest.importorskip("torch")
    ran = qaedge("report", "--json")
    assert ran.status == 0, ran.err
    # The project's teacher has its blocks and no weights: it is run in float.
    value = json.loads(ran.out)
    assert len(value["pictures"]) == 4, value["missing"]
    text = (scenes / "report.html").read_text()
    assert text.count("teacher, in float, mIoU") == 4 and "data:image/jpeg;base64," in text


def test_without_torch_there_is_a_page_without_pictures(tables, spawn, scenes):
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime'): sys.modules[name] = None\n"
        "import qaedge.cli; sys.exit(qaedge.cli.run(['report', '--quiet']))"
    )
    process = spawn(code=code)
    out, err = process.communicate()
    assert process.returncode == 0 and out.startswith("wrote report.html"), err
    assert "No pictures" in (scenes / "report.html").read_text() and err == ""


def test_a_file_of_another_network_does_not_count(student, qaedge, tmp_path):
    (tmp_path / "student.onnx").write_bytes(b"x")
    manifest = {"file": "student.onnx", "size_bytes": 1, "space_hash": "0" * 12, "architecture": {}, "miou": 0.9}
    (tmp_path / "student.onnx.json").write_text(json.dumps(manifest))
    value = json.loads(qaedge("report", student, "--no-pictures", "--json").out)
    assert value["chosen"][0]["built"] is None
    network = json.loads(student.read_text())
    manifest["space_hash"] = network["space_hash"]
    manifest["architecture"] = {c["block"]: f"{c['spec']} {c['scheme']}" for c in network["choices"]}
    (tmp_path / "student.onnx.json").write_text(json.dumps(manifest))
    value = json.loads(qaedge("report", student, "--no-pictures", "--json").out)
    assert value["chosen"][0]["built"] == {"file": "student.onnx", "size_bytes": 1, "miou": 0.9}
