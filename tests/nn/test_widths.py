"""Activations of 16 bits: in every kind of block, and in some blocks of a network beside 8 bits in others."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from does import Does
from export_samples import IMAGE, OTHERS, SPECS, conv, noise, pictures, settled, small_deeplab
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qaedge.candidate import BlockSpec, QuantScheme
from qaedge.errors import QaedgeError
from qaedge.nn.blocks import build_block
from qaedge.nn.export import as_written, write_file
from qaedge.nn.parity import BOUNDS, block_parity, check, network_parity
from qaedge.nn.part import part_of
from qaedge.nn.paths import top_modules
from qaedge.nn.quantize import QuantizedGraph, calibrate, fake_quantize
from qaedge.nn.quantized_file import load_quantized, save_quantized
from qaedge.nn.scale import Scale
from qaedge.nn.sessions import load_file
from qaedge.nn.teacher import cut, resolve_space
from qaedge.nn.tracing import trace
from qaedge.nn.widths import crossed, crossing_alone, crossings, widened
from qaedge.project import DataConfig
from qaedge.space import Axes, SearchSpace, SpaceFile

pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")

FORMATS = ("onnx", "tflite")
BLOCKS = [(text, lambda t=text: build_block(BlockSpec.parse(t), SPECS[t][0]), SPECS[text]) for text in SPECS]
BLOCKS += [(text, lambda m=module: m.eval(), (4, 8, 10)) for text, module in OTHERS.items()]


def mixed(*bits: int, weights: int = 8) -> tuple[QuantizedGraph, list[tuple[tuple[str, ...], QuantScheme]]]:
    """The small DeepLabV3, its blocks' activations of so many bits in turn."""
    teacher = small_deeplab()
    graph = trace(teacher.module, IMAGE)
    blocks = [
        (tuple(top_modules(teacher.module, block.path)), QuantScheme(weights, bits[number % len(bits)]))
        for number, block in enumerate(teacher.blocks)
    ]
    graph, widths = widened(graph, blocks)
    scheme = QuantScheme(weights, max(bits))
    return calibrate(graph, pictures(8, "train"), scheme, widths=widths).freeze(), blocks


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3))
def test_a_grid_of_16_bits_has_zero_in_its_middle_and_covers_the_range(low, width):
    scale = Scale.of_range(low, low + width, 16)
    assert scale.bits == 16 and scale.zero_point == scale.middle == 2**15
    step = scale.scale
    assert scale.low <= min(low, 0.0) + step / 2 and scale.high >= max(low + width, 0.0) - step / 2
    values = torch.tensor([0.0, low, low + width])
    found = fake_quantize(values, scale)
    assert found[0] == 0 and torch.allclose(found, values, atol=step * 0.51)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("bits", [8, 4])
def test_every_kind_of_block_computes_what_torch_scored(bits, file_format, tmp_path):
    for text, build, shape in BLOCKS:
        graph = trace(settled(build(), shape), shape)
        network = calibrate(graph, noise(shape), QuantScheme(bits, 16), float_tail=False).freeze()
        path = tmp_path / f"block.{file_format}"
        artifact = write_file(network, path, "u8s8", name=text, integer_ends=True)
        session = load_file(path)
        assert session.dtype == "int16" and session.run_raw(session.zeros()).dtype == np.int16, text
        found = block_parity(network, artifact, noise(shape, 3, seed=7))
        assert found.within_one_step >= BOUNDS[file_format].block, (text, found)
        check(found, artifact)


def test_16_bits_are_closer_to_float_than_8():
    for text, build, shape in BLOCKS:
        graph = trace(settled(build(), shape), shape)
        apart = {}
        for width in (8, 16):
            network = calibrate(graph, noise(shape), QuantScheme(8, width), float_tail=False).freeze()
            with torch.no_grad():
                apart[width] = sum(float((network(x) - graph(x)).square().sum()) for x in noise(shape))
        assert apart[16] < apart[8], text


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("bits", [(16,), (8, 16), (16, 8), (8, 8, 16)], ids=str)
def test_a_network_of_such_blocks_gives_each_pixel_its_class(bits, file_format, tmp_path):
    network, blocks = mixed(*bits)
    path = tmp_path / f"net.{file_format}"
    written = as_written(network, path)
    artifact = write_file(network, path)
    found = network_parity(written, artifact, pictures(6))
    assert found.same_decided >= 0.995
    check(found, artifact)
    widths = [8, *(scheme.activation_bits for _, scheme in blocks), 8]
    changes = sum(one != other for one, other in itertools.pairwise(widths))
    assert len(crossings(network.graph)) == changes
    if file_format == "tflite":
        assert load_file(path).operators.count("QUANTIZE") >= changes


