"""`search` on tables whose best network is known."""

from __future__ import annotations

import itertools
import json

import pytest
from tiny_tables import BLOCKS, TEACHER_BYTES, TEACHER_MS, write_state

from qaedge.architecture import Architecture
from qaedge.project import Workspace


def all_networks() -> list[tuple[float, float, int]]:
    """(milliseconds, loss, bytes) of every network."""
    rest_ms = TEACHER_MS - sum(rows[0][1] for rows in BLOCKS.values())
    rest_bytes = TEACHER_BYTES - sum(rows[0][2] for rows in BLOCKS.values())
    return [
        (rest_ms + sum(c[1] for c in chosen), sum(c[0] for c in chosen), rest_bytes + sum(c[2] for c in chosen))
        for chosen in itertools.product(*BLOCKS.values())
    ]


@pytest.mark.parametrize(
    ("flags", "ms", "size"),
    [(["--latency", "12ms"], 12, 1e9), (["--latency", "none", "--size", "60%"], 1e9, 12_000), ([], 12, 1e9)],
)
def test_the_best_network_within_the_limits_is_found(flags, ms, size, tables, qaedge, tmp_path):
    output = tmp_path / "arch.json"
    ran = qaedge("search", *flags, "--output", output)
    assert ran.status == 0, ran.err
    best = min(loss for time, loss, weight in all_networks() if time <= ms and weight <= size)
    found = Architecture.load(output, tables)
    assert found.loss == pytest.approx(best)
    assert "teacher, measured" in ran.out and f"wrote {output}" in ran.out


def test_the_front_is_complete(tables, qaedge):
    networks = all_networks()
    front = sorted(
        (t, loss)
        for t, loss, _ in networks
        if not any(o[0] <= t and o[1] <= loss and o[:2] != (t, loss) for o in networks)
    )
    ran = qaedge("search", "--pareto", "--json")
    assert ran.status == 0, ran.err
    listed = [(1e3 * n["latency_s"], n["loss"]) for n in json.loads(ran.out)["front"]]
    assert listed == [pytest.approx(point) for point in front]
    assert len(qaedge("search", "--pareto").out.splitlines()) == 2 + len(front)


def test_json_holds_the_architecture_and_the_teacher(tables, qaedge):
    value = json.loads(qaedge("search", "--latency", "10ms", "--json").out)
    assert value["teacher"] == {"latency@local": pytest.approx(0.016), "size": TEACHER_BYTES}
    assert value["architecture"]["limits"] == {"latency@local": pytest.approx(0.010)}


def test_plot_draws_a_picture(tables, qaedge, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "pictures" / "front.png"
    ran = qaedge("search", "--plot", picture)
    assert ran.status == 0, ran.err
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in picture.parent.iterdir()] == ["front.png"]


def test_a_limit_that_nothing_keeps_says_by_how_much(tables, qaedge, tmp_path):
    ran = qaedge("search", "--power", "1", "--latency", "4ms", "--output", tmp_path / "arch.json")
    assert ran.status == 1 and ran.err.startswith("error: ")
    assert "5 ms" in ran.err and "1 ms too slow" in ran.err
    assert not (tmp_path / "arch.json").exists()


@pytest.mark.parametrize("flags", [["--latency", "25"], ["--size", "25ms"]])
def test_a_limit_without_its_unit_is_wrong_usage(flags, tables, qaedge):
    assert qaedge("search", *flags).status == 2


def test_an_empty_table_names_the_command_that_fills_it(tables, qaedge):
    Workspace.open().loss_file(tables.origin).unlink()
    ran = qaedge("search")
    assert ran.status == 1 and "qaedge distill" in ran.err


def test_search_needs_no_torch(tables, spawn):
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime'): sys.modules[name] = None\n"
        "import qaedge.cli; sys.exit(qaedge.cli.run(['search', '--power', '1', '--json']))"
    )
    process = spawn(code=code)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out)["architecture"]["space"] == "tiny"
    assert err == ""


def test_a_project_that_changed_since_is_a_warning(tables, qaedge, scenes):
    file = scenes / "space.toml"
    file.write_text(file.read_text() + "\n# another thought\n")
    ran = qaedge("search")
    assert ran.status == 0
    assert ran.err.startswith("warning: ") and "the space file changed" in ran.err and "qaedge space" in ran.err


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cpu_model", "another one"),
        ("boot_id", "before"),
        ("governor", {"policy0": "powersave"}),
        ("runtime_version", "0.9"),
        ("pin", False),
    ],
)
def test_rows_of_another_state_of_the_device_are_a_warning(field, value, tables, qaedge):
    assert qaedge("search", "--power", "1").err.count("warning") == 0
    key = tables.blocks[1].candidates[1].key
    write_state(Workspace.open(), key, field, value)
    ran = qaedge("search", "--power", "1")
    assert ran.status == 0 and ran.err.startswith("warning: 1 of the 7 latencies were measured in another state")
    assert f"{field} was {value!r}, and is" in " ".join(ran.err.split())
    assert "qaedge profile --device local" in " ".join(ran.err.split())
    listing = json.loads(qaedge("space", "--json").out)
    assert listing["missing_latency"] == {"local": 1} and listing["missing_teacher"] == {"local": 0}
    assert [block["missing_latency"]["local"] for block in listing["blocks"]] == [0, 1]


@pytest.mark.parametrize("flag", ["--latency", "--size"])
def test_an_empty_limit_does_not_lift_the_projects(flag, tables, qaedge):
    ran = qaedge("search", flag, "")
    assert ran.status == 2 and f"{flag} is empty" in ran.err


def test_the_front_is_listed_beside_what_is_saved_and_drawn(tables, qaedge, tmp_path):
    pytest.importorskip("matplotlib")
    alone = qaedge("search", "--pareto").out
    output, picture = tmp_path / "arch.json", tmp_path / "front.png"
    ran = qaedge("search", "--pareto", "--output", output, "--plot", picture)
    assert ran.status == 0, ran.err
    assert ran.out.startswith(alone) and "found, predicted" in ran.out
    assert f"wrote {output}" in ran.out and picture.exists()
    assert Architecture.load(output, tables).choices


@pytest.mark.parametrize("power", ["inf", "nan", "400", "0.5", "-1"])
def test_a_power_that_makes_losses_untrue_is_wrong_usage(power, tables, qaedge):
    ran = qaedge("search", "--power", power)
    assert ran.status == 2 and "--power" in ran.err and ran.out == ""
    assert qaedge("search", "--power", "10").status == 0


def test_boards_that_share_a_table_are_searched_by_it(tables, qaedge, scenes):
    (scenes / "devices").mkdir()
    for name in ("one", "two"):
        (scenes / "devices" / f"{name}.toml").write_text(f'name = "{name}"\ndescription = "x"\nbase = "local"\n')
    file = scenes / "qaedge.toml"
    file.write_text(file.read_text().replace('device = "local"', 'device = "one,two"'))
    assert "latency on local" in qaedge("search", "--quiet").out
    assert json.loads(qaedge("space", "--json").out)["missing_latency"] == {"local": 0}
    ran = qaedge("bench", "some.onnx")
    assert ran.status == 2 and "'one,two' names several devices" in ran.err and "device add" not in ran.err
