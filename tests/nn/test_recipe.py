"""Recipes on a tiny teacher: what is scored, what is kept, and that it is what is built."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tiny_scenes import SPACE, space_of, write_project

from qaedge.architecture import Architecture, BlockChoice
from qaedge.candidate import QuantScheme
from qaedge.errors import DataError, InvalidFile, MissingFile, TeacherError, UsageError
from qaedge.nn.assemble import assemble
from qaedge.nn.distill import Sample, score
from qaedge.nn.features import Features
from qaedge.nn.library import fill_library, load_candidate, weights_path
from qaedge.nn.part import nodes_in
from qaedge.nn.paths import top_modules
from qaedge.nn.precision import bits_of_layers, bits_of_network, bits_of_whole, weighted
from qaedge.nn.quantize import calibrate
from qaedge.nn.recipe import NEAREST, Bench, is_few_bit, quantize
from qaedge.nn.rounded import load_rounded, rounded_path
from qaedge.nn.student import Quantizer, open_splits
from qaedge.nn.teacher import load_teacher
from qaedge.nn.tracing import trace
from qaedge.project import QUANTIZE_STEPS, QuantizeConfig, Workspace
from qaedge.tables import LossRow, LossTable

CONFIG = QuantizeConfig(reconstruct_steps=10)
SCHEMES = ("w7a8", "w4a8", "w4dw8a8", "w2s1a8", "w8.4.8a8")


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    space = SPACE.replace('expansions = [2, 6]\nschemes = ["w7a8", "w4a8"]', f"schemes = {list(SCHEMES)}")
    assert space != SPACE
    workspace = write_project(folder, steps=6, space=space)
    teacher, resolved = load_teacher(workspace), space_of(workspace)
    list(fill_library(workspace, teacher, resolved))
    return workspace, teacher, resolved


def rows(workspace, space) -> list[LossRow]:
    return list(LossTable.store(workspace.loss_file(space.origin)).rows())


def bench_of(filled, index: int = 0) -> Bench:
    workspace, teacher, space = filled
    block = space.block("stage3")
    features = Features(next(path for path in workspace.cache.iterdir() if path.is_dir()))
    sample = Sample.of(features, "stage3", teacher.block("stage3").module)
    spec = list(dict.fromkeys(c.spec for c in block.candidates))[index]
    module = load_candidate(workspace, space, teacher, "stage3", spec)
    return Bench(trace(module, block.input_shape), sample, 4)


# Which layer has which bits


def test_schemes_tell_the_bits_of_layers(filled):
    _, _teacher, _space = filled
    graph = bench_of(filled).graph
    names = [node.name for node in weighted(graph)]
    assert len(names) == 3, "expansion, depthwise, projection"

    def bits(text: str, sensitivity=None) -> list[int]:
        return [bits_of_layers(graph, QuantScheme.parse(text), sensitivity)[name] for name in names]

    assert bits("w4a8") == [4, 4, 4] and bits("w4dw8a8") == [4, 8, 4]
    assert bits("w2fl8a8") == [8, 2, 8] and bits("w2dw4fl8a8") == [8, 4, 8]
    assert bits("w8.4.2a8") == [8, 4, 2]
    assert bits("w4s1a8", [0.1, 0.5, 0.2]) == [4, 8, 4] and bits("w4dw8s1a8", [0.1, 0.5, 0.2]) == [4, 8, 8]
    sizes = [graph.values[node.weight].numel() for node in weighted(graph)]
    assert bits("w4s1a8")[sizes.index(max(sizes))] == 8, "without a sensitivity, no choice makes the file larger"
    with pytest.raises(UsageError, match=r"w8\.4a8 names 2 layers; the block has 3 with weights"):
        bits("w8.4a8")


def test_a_network_has_the_bits_of_its_blocks(filled):
    _, teacher, _space = filled
    graph = trace(teacher.module, teacher.input_shape)
    places = {block.name: top_modules(teacher.module, block.path) for block in teacher.blocks}
    schemes = [(places["stage1"], QuantScheme(7, 8)), (places["stage3"], QuantScheme.parse("w4dw8a8"))]
    found = bits_of_network(graph, schemes)
    inside = [found[n.name] for n in nodes_in(graph, places["stage3"]) if n.weight]
    assert inside == [4, 8, 4]
    assert {found[n.name] for n in nodes_in(graph, places["stage1"]) if n.weight} == {7}
    assert {found[n.name] for n in nodes_in(graph, places["head"]) if n.weight} == {8}, "the most that any block has"
    whole = bits_of_whole(graph, places.values(), QuantScheme.parse("w8.4.8a8"))
    assert [whole[n.name] for n in nodes_in(graph, places["stage3"]) if n.weight] == [8, 4, 8]


def test_sensitivity_is_what_rounding_a_layer_costs(filled):
    bench = bench_of(filled)
    two, four = bench.sensitivity(2), bench.sensitivity(4)
    assert len(two) == 3 and all(b < a for a, b in zip(two, four, strict=True))
    found = quantize(bench, QuantScheme.parse("w2s1a8"), CONFIG)
    assert found.layer_bits == tuple(8 if cost == max(two) else 2 for cost in two)


# Recipes


@pytest.mark.parametrize("text", ["w8a8", "w7a8"])
def test_many_bits_are_rounded_to_the_nearest_as_ever(filled, text):
    bench, scheme = bench_of(filled), QuantScheme.parse(text)
    found = quantize(bench, scheme, CONFIG)
    assert (found.recipe, found.gains) == (NEAREST, {}) and not is_few_bit(scheme)
    plain = calibrate(bench.graph, bench.inputs, scheme, float_tail=False).freeze()
    assert found.loss == score(plain, bench.sample)


@pytest.mark.parametrize("text", ["w4a8", "w2a8", "w2dw8a8"])
def test_few_bits_are_rounded_with_care(filled, text):
    bench, scheme = bench_of(filled, 1), QuantScheme.parse(text)
    plain, found = quantize(bench, scheme, CONFIG, ()), quantize(bench, scheme, CONFIG)
    assert is_few_bit(scheme) and plain.recipe == NEAREST
    assert found.recipe.startswith(NEAREST) and "rounding" in found.recipe
    assert list(found.gains) == [NEAREST, *CONFIG.few_bit]
    assert found.loss < 0.95 * plain.loss
    kept = found.recipe.split("+")
    assert min(found.gains, key=found.gains.__getitem__) == kept[-1]
    assert bench.judge(found.network) == found.gains[kept[-1]]


def test_every_step_is_known_and_can_be_taken(filled):
    bench = bench_of(filled)
    found = quantize(bench, QuantScheme(4, 8), CONFIG, QUANTIZE_STEPS)
    assert tuple(found.gains) == (NEAREST, *QUANTIZE_STEPS)
    assert found.gains["rounding"] < found.gains[NEAREST]


def test_the_same_seed_gives_the_same_numbers(filled):
    one, two = (quantize(bench_of(filled), QuantScheme(4, 8), CONFIG) for _ in range(2))
    assert one.loss == two.loss and one.recipe == two.recipe


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_no_numbers_are_refused(filled, value):
    bench = bench_of(filled)
    inputs = np.array(bench.sample.inputs)
    inputs[:, 0, 0, 0] = value
    with pytest.raises(TeacherError, match="not finite"):
        Bench(bench.graph, dataclasses.replace(bench.sample, inputs=inputs), 4)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_layer_of_zeros_and_an_image_of_zeros_still_quantize(filled, bits):
    """A layer whose weights are 0 has a range of nothing, and needs none; a black image among others is no error."""
    bench = bench_of(filled)
    with torch.no_grad():
        first = weighted(bench.graph)[0]
        bench.graph.values[first.weight].zero_()
        bench.graph.values[first.bias].zero_()
    inputs = np.array(bench.sample.inputs)
    inputs[bench.sample.train[0]] = 0
    for sample in (bench.sample, dataclasses.replace(bench.sample, inputs=inputs)):
        found = quantize(Bench(bench.graph, sample, 4), QuantScheme(bits, 8), CONFIG, QUANTIZE_STEPS)
        assert np.isfinite(found.loss)


def test_features_that_are_zero_everywhere_are_refused(filled):
    bench = bench_of(filled)
    dead = dataclasses.replace(bench.sample, inputs=np.zeros_like(bench.sample.inputs))
    with pytest.raises(DataError, match="calibration data are 0 everywhere in all 4 calibration batches") as caught:
        Bench(bench.graph, dead, 4)
    assert "data.path" in caught.value.hint


# What is kept, and built


def test_rows_tell_the_recipe_and_name_the_rounded_weights(filled):
    workspace, _, space = filled
    for row in rows(workspace, space):
        few = is_few_bit(QuantScheme.parse(row.scheme))
        assert (row.recipe != NEAREST) == few == (row.rounded != "") == bool(row.gains)
        assert not few or (workspace.results / row.rounded).is_file()
        assert row.block != "stage3" or len(row.layer_bits) == 3
    by_scheme = {row.scheme: row for row in rows(workspace, space) if row.spec.startswith("own")}
    assert by_scheme["w8.4.8a8"].layer_bits == (8, 4, 8) and by_scheme["w4dw8a8"].layer_bits == (4, 8, 4)
    assert by_scheme["w4dw8a8"].loss < by_scheme["w4a8"].loss


def test_an_older_row_still_loads():
    row = LossRow("b", "s", "w8a8", 0.1, 0.2, 3, 1.0, 0.5, "", "own", {})
    old = msgspec.to_builtins(row)
    for name in ("recipe", "gains", "layer_bits", "rounded"):
        del old[name]
    assert msgspec.convert(old, LossRow) == row and row.recipe == NEAREST


def test_rounded_weights_score_as_they_did(filled):
    workspace, _teacher, space = filled
    from qaedge.nn.distill import score

    for index in range(2):
        bench = bench_of(filled, index)
        spec = list(dict.fromkeys(c.spec for c in space.block("stage3").candidates))[index]
        path = weights_path(workspace, space, "stage3", spec)
        for row in rows(workspace, space):
            if (row.block, row.spec) == ("stage3", str(spec)) and row.rounded:
                found = load_rounded(path, QuantScheme.parse(row.scheme), bench.graph)
                assert found is not None and score(found, bench.sample) == pytest.approx(row.loss, rel=1e-5)


def architecture_of(space, scheme: str, index: int) -> Architecture:
    """The teacher's own blocks, but stage3 in another scheme."""
    own = Architecture.own(space)
    choices = list(own.choices)
    candidates = space.block("stage3").candidates
    specs = list(dict.fromkeys(c.spec for c in candidates))
    place = next(i for i, c in enumerate(candidates) if c.spec == specs[index] and str(c.scheme) == scheme)
    choices[1] = BlockChoice("stage3", str(candidates[place].spec), scheme, place)
    return msgspec.structs.replace(own, choices=tuple(choices))


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("scheme", ["w4a8", "w2s1a8", "w4dw8a8"])
def test_a_student_holds_the_integers_that_were_scored(filled, scheme, index):
    workspace, teacher, space = filled
    architecture = architecture_of(space, scheme, index)
    student = assemble(workspace, teacher, space, architecture)
    train, _ = open_splits(workspace)
    quantizer = Quantizer(workspace, teacher, space, architecture, train, lambda bits: ("u8u8", ""))
    network = quantizer.quantize(student)
    candidate = architecture.candidates(space)[1]
    recipe = LossTable(rows(workspace, space)).row("stage3", candidate).recipe
    assert quantizer.recipes == {"stage1": NEAREST, "stage3": recipe, "head": NEAREST}
    bench = bench_of(filled, index)
    stored = load_rounded(weights_path(workspace, space, "stage3", candidate.spec), candidate.scheme, bench.graph)
    nodes = [n for n in nodes_in(network.graph, top_modules(student, teacher.block("stage3").path)) if n.weight]
    for node, mine in zip(nodes, weighted(stored.graph), strict=True):
        (one, scales, *_), (two, kept, *_) = network.integers(node), stored.integers(mine)
        assert torch.equal(one, two) and torch.equal(scales, kept)
        assert network.bits_of(node) == stored.bits_of(mine)

    with torch.no_grad():  # fine-tuned weights are others: they are rounded anew
        for _name, parameter in student.named_parameters():
            parameter += 0.01 * parameter.std() if parameter.numel() > 1 else 0
    anew = quantizer.quantize(student)
    assert quantizer.recipes["stage3"] == f"{recipe}, anew"
    same = [torch.equal(anew.integers(n)[0], network.integers(n)[0]) for n in nodes]
    assert not all(same)
    assert [anew.bits_of(n) for n in nodes] == [network.bits_of(n) for n in nodes], "as they were scored"
    x = quantizer._train.preprocess(train.image(0)[None])
    with torch.no_grad():
        wanted = trace(student, teacher.input_shape)(x)
        assert float((anew(x) - wanted).square().mean()) < float(wanted.var())