@pytest.mark.parametrize("bits", [8, 16])
def test_where_all_blocks_have_one_width_nothing_is_put_between(bits):
    teacher = small_deeplab()
    graph = trace(teacher.module, IMAGE)
    blocks = [(tuple(top_modules(teacher.module, block.path)), QuantScheme(8, bits)) for block in teacher.blocks]
    found, widths = widened(graph, blocks)
    if bits == 8:
        assert (found, widths) == (graph, {})
    else:  # outside are 8: what goes in, and the resize behind the last
        assert [crossing.tensor for crossing in crossings(found)] == ["input", graph.nodes[-2].name]
        assert widths["input"] == widths[graph.output] == 8


def test_a_network_that_ends_with_its_last_block_puts_out_8_bits():
    graph = trace(nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)).eval(), (4, 8, 8))
    found, widths = widened(graph, [(("0",), QuantScheme(8, 8)), (("1",), QuantScheme(8, 16))])
    assert found.output == f"{graph.output}_a8" and widths[found.output] == 8
    again = crossed(graph, crossings(found))
    assert (again.nodes, again.output) == (found.nodes, found.output)


def test_a_node_that_is_called_like_a_crossing_is_none():
    module = Does(lambda m, x: m.y_a16(m.y(x)), y=conv(), y_a16=conv()).eval()
    graph = trace(module, (4, 8, 8))
    found, _ = widened(graph, [(("y",), QuantScheme(8, 8)), (("y_a16",), QuantScheme(8, 16))])
    names = [crossing.name for crossing in crossings(found)]
    assert len(set(names)) == 2 and not set(names) & {node.name for node in graph.nodes}


def test_a_bias_that_is_far_from_the_weights_is_kept_in_both_formats(tmp_path):
    module = nn.Sequential(nn.Conv2d(4, 2, 1)).eval()
    with torch.no_grad():
        module[0].weight[1].fill_(1e-5)
        module[0].bias.copy_(torch.tensor([0.1, 0.5]))
    graph, x = trace(module, (4, 8, 8)), noise((4, 8, 8))
    network = calibrate(graph, x, QuantScheme(8, 16), float_tail=False).freeze()
    with torch.no_grad():
        assert torch.allclose(network(x[0]), graph(x[0]), atol=0.01)
    for file_format in FORMATS:
        artifact = write_file(network, tmp_path / f"bias.{file_format}", "u8s8", integer_ends=True)
        check(block_parity(network, artifact, x), artifact)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_clamp_behind_what_keeps_its_scale_has_one_of_its_own(bits, tmp_path):
    module = nn.Sequential(conv(), nn.Upsample(scale_factor=2, mode="bilinear"), nn.ReLU6(), conv()).eval()
    network = calibrate(trace(module, (4, 8, 8)), noise((4, 8, 8)), QuantScheme(8, bits), float_tail=False).freeze()
    for file_format in FORMATS:  # halves of steps, of which a resize makes many, are rounded either way
        artifact = write_file(network, tmp_path / f"up.{file_format}", "u8s8", integer_ends=True)
        assert block_parity(network, artifact, noise((4, 8, 8), 3, seed=7)).within_one_step >= 0.98


def chain_of(module: nn.Module, names: str, scheme: str = "w8a16") -> SearchSpace:
    """Resolve a space whose blocks are the modules of these names."""
    teacher = cut(module.eval(), {name: name for name in names}, (4, 8, 8), "digest")
    axes = tuple(Axes(name, depths=(1,), expansions=(1,), schemes=("w8a8", scheme)) for name in names)
    return resolve_space(teacher, SpaceFile("s", axes), DataConfig("scenes", 8, 8))


