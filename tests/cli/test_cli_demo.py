"""`qaedge demo` on a project small enough for a test: every step is real, only the sizes are not."""

from __future__ import annotations

import json

import pytest

from qaedge import cli
from qaedge.cli import demo
from qaedge.cli.search import MARGIN

SMALLER = {
    "height = 128": "height = 32",
    "width = 192": "width = 48",
    "count = 160": "count = 16",
    "steps = 40": "steps = 2",
    "epochs = 6": "epochs = 1",
    "crop = [128, 192]": "crop = [32, 48]",
    'latency = "75%"': 'latency = "100%"',
}


@pytest.mark.slow
def test_the_demo_ends_in_figures_and_a_picture_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("QAEDGE_LOCKS", str(tmp_path))
    folder = tmp_path / "demo"
    folder.mkdir()
    project = demo.PROJECT
    for large, small in SMALLER.items():
        assert large in project, "the demo's project has changed"
        project = project.replace(large, small)
    (folder / "qaedge.toml").write_text(project)

    assert cli.run(["demo", "--folder", str(folder), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    kept = json.loads((folder / "result.json").read_text())
    assert printed == kept
    for network in ("baseline", "student"):
        assert 0 < kept[network]["miou"] < 1
        assert kept[network]["latency_s"] > 0
        name = "teacher" if network == "baseline" else "student"
        assert kept[network]["size_bytes"] == (folder / f"{name}.onnx").stat().st_size
    assert kept["machine"]["processor"] and kept["machine"]["cores"] >= 1 and kept["machine"]["system"]
    assert {"qaedge", "python", "torch", "onnxruntime"} <= kept["versions"].keys() and kept["date"][:2] == "20"
    assert kept["predicted_latency_s"] > 0 and kept["seconds"] > 0 and kept["margin"] in (0, MARGIN)
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")

    teacher = (folder / "teacher.safetensors").read_bytes()
    monkeypatch.setattr(demo, "WIDE", -1.0)  # however narrow the margin was
    assert cli.run(["demo", "--folder", str(folder)]) == 0
    shown, told = capsys.readouterr()
    assert "Times shake on this machine: the search stayed" in told
    assert "teacher, INT8" in shown and "found, INT8" in shown
    assert (folder / "teacher.safetensors").read_bytes() == teacher
    again = json.loads((folder / "result.json").read_text())
    assert again["baseline"]["miou"] == kept["baseline"]["miou"]

    # A limit that the fastest network keeps, and its margin does not: the demo says so, and goes on.
    assert cli.run(["search", "--pareto", "--json", "--project", str(folder / "qaedge.toml")]) == 0
    fastest_s = min(one["latency_s"] for one in json.loads(capsys.readouterr().out)["front"])
    limit = f'latency = "{1.0001e6 * fastest_s:.4f}us"'
    (folder / "qaedge.toml").write_text(project.replace('latency = "100%"', limit))
    assert cli.run(["demo", "--folder", str(folder), "--json"]) == 0
    shown = capsys.readouterr()
    assert "No network keeps the limit and the margin" in shown.err
    tight = json.loads(shown.out)
    assert tight["margin"] == 0 and tight["predicted_latency_s"] == pytest.approx(fastest_s, rel=1e-3)