def test_steps_of_eight_bits_reach_the_file(tmp_path):
    """`[quantize] int8` counts for what is built as for what is scored, before fine-tuning and after."""
    space = SPACE.replace('expansions = [2, 6]\nschemes = ["w7a8", "w4a8"]', 'schemes = ["w8a8"]')
    write_project(tmp_path, steps=6, space=space)
    file = tmp_path / "qaedge.toml"
    plain = Workspace.open(file)
    file.write_text(file.read_text() + '\n[quantize]\nint8 = ["ranges", "biases", "rounding"]\n')
    careful = Workspace.open(file)
    teacher, resolved = load_teacher(careful), space_of(careful)
    own = Architecture.own(resolved)
    train, _ = open_splits(careful)

    def quantized(workspace: Workspace, student: torch.nn.Module):
        return Quantizer(workspace, teacher, resolved, own, train, lambda bits: ("u8u8", "")).quantize(student)

    def integers(network, block: str) -> list[torch.Tensor]:
        nodes = nodes_in(network.graph, top_modules(student, teacher.block(block).path))
        return [network.integers(n)[0] for n in nodes if n.weight]

    student = assemble(plain, teacher, resolved, own)
    nearest = quantized(plain, student)
    anew = quantized(careful, student)
    assert not all(map(torch.equal, integers(nearest, "stage3"), integers(anew, "stage3"))), "not scored: rounded anew"

    list(fill_library(careful, teacher, resolved))
    built = quantized(careful, student)
    table = LossTable(rows(careful, resolved))
    told = 0
    for block, candidate in zip(resolved.blocks, own.candidates(resolved), strict=True):
        row = table.row(block.name, candidate)
        module = load_candidate(careful, resolved, teacher, block.name, candidate.spec)
        weights = weights_path(careful, resolved, block.name, candidate.spec)
        stored = load_rounded(weights, candidate.scheme, trace(module, block.input_shape))
        assert (stored is not None) == (row.recipe != NEAREST)
        if stored is not None:
            told += 1
            wanted = [stored.integers(n)[0] for n in weighted(stored.graph)]
            assert all(map(torch.equal, integers(built, block.name), wanted)), block.name
    assert told
    settings = msgspec.structs.replace(careful.project.quantize, int8=())
    without = Workspace(careful.root, msgspec.structs.replace(careful.project, quantize=settings))
    kept = quantized(without, student)
    assert all(map(torch.equal, integers(kept, "stage3"), integers(built, "stage3"))), "what was scored counts"