def test_blocks_that_are_no_chain_are_refused_where_widths_differ():
    chain = Does(lambda m, x: torch.relu(m.b(m.a(x))), a=conv(), b=conv())
    assert len(chain_of(chain, "ab").blocks) == 2
    over = Does(lambda m, x: m.c(m.b(y := m.a(x)) + y), a=conv(), b=conv(), c=conv())
    assert len(chain_of(over, "abc", "w4a8").blocks) == 3, "of one width anything goes"
    with pytest.raises(
        QaedgeError, match=r"operators of the teacher read what another than the block before puts out: add"
    ):
        chain_of(over, "abc")
    with pytest.raises(QaedgeError, match=r"1 operators of the teacher lie in no block: b\."):
        chain_of(Does(lambda m, x: m.c(m.b(m.a(x))), a=conv(), b=conv(), c=conv()), "ac")


def test_in_float_a_crossing_does_nothing():
    network, _ = mixed(8, 16)
    plain = trace(small_deeplab().module, IMAGE)
    assert len(network.graph.nodes) > len(plain.nodes)
    for x in pictures(2):
        with torch.no_grad():
            assert torch.equal(network.graph(x), plain(x))


def test_each_tensor_is_on_the_grid_of_its_block():
    network, blocks = mixed(8, 16)
    for places, scheme in blocks:
        part = part_of(network, places)
        assert part is not None
        for owner in part.network.layout.owners:
            assert part.network.scales[owner].bits == scheme.activation_bits, (places, owner)


def test_a_network_comes_back_from_its_file_with_its_crossings(tmp_path):
    network, _ = mixed(8, 16)
    save_quantized(network, tmp_path / "net.safetensors")
    again = load_quantized(trace(small_deeplab().module, IMAGE), tmp_path / "net.safetensors")
    assert crossings(again.graph) == crossings(network.graph)
    assert load_quantized(network.graph, tmp_path / "net.safetensors").graph.nodes == network.graph.nodes
    for x in pictures(2):
        with torch.no_grad():
            assert torch.equal(again(x), network(x))


def test_crossings_of_one_size_of_image_stand_at_the_same_places_of_another():
    network, _ = mixed(8, 16)
    crop = crossed(trace(small_deeplab().module, (3, 16, 24)), crossings(network.graph))
    assert [node.name for node in crop.nodes] == [node.name for node in network.graph.nodes]
    assert [node.inputs for node in crop.nodes] == [node.inputs for node in network.graph.nodes]
    assert crossed(crop, crossings(network.graph)) is crop


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(("before", "after"), [(8, 16), (16, 8)])
def test_a_crossing_alone_is_a_file_that_changes_the_grid(before, after, file_format, tmp_path):
    shape = (8, 6, 10)
    graph, widths = crossing_alone(shape, before, after)
    scheme = QuantScheme(8, 8)
    network = calibrate(graph, noise(shape), scheme, float_tail=False, widths=widths).freeze()
    artifact = write_file(network, tmp_path / f"border.{file_format}", "s8s8", integer_ends=True)
    session = load_file(Path(artifact.path))
    assert (session.dtype, session.run_raw(session.zeros()).dtype) == (f"int{before}", f"int{after}")
    found = block_parity(network, artifact, noise(shape, 3, seed=7))
    assert found.within_one_step is not None and math.isclose(found.within_one_step, 1.0)


def test_a_layer_that_puts_out_next_to_nothing_loads(tmp_path):
    module = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU6(), nn.Conv2d(4, 4, 1)).eval()
    with torch.no_grad():
        module[0].weight.mul_(1e-8)
        module[0].bias.fill_(1e-8)
    network = calibrate(trace(module, (4, 8, 8)), noise((4, 8, 8)), QuantScheme(8, 16), float_tail=False).freeze()
    artifact = write_file(network, tmp_path / "faint.tflite", integer_ends=True)
    check(block_parity(network, artifact, noise((4, 8, 8))), artifact)
