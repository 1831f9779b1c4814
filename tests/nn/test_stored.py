"""What files hold weights in, read from files that were written."""

from __future__ import annotations

import pytest
import torch
from export_samples import IMAGE, noise, small_deeplab

from qaedge.candidate import QuantScheme
from qaedge.errors import InvalidFile
from qaedge.nn.export import write_file
from qaedge.nn.precision import is_depthwise, weighted
from qaedge.nn.quantize import QuantizedGraph, calibrate
from qaedge.nn.stored import loading, stored_weights, told
from qaedge.nn.tracing import trace


def network(*bits: int) -> QuantizedGraph:
    """A whole network whose layers have these bits in turn."""
    graph = trace(small_deeplab().module, IMAGE)
    each = {node.name: bits[i % len(bits)] for i, node in enumerate(weighted(graph))}
    return calibrate(graph, noise(IMAGE), QuantScheme(max(bits), 8), each).freeze()


def numbers(net: QuantizedGraph, bits: int) -> int:
    return sum(net.graph.values[n.weight].numel() for n in weighted(net.graph) if net.bits_of(n) == bits)


@pytest.mark.parametrize("form", ["u8s8", "s8s8", "u8u8"])
def test_onnx_packs_4_and_2_bits_of_every_layer(form, tmp_path):
    net = network(8, 4, 2, 3)
    write_file(net, tmp_path / "net.onnx", form)
    found = stored_weights(net, tmp_path / "net.onnx")
    byte = "UINT8" if form == "u8u8" else "INT8"
    assert [(g.bits, g.stored, g.executed) for g in found] == [
        (2, "INT2", "INT8"),
        (3, byte, byte),
        (4, "INT4", "INT8"),
        (8, byte, byte),
    ]
    assert sum(g.layers for g in found) == len(weighted(net.graph))
    for group in found:
        wide = 8 if group.stored == byte else group.bits
        assert group.size_bytes == pytest.approx(numbers(net, group.bits) * wide / 8, abs=group.layers)
        assert group.is_packed == (group.bits != 3) and group.is_few_bit == (group.bits < 7)
    two, three, four = told(found, "onnx")
    total = len(weighted(net.graph))
    assert four == (
        f"4-bit weights: {found[2].layers} of {total} layers, stored packed, unpacked to INT8 on load for ONNX Runtime"
    )
    assert two.endswith("stored packed, unpacked to INT8 on load for ONNX Runtime")
    assert f"stored as {byte}, a byte each (ONNX packs weights of 4 and 2 bits alone)" in three
    assert "unpack them to INT8 when the file is loaded" in loading(found)


def test_what_is_said_of_unpacking_is_what_boards_do(tmp_path):
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[2] / "profilers"))
    try:
        from unpack import unpacked
    finally:
        sys.path.pop(0)
    net = network(8, 4, 2)
    path = tmp_path / "net.onnx"
    write_file(net, path)
    before = stored_weights(net, path)
    path.write_bytes(unpacked(path.read_bytes()))
    after = stored_weights(net, path)
    assert [(g.bits, g.stored, g.layers) for g in after] == [(g.bits, g.executed, g.layers) for g in before]
    assert loading(after) == ""


def test_tflite_says_which_layers_it_cannot_pack(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    net = network(4)
    write_file(net, tmp_path / "net.tflite")
    found = {g.stored: g for g in stored_weights(net, tmp_path / "net.tflite")}
    assert {g.bits for g in found.values()} == {4} and set(found) == {"INT4", "INT8"}
    depthwise = sum(is_depthwise(net.graph, node) for node in weighted(net.graph))
    assert found["INT8"].layers >= depthwise > 0 and found["INT4"].layers > 0
    assert not found["INT8"].is_packed and found["INT8"].size_bytes == 2 * found["INT8"].packed_bytes
    assert found["INT4"].is_packed and found["INT4"].executed == "INT4"
    lines = told(tuple(found.values()), "tflite")
    assert any("stored as INT8, a byte each (TFLite packs" in line for line in lines)
    assert any(line.endswith("stored packed, executed as INT4 by LiteRT") for line in lines)
    assert loading(tuple(found.values())) == ""


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_float_and_8_bits_need_no_words(suffix, tmp_path):
    if suffix == ".tflite":
        pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    net = network(7)
    for one, kind in ((net, (7, "INT8")), (net.graph, (32, "FLOAT32"))):
        write_file(one, tmp_path / f"net{suffix}")
        (found,) = stored_weights(one, tmp_path / f"net{suffix}")
        assert (found.bits, found.stored, found.executed) == (*kind, kind[1])
        assert told((found,), suffix[1:]) == [] and loading((found,)) == ""


def test_a_file_of_another_network_is_told(tmp_path):
    torch.manual_seed(0)
    other = trace(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).eval(), IMAGE)
    write_file(other, tmp_path / "other.onnx")
    with pytest.raises(InvalidFile, match="expected the weights"):
        stored_weights(network(4), tmp_path / "other.onnx")
