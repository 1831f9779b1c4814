"""`search` under several limits, with candidates fixed and forbidden, and for more than one network."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import msgspec
import pytest
from tiny_tables import BLOCKS, TEACHER_BYTES, TEACHER_MS, measured

from qaedge.architecture import Architecture
from qaedge.candidate import BlockSpec, Candidate, QuantScheme
from qaedge.cli.found import _names
from qaedge.files import write_json
from qaedge.project import Workspace
from qaedge.search.activations import own_key, peak_bytes
from qaedge.space import Block, SearchSpace
from qaedge.tables import LatencyTable, anchor_key

ROWS = list(BLOCKS.values())
NETWORKS = list(itertools.product(*(range(len(rows)) for rows in ROWS)))


def loss_of(network):
    return sum(rows[i][0] for rows, i in zip(ROWS, network, strict=True))


def ms_of(network):
    return TEACHER_MS + sum(rows[i][1] - rows[0][1] for rows, i in zip(ROWS, network, strict=True))


def bytes_of(network):
    return TEACHER_BYTES + sum(rows[i][2] - rows[0][2] for rows, i in zip(ROWS, network, strict=True))


def chosen(value):
    return tuple(choice["index"] for choice in value["architecture"]["choices"])


@pytest.fixture
def other(tables, scenes):
    """Another device, on which the fast candidates of the first block are slow."""
    (scenes / "devices").mkdir(exist_ok=True)
    (scenes / "devices" / "far.toml").write_text('name = "far"\ndescription = "x"\nbase = "local"\n')
    workspace = Workspace.open()
    store = LatencyTable.store(workspace.latency_file("far"))
    for row in LatencyTable.read(workspace.latency_file("local"), "local").rows.values():
        milliseconds = {0: 8, 1: 9, 2: 12}
        first = [c.key for c in tables.blocks[0].candidates]
        if row.key in first:
            row = msgspec.structs.replace(row, measurement=measured(milliseconds[first.index(row.key)]))
        store.append(row)
    assert anchor_key(tables, "w7a8") in LatencyTable.read(workspace.latency_file("far"), "far").rows
    return tables


def far_of(network):
    return TEACHER_MS + (0, 1, 4)[network[0]] + ROWS[1][network[1]][1] - ROWS[1][0][1]


def test_blocks_are_shown_without_the_call_that_measured_them(tables, qaedge):
    before = qaedge("search", "--latency", "none").out
    store = LatencyTable.store(Workspace.open().latency_file("local"))
    for row in list(store.rows()):
        called = msgspec.structs.replace(row.measurement, overhead_s=0.0005)
        store.append(msgspec.structs.replace(row, measurement=called))
    shown = qaedge("search", "--latency", "none").out
    for milliseconds in (rows[0][1] for rows in ROWS):
        assert before.count(f" {milliseconds} ms") >= shown.count(f" {milliseconds} ms") + 2
        assert shown.count(f" {milliseconds - 0.5} ms") == 2, "of the candidate, and of the teacher's own"
    assert f"{TEACHER_MS} ms" in shown, "a whole network keeps its call"


def test_limits_on_two_devices_are_kept_at_once(other, qaedge):
    ran = qaedge("search", "--latency", "14ms", "--latency", "far=15.5ms", "--json")
    assert ran.status == 0, ran.err
    value = json.loads(ran.out)
    possible = [n for n in NETWORKS if ms_of(n) <= 14 and far_of(n) <= 15.5]
    best = min(possible, key=loss_of)
    assert best != min((n for n in NETWORKS if ms_of(n) <= 14), key=loss_of)
    assert chosen(value) == best
    assert value["architecture"]["limits"] == {
        "latency@local": pytest.approx(0.014),
        "latency@far": pytest.approx(0.0155),
    }
    assert value["architecture"]["costs"]["latency@far"]["value"] == pytest.approx(far_of(best) / 1e3)
    shown = qaedge("search", "--latency", "14ms", "--latency", "far=15.5ms").out
    assert "latency on far" in shown and "latency on local" in shown and "alone on far" in shown
    assert qaedge("search", "--latency", "far=100%", "--json").status == 0


def test_a_device_has_one_limit(tables, qaedge):
    ran = qaedge("search", "--latency", "14ms", "--latency", "local=15ms")
    assert ran.status == 2 and "--latency gives local two limits" in ran.err
    assert qaedge("search", "--latency", "nowhere=14ms").status == 1
    assert "--latency is empty" in qaedge("search", "--latency", "local=").err


def test_a_peak_of_memory_is_kept_by_the_candidates_whose_is_known(tables, qaedge):
    peaks = [[peak_bytes(c) for c in block.candidates] for block in tables.blocks]
    assert [row[0] for row in peaks] == [None, None]
    most = max(peaks[0][1], peaks[1][1])
    assert most < max(peaks[0][2], peaks[1][2])
    ran = qaedge("search", "--latency", "none", "--peak-memory", f"{most}B", "--json")
    assert ran.status == 0, ran.err
    value = json.loads(ran.out)
    assert "peak memory are left out: 1 in one, 1 in two" in " ".join(ran.err.split())
    possible = [n for n in NETWORKS if all((peaks[b][i] or 1e9) <= most for b, i in enumerate(n))]
    assert chosen(value) == min(possible, key=loss_of)
    assert value["architecture"]["costs"]["peak_memory"]["value"] <= most
    assert "peak memory" in qaedge("search", "--latency", "none", "--peak-memory", f"{most}B").out
    ran = qaedge("search", "--peak-memory", "10B")
    assert ran.status == 1 and "peak memory: the leanest network takes" in ran.err
    ran = qaedge("search", "--peak-memory", "50%")
    assert ran.status == 2 and "nobody knows the teacher's own" in ran.err


def test_a_peak_of_memory_counts_the_teachers_own_where_it_is_known(tables, qaedge):
    numbers = {own_key(block.candidates[0]): 10_000 + 500 * place for place, block in enumerate(tables.blocks)}
    write_json(Workspace.open().activations_json, numbers)
    peaks = [[peak_bytes(c, numbers) for c in block.candidates] for block in tables.blocks]
    assert [row[0] for row in peaks] == [10_000, 10_500]
    for limit in (10_400, 10_500):
        ran = qaedge("search", "--latency", "none", "--peak-memory", f"{limit}B", "--json")
        assert ran.status == 0 and "left out" not in ran.err, ran.err
        value = json.loads(ran.out)
        possible = [n for n in NETWORKS if all(peaks[b][i] <= limit for b, i in enumerate(n))]
        assert chosen(value) == min(possible, key=loss_of)
        assert value["teacher"]["peak_memory"] == 10_500
    assert qaedge("search", "--latency", "none", "--peak-memory", "100%", "--json").out == ran.out


@pytest.mark.parametrize(
    ("flags", "allowed"),
    [
        (["--fix", "one=2"], lambda n: n[0] == 2),
        (["--fix", "two=own", "--fix", "one=ir_k1_s1_e1_c9"], lambda n: n == (1, 0)),
        (["--fix", "one=ir_k1_s1_e1_c9@w7a8"], lambda n: n[0] == 1),
        (["--forbid", "one=ir_k1_s1_e1_c9"], lambda n: n[0] != 1),
        (["--forbid", "kind=own"], lambda n: 0 not in n),
        (["--forbid", "one=own", "--forbid", "two=0"], lambda n: 0 not in n),
    ],
)
def test_what_is_fixed_is_in_and_what_is_forbidden_is_not(flags, allowed, tables, qaedge):
    ran = qaedge("search", "--latency", "14ms", *flags, "--json")
    assert ran.status == 0, ran.err
    assert chosen(json.loads(ran.out)) == min((n for n in NETWORKS if allowed(n) and ms_of(n) <= 14), key=loss_of)
    assert qaedge("search", "--latency", "14ms", *flags).status == 0


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--fix", "three=1"], "blocks: one, two"),
        (["--fix", "one"], "names no block and candidate"),
        (["--fix", "one=9"], "has no candidate 9"),
        (["--fix", "one=ir_k3_s1_e1_c9"], "has no such candidate"),
        (["--forbid", "kind=conv"], "no candidate of the space has the kind 'conv'"),
        (["--forbid", "scheme=w2a8"], "There are: w7a8"),
        (["--fix", "one=1", "--forbid", "one=1"], "leave no candidate of block one"),
    ],
)
def test_what_names_nothing_says_what_there_is(flags, match, tables, qaedge):
    ran = qaedge("search", *flags)
    assert ran.status == 2 and match in " ".join(ran.err.split())


def test_the_top_differ_from_each_other_and_are_saved(tables, qaedge, tmp_path):
    output = tmp_path / "arch.json"
    ran = qaedge("search", "--latency", "14ms", "--top", "3", "--differ", "1", "--output", output, "--json")
    assert ran.status == 0, ran.err
    value = json.loads(ran.out)
    possible = sorted((n for n in NETWORKS if ms_of(n) <= 14), key=loss_of)
    assert [tuple(c["index"] for c in one["choices"]) for one in value["top"]] == possible[:3]
    assert value["top"][0] == value["architecture"] and value["proven"] is True and value["gap"] == 0
    for path, wanted in zip(("arch.json", "arch-2.json", "arch-3.json"), possible, strict=False):
        assert tuple(c.index for c in Architecture.load(tmp_path / path, tables).choices) == wanted
    ran = qaedge("search", "--latency", "none", "--top", "9", "--differ", "2")
    assert ran.status == 0 and "There are no more that differ in 2 blocks" in " ".join(ran.err.split())
    rows = [line for line in ran.out.splitlines() if line.lstrip()[:1] in ("1", "2", "3", "4")]
    assert len(rows) == 3, "three candidates per block: three networks that share none"


def test_what_a_limit_costs_is_told(tables, qaedge):
    value = json.loads(qaedge("search", "--latency", "13ms", "--size", "19kB", "--json").out)
    best = chosen(value)
    told = value["limits"]["latency@local"]
    within = [n for n in NETWORKS if bytes_of(n) <= 19_000]
    better = [n for n in within if loss_of(n) < loss_of(best) - 1e-9]
    assert told["binding"] is bool(better)
    assert told["loss_without"] == pytest.approx(min(map(loss_of, within)))
    assert told["cost"] == pytest.approx(ms_of(best) / 1e3)
    if better:
        assert told["next_cost"] == pytest.approx(min(map(ms_of, better)) / 1e3)
    shown = qaedge("search", "--latency", "13ms", "--size", "19kB").out
    assert "more buys" in shown and "limit on" in shown
    assert "more buys" not in qaedge("search", "--latency", "none").out


def test_the_front_is_over_what_is_named(other, qaedge):
    def front_of(*costs):
        points = {n: (loss_of(n), *(cost(n) for cost in costs)) for n in NETWORKS}
        return {
            n: p for n, p in points.items() if not any(q != p and all(map(float.__le__, q, p)) for q in points.values())
        }

    def ms(n):
        return float(ms_of(n))

    listed = json.loads(qaedge("search", "--latency", "none", "--pareto", "--over", "size", "--json").out)["front"]
    wanted = front_of(ms, lambda n: float(bytes_of(n)))
    assert sorted((one["latency_s"], one["size_bytes"]) for one in listed) == [
        (pytest.approx(t / 1e3), size) for _, t, size in sorted(wanted.values(), key=lambda p: p[1:])
    ]
    flags = ("--latency", "none", "--latency", "far=none", "--pareto", "--over", "latency@far")
    listed = json.loads(qaedge("search", *flags, "--json").out)["front"]
    wanted = front_of(ms, lambda n: float(far_of(n)))
    assert sorted(one["costs"]["latency@far"] for one in listed) == [
        pytest.approx(far / 1e3) for far in sorted(p[2] for p in wanted.values())
    ]
    assert "latency on far" in qaedge("search", *flags).out


def test_what_the_front_cannot_be_over_says_what_there_is(tables, qaedge):
    ran = qaedge("search", "--over", "size")
    assert ran.status == 2 and "Add --pareto" in ran.err
    ran = qaedge("search", "--pareto", "--over", "energy")
    assert ran.status == 2 and "There are: size." in " ".join(ran.err.split())


@pytest.mark.parametrize(
    ("schemes", "shown"),
    [
        (("w8a8", "w8a8"), "own  ir_k3_s1_e2_c8"),
        (("w8a8", "w4dw8a8"), "own@w8a8  ir_k3_s1_e2_c8@w4dw8a8"),
        (("w4a8", "w4a8"), "own  ir_k3_s1_e2_c8  (all w4a8)"),
    ],
)
def test_a_row_of_the_front_tells_schemes_that_are_not_the_usual_one(schemes, shown):
    specs = [BlockSpec.parse(text) for text in ("own_0123456789ab", "ir_k3_s1_e2_c8")]
    blocks = tuple(
        Block(
            name,
            (8, 4, 4),
            (8, 4, 4),
            tuple(Candidate(spec, QuantScheme.parse(s), (8, 4, 4)) for s in ("w8a8", *schemes)),
        )
        for name, spec in zip("ab", specs, strict=True)
    )
    chosen = [block.candidates[1 + place] for place, block in enumerate(blocks)]
    problem = SimpleNamespace(space=SearchSpace("s", "t" * 64, blocks), candidates=lambda choice: chosen)
    assert _names(SimpleNamespace(problem=problem, choice=None)) == shown
