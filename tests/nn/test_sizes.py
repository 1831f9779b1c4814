"""Sizes of what is exported to be timed, against those of built networks: one of each family of schemes."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from synthetic import make_measurement
from tiny_scenes import SPACE, space_of, write_project

from qaedge.architecture import Architecture, BlockChoice
from qaedge.cli.plan import plan
from qaedge.device import load_devices
from qaedge.layer_bits import LayerBits
from qaedge.nn.assemble import assemble
from qaedge.nn.candidates import export_candidates, export_network
from qaedge.nn.export import write_file
from qaedge.nn.library import fill_library
from qaedge.nn.student import Quantizer, open_splits
from qaedge.nn.teacher import load_teacher
from qaedge.probes import origin_network
from qaedge.tables import LatencyRow, LatencyTable, LossTable

#: The first is not that of the other blocks: predictions start from a teacher that has it in this block alone.
SCHEMES = ("w2a8", "w8a8", "w4a8", "w4dw8a8", "w4fl8a8", "w4s1a8", "w8.4.8a8")
FORMATS = ("onnx", "tflite")
KEEPS = "w4s1a8"
#: Bytes of names: those of a block's layers are longer in the whole network.
NAMES = 256


def choose(bits: int) -> tuple[str, str]:
    return "u8u8", ""


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    space = SPACE.replace('expansions = [2, 6]\nschemes = ["w7a8", "w4a8"]', f"schemes = {list(SCHEMES)}")
    workspace = write_project(tmp_path_factory.mktemp("sizes"), steps=6, space=space)
    teacher, resolved = load_teacher(workspace), space_of(workspace)
    list(fill_library(workspace, teacher, resolved))
    # The largest layer, which is kept where nothing is known, is the depthwise one: let another be sensitive.
    store = LossTable.store(workspace.loss_file(resolved.origin))
    for row in [row for row in store.rows() if row.scheme == KEEPS]:
        store.append(msgspec.structs.replace(row, layer_bits=(4, 4, 8), rounded=""))
    for path in workspace.weights_folder(resolved.origin).rglob(f"*.{KEEPS}.*"):
        path.unlink()
    return workspace, teacher, resolved


def exported(filled, file_format: str, keys: set[str] | None = None) -> list[LatencyRow]:
    workspace, teacher, space = filled
    layers = LayerBits.read(workspace, space)
    found = []
    for step in export_candidates(workspace, teacher, space, choose, keys, file_format):
        key, one = step.result
        bits = layers.of_row(key)
        found.append(LatencyRow(key, one.form, one.size_bytes, one.weight_bytes, make_measurement(), file_format, bits))
    return found


def architectures(space) -> list[Architecture]:
    """The teacher's own blocks but stage3, in each scheme, its own and another."""
    found = []
    for place, candidate in enumerate(space.block("stage3").candidates):
        choices = list(Architecture.own(space).choices)
        choices[1] = BlockChoice("stage3", str(candidate.spec), str(candidate.scheme), place)
        found.append(msgspec.structs.replace(Architecture.own(space), choices=tuple(choices)))
    return found


@pytest.mark.parametrize("file_format", FORMATS)
def test_built_networks_are_as_large_as_predicted(filled, file_format, tmp_path):
    if file_format == "tflite":
        pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    workspace, teacher, space = filled
    table = LatencyTable("local", exported(filled, file_format), file_format)
    train, _ = open_splits(workspace)
    off, apart, layers = {}, {}, {}
    for number, architecture in enumerate(architectures(space)):
        quantizer = Quantizer(workspace, teacher, space, architecture, train, choose)
        network = quantizer.quantize(assemble(workspace, teacher, space, architecture))
        built = write_file(network, tmp_path / f"{number}.{file_format}", quantizer.form)
        timed = export_network(workspace, teacher, space, architecture, choose, file_format)
        candidate = architecture.candidates(space)[1]
        predicted = table.predict_size(space, architecture.candidates(space))
        apart[candidate.key] = predicted - built.size_bytes
        off[candidate.key] = predicted / built.size_bytes - 1
        layers[candidate.key] = built.weight_bytes - timed.weight_bytes
    assert {str(a.candidates(space)[1].scheme) for a in architectures(space)} == set(SCHEMES)
    assert {key: round(100 * value, 2) for key, value in off.items() if abs(value) > 0.02} == {}
    assert {key: round(value) for key, value in apart.items() if abs(value) > NAMES} == {}
    assert {key: apart for key, apart in layers.items() if apart} == {}, (
        "what is exported to be timed has the bits of what is built"
    )


def test_two_processes_write_what_one_writes(filled):
    workspace, teacher, space = filled

    def steps(processes: int):
        return export_candidates(workspace, teacher, space, choose, processes=processes)

    alone = [step.result for step in steps(1)]
    last = Path(alone[-1][1].path)
    last.unlink()
    together = steps(2)
    found = [next(together).result]
    until = time.monotonic() + 120.0
    while not last.exists() and time.monotonic() < until:  # the helper's: this process is held here
        time.sleep(0.05)
    assert last.exists()
    found += [step.result for step in together]
    assert found == alone and {key for key, _ in found} >= {candidate.key for candidate in space.unique()}


def test_what_was_measured_with_other_layers_is_measured_again(filled):
    workspace, _, space = filled
    table = LatencyTable("local", exported(filled, "onnx"))
    fleet = SimpleNamespace(sessions={"x": SimpleNamespace(hello=SimpleNamespace(cpu_flags=(), arch="x86_64"))})

    def planned(rows, layers):
        return plan(LatencyTable("local", rows), space, load_devices("local"), fleet, False, False, layers)

    known = LayerBits.read(workspace, space)
    rows = list(table.rows.values())
    before = [msgspec.structs.replace(row, layer_bits=()) for row in rows]
    now = planned(rows, known)
    assert now.rebitted == frozenset()
    origin = origin_network(space)
    assert origin is not None and now.wanted[origin[0]] == now.forms[7][0], "of its widest block"
    stale = planned(before, known)
    assert stale.rebitted and all(f"@{KEEPS}@" in key for key in stale.rebitted)
    assert stale.rebitted <= stale.missing and any("most sensitive" in note for note in stale.notes())
    unknown = LayerBits(space, LossTable(()))
    assert planned(before, unknown).rebitted == frozenset() == planned(rows, unknown).rebitted


def test_files_of_other_layers_have_other_names(filled):
    workspace, teacher, space = filled
    candidate = next(c for c in space.block("stage3").candidates if str(c.scheme) == KEEPS)
    (step,) = export_candidates(workspace, teacher, space, choose, {candidate.key})
    file = workspace.loss_file(space.origin)
    rows = file.read_bytes()
    try:
        file.unlink()
        (blind,) = export_candidates(workspace, teacher, space, choose, {candidate.key})
    finally:
        file.write_bytes(rows)
    assert step.result[1].path != blind.result[1].path
    assert step.result[1].weight_bytes < blind.result[1].weight_bytes
