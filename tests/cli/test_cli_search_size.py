"""`search` by size: where nothing was measured on the device, and where something was."""

from __future__ import annotations

import itertools
import json
import sys

import pytest
from test_cli_search_more import NETWORKS, bytes_of, chosen, loss_of, ms_of
from tiny_scenes import write_project
from tiny_tables import BLOCKS, SCHEME, TEACHER_BYTES

from qaedge.architecture import Architecture
from qaedge.cli.resolve import resolve
from qaedge.project import Workspace
from qaedge.sizes import SizeRow, SizeTable
from qaedge.tables import LossRow, LossTable, anchor_key


@pytest.fixture
def unmeasured(tables):
    """The same project without a latency table, and with the sizes of its files."""
    workspace = Workspace.open()
    workspace.latency_file("local").unlink()
    store = SizeTable.store(workspace.size_file("local"))
    store.append(SizeRow(anchor_key(tables, str(SCHEME)), "onnx", "u8s8", TEACHER_BYTES))
    for block in tables.blocks:
        for candidate, (_, _, size) in zip(block.candidates, BLOCKS[block.name], strict=True):
            store.append(SizeRow(candidate.key, "onnx", "u8s8", size))
    return tables


def front_by_size():
    points = {n: (bytes_of(n), loss_of(n)) for n in NETWORKS}
    return sorted(
        p for p in points.values() if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points.values())
    )


def test_a_limit_on_size_needs_no_latency_table(unmeasured, qaedge, tmp_path):
    output = tmp_path / "arch.json"
    ran = qaedge("search", "--size", "12kB", "--output", output, "--json")
    assert ran.status == 0, ran.err
    value = json.loads(ran.out)
    assert chosen(value) == min((n for n in NETWORKS if bytes_of(n) <= 12_000), key=loss_of)
    assert value["teacher"] == {"size": TEACHER_BYTES} and value["proven"] is True
    assert "the project's limit on latency, 75%, is not applied" in " ".join(ran.err.split())
    assert set(Architecture.load(output, unmeasured).costs) == {"size"}
    ran = qaedge("search", "--size", "60%", "--latency", "none")
    assert ran.status == 0 and "latency" not in ran.out + ran.err, ran.err
    assert "teacher, measured" not in ran.out
    ran = qaedge("search", "--size", "10kB", "--top", "2", "--differ", "1", "--latency", "none")
    assert ran.status == 0, ran.err


@pytest.mark.parametrize("flags", [("--over", "size"), ("--by", "size")])
def test_the_front_over_size_alone(unmeasured, qaedge, flags):
    ran = qaedge("search", "--pareto", *flags, "--json")
    assert ran.status == 0, ran.err
    listed = json.loads(ran.out)["front"]
    assert [(one["size_bytes"], one["loss"]) for one in listed] == [pytest.approx(p) for p in front_by_size()]
    assert all("latency_s" not in one for one in listed)
    shown = qaedge("search", "--pareto", *flags)
    assert shown.status == 0 and len(shown.out.splitlines()) == 2 + len(front_by_size())


def test_the_front_over_size_of_what_was_measured(tables, qaedge, tmp_path):
    ran = qaedge("search", "--pareto", "--by", "size", "--latency", "none", "--json")
    listed = json.loads(ran.out)["front"]
    assert [(one["size_bytes"], one["loss"]) for one in listed] == [pytest.approx(p) for p in front_by_size()]
    value = json.loads(qaedge("search", "--by", "size", "--latency", "12ms", "--json").out)
    assert chosen(value) == min((n for n in NETWORKS if ms_of(n) <= 12), key=loss_of)
    assert not Workspace.open().size_file("local").exists(), "the latency table has sizes"
    pytest.importorskip("matplotlib")
    picture = tmp_path / "front.png"
    assert qaedge("search", "--by", "size", "--plot", picture).status == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_needs_a_latency_still_says_so(unmeasured, qaedge):
    for flags in ((), ("--latency", "12ms", "--size", "12kB"), ("--by", "size", "--latency", "12ms")):
        ran = qaedge("search", *flags)
        assert ran.status == 1 and "Run: qaedge profile --device local" in ran.err, (flags, ran.err)
        assert "qaedge search --by size" in ran.err
    ran = qaedge("search", "--by", "weight")
    assert ran.status == 2 and "Known: latency, size" in ran.err


def test_sizes_that_are_not_known_need_torch(unmeasured, qaedge, monkeypatch):
    Workspace.open().size_file("local").unlink()
    monkeypatch.setitem(sys.modules, "torch", None)
    ran = qaedge("search", "--size", "12kB")
    assert ran.status == 1 and ran.err.count("error:") == 1 and "qaedge[nn]" in ran.err, ran.err


@pytest.mark.slow
def test_sizes_that_are_not_known_are_counted(tmp_path, qaedge):
    """A project with a loss table and nothing measured: the files are written, once."""
    write_project(tmp_path)
    workspace = Workspace.open(tmp_path / "qaedge.toml")
    _, space = resolve(workspace)
    store = LossTable.store(workspace.loss_file(space.origin))
    for block, (place, candidate) in itertools.chain.from_iterable(
        itertools.product([b], enumerate(b.candidates)) for b in space.blocks
    ):
        store.append(
            LossRow(block.name, str(candidate.spec), str(candidate.scheme), place, 0.1 * place, 1, 1, 1, "", "kept", {})
        )
    flags = ("search", "--pareto", "--by", "size", "--json", "--project", workspace.file)
    ran = qaedge(*flags)
    assert ran.status == 0 and "sizes as onnx: " in ran.err, ran.err
    front = json.loads(ran.out)["front"]
    assert [one["size_bytes"] for one in front] == sorted(one["size_bytes"] for one in front) and len(front) > 2
    again = qaedge(*flags)
    assert again.out == ran.out and "sizes as" not in again.err