def test_rounded_weights_that_do_not_fit_are_named(filled, tmp_path):
    workspace, _teacher, space = filled
    folder = tmp_path / "copy"
    shutil.copytree(workspace.root, folder)
    copy = Workspace.open(folder / "qaedge.toml")
    spec = space.block("stage3").candidates[0].spec
    graph, scheme = bench_of(filled).graph, QuantScheme(4, 8)
    weights = weights_path(copy, space, "stage3", spec)
    path = rounded_path(weights, scheme, graph)
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    with pytest.raises(InvalidFile, match=r"rounded weights of a candidate \(w4a8\)[^\n]*\nDelete it"):
        load_rounded(weights, scheme, graph)
    other = next(p for p in Path(weights).parent.glob("*.w4dw8a8.*") if p.stem.split(".")[0] != weights.stem)
    path.write_bytes(other.read_bytes())
    with pytest.raises(InvalidFile, match="another architecture"):
        load_rounded(weights, scheme, graph)
    path.unlink()
    assert load_rounded(weights, scheme, graph) is None


def test_rounded_weights_that_are_gone_are_not_made_up(filled, tmp_path):
    workspace, teacher, space = filled
    folder = tmp_path / "copy"
    shutil.copytree(workspace.root, folder)
    copy = Workspace.open(folder / "qaedge.toml")
    architecture = architecture_of(space, "w4a8", 1)
    weights = weights_path(copy, space, "stage3", architecture.candidates(space)[1].spec)
    for path in weights.parent.glob(f"{weights.stem}.w4a8.*"):
        path.unlink()
    quantizer = Quantizer(copy, teacher, space, architecture, open_splits(copy)[0], lambda bits: ("u8u8", ""))
    with pytest.raises(MissingFile, match=r"rounded weights of .* \(w4a8\) are not in [^\n]*\nRun: qaedge distill"):
        quantizer.quantize(assemble(copy, teacher, space, architecture))
