"""TFLite files against torch and against ONNX: every kind of candidate, and whole networks."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from export_samples import (
    IMAGE,
    OTHERS,
    SPECS,
    Shape,
    conv,
    deeplab_of,
    noise,
    pictures,
    quantized_of,
    settled,
    small_deeplab,
)
from torch import nn

from qaedge.candidate import BlockSpec, QuantScheme
from qaedge.errors import DiskFull, InvalidFile, MissingExtra, UnsupportedOperator
from qaedge.nn.blocks import build_block
from qaedge.nn.export_onnx import write_onnx
from qaedge.nn.export_tflite import write_tflite
from qaedge.nn.graph import OPERATORS, Graph, Node
from qaedge.nn.litert_greeting import GREETING, without_line
from qaedge.nn.onnx_session import OnnxSession
from qaedge.nn.parity import BOUNDS, block_parity, check, network_parity
from qaedge.nn.quantize import calibrate
from qaedge.nn.teacher import Teacher
from qaedge.nn.tflite_file import schema
from qaedge.nn.tflite_operators import EMITTERS
from qaedge.nn.tflite_session import TfliteSession
from qaedge.nn.tracing import trace

pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")

#: What XNNPACK does not take: each of these leaves its delegate, and comes back to it.
NOT_DELEGATED = {"pooled": {"PADV2"}, "before and after": {"RELU"}, "hard": {"HARD_SWISH"}}


@pytest.fixture(scope="module")
def deeplab() -> Teacher:
    return small_deeplab()


@pytest.fixture(scope="module")
def kinds(deeplab: Teacher) -> list[tuple[str, nn.Module, Shape]]:
    built = [(t, settled(build_block(BlockSpec.parse(t), s[0]), s), s) for t, s in SPECS.items()]
    return built + [(f"own {block.name}", block.module, block.input_shape) for block in deeplab.blocks]


def model_of(path: Path):
    return schema().ModelT.InitFromPackedBuf(path.read_bytes(), 0)


def tensors_of(path: Path):
    return model_of(path).subgraphs[0].tensors


def stored_bytes(path: Path) -> int:
    """What weights, biases and their scales take in a file; zero points are shared."""
    model = model_of(path)
    total = 0
    for tensor in model.subgraphs[0].tensors:
        if b"__weight" in tensor.name or b"__bias" in tensor.name or tensor.name.endswith(b"/b"):
            total += len(model.buffers[tensor.buffer].data)
            total += 4 * (len(tensor.quantization.scale) if tensor.quantization is not None else 0)
    return total


def test_every_kind_of_block_computes_what_torch_scored(kinds, tmp_path):
    for text, module, shape in kinds:
        quantized = calibrate(trace(module, shape), noise(shape), QuantScheme(8, 8), float_tail=False).freeze()
        path = tmp_path / "block.tflite"
        artifact = write_tflite(quantized, path, name=text)
        found = block_parity(quantized, artifact, noise(shape, 3, seed=7))
        assert found.images == 3 and found.within_one_step >= BOUNDS["tflite"].block, (text, found)
        check(found, artifact)

        session = TfliteSession(path)
        assert "TRANSPOSE" not in session.operators, text
        assert session.operators.count("DELEGATE") == 1, (text, session.operators)
        assert (session.dtype, session.run(np.zeros((1, *shape), np.int8)).dtype) == ("int8", np.int8), text
        assert session.run(noise(shape)[0]).shape == tuple(module(noise(shape)[0]).shape), text
        assert artifact.weight_bytes == stored_bytes(path) < artifact.size_bytes == path.stat().st_size
        assert (artifact.form, artifact.format, artifact.name) == ("s8s8", "tflite", text)
        weights = [t for t in tensors_of(path) if b"__weight" in t.name]
        assert all(len(t.quantization.scale) in (t.shape[0], t.shape[3]) for t in weights), "a scale for each channel"


def test_torch_onnx_and_tflite_agree_block_by_block(kinds, tmp_path):
    for text, module, shape in kinds:
        quantized = calibrate(trace(module, shape), noise(shape), QuantScheme(7, 8), float_tail=False).freeze()
        write_tflite(quantized, tmp_path / "block.tflite")
        write_onnx(quantized, tmp_path / "block.onnx", "s8s8", integer_ends=True)
        one, other = TfliteSession(tmp_path / "block.tflite"), OnnxSession(tmp_path / "block.onnx")
        draw = np.random.default_rng(0)
        integers = draw.integers(-128, 128, (4, *shape)).astype(np.int8)
        apart = np.concatenate(
            [np.abs(one.run(x[None]).astype(int) - other.run(x[None]).astype(int)).ravel() for x in integers]
        )
        assert (apart <= 1).mean() >= BOUNDS["tflite"].block, text


@pytest.mark.parametrize("size", [IMAGE[1:], (33, 47), (65, 97)], ids=str)
def test_a_whole_network_gives_each_pixel_its_class(size, tmp_path):
    frozen = deeplab_of(8, size)
    quantized = frozen.with_integer_tail().freeze()
    artifact = write_tflite(quantized, tmp_path / "net.tflite")
    images = pictures(6, size=size)
    found = network_parity(quantized, artifact, images)
    assert found.same_decided >= 0.999
    check(found, artifact)
    session = TfliteSession(tmp_path / "net.tflite")
    assert session.dtype == "int8" and session.output_grid is not None
    assert session.operators.count("DELEGATE") == 1 and "BROADCAST_TO" not in session.operators
    assert len(np.unique(np.concatenate([session.run(x).argmax(1) for x in images]))) > 1

    # Any two agree where classes are not as good as even, also those of which one ends in float.
    classes = {"tflite": [session.run(x).argmax(1) for x in images]}
    for form in ("s8s8", "u8s8"):
        onnx = OnnxSession(Path(write_onnx(frozen, tmp_path / f"{form}.onnx", form).path))
        classes[form] = [onnx.run(x).argmax(1) for x in images]
    with torch.no_grad():
        logits = [frozen(x) for x in images]
    classes["torch"] = [x.argmax(1).numpy() for x in logits]
    best = torch.cat([x.topk(2, 1).values for x in logits])
    step = frozen.scale_of(frozen.graph.nodes[-2].name)
    sure = (best[:, 0] - best[:, 1] > 3 * step.scale).numpy()
    assert sure.mean() > 0.7
    for one, other in itertools.combinations(classes, 2):
        same = (np.concatenate(classes[one]) == np.concatenate(classes[other]))[sure].mean()
        assert same >= 0.999, (one, other, same)


def test_a_network_may_end_in_float(tmp_path):
    quantized = deeplab_of(8)
    artifact = write_tflite(quantized, tmp_path / "net.tflite", integer_ends=False)
    session = TfliteSession(tmp_path / "net.tflite")
    assert session.dtype == "float32" and session.input_grid is None and session.output_grid is None
    assert network_parity(quantized, artifact, pictures(4)).same_decided >= 0.999


def test_float_files_equal_torch(kinds, deeplab, tmp_path):
    others = [(name, settled(module, (4, 8, 10)), (4, 8, 10)) for name, module in OTHERS.items()]
    for text, module, shape in [*kinds, ("whole", deeplab.module, IMAGE), *others]:
        artifact = write_tflite(trace(module, shape), tmp_path / "float.tflite")
        x = noise(shape)[0]
        with torch.no_grad():
            wanted = module(x).numpy()
        found = TfliteSession(Path(artifact.path)).run(x)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4, err_msg=text)
        assert artifact.form == "float" and artifact.weight_bytes == stored_bytes(Path(artifact.path)), text


@pytest.mark.parametrize("name", OTHERS)
def test_other_blocks_compute_what_torch_scored(name, tmp_path):
    torch.manual_seed(0)
    shape = (4, 8, 10)
    module = settled(OTHERS[name], shape)
    quantized = calibrate(trace(module, shape), noise(shape), QuantScheme(7, 8), float_tail=False).freeze()
    artifact = write_tflite(quantized, tmp_path / "block.tflite")
    assert block_parity(quantized, artifact, noise(shape, 5, seed=7)).within_one_step >= BOUNDS["tflite"].block
    counted = Counter(TfliteSession(tmp_path / "block.tflite").operators)
    assert counted["DELEGATE"] <= 1 or set(counted) & NOT_DELEGATED[name], counted


@pytest.mark.parametrize("size", [(1, 1), (3, 2)])
def test_flattening_keeps_the_order_of_channels(size, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(conv(4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * size[0] * size[1], 6)).eval()
    shape = (4, *size)
    x = noise(shape, 1)[0]
    write_tflite(trace(network, shape), tmp_path / "net.tflite")
    np.testing.assert_allclose(TfliteSession(tmp_path / "net.tflite").run(x), network(x).detach().numpy(), atol=1e-5)
    quantized = calibrate(trace(network, shape), noise(shape), QuantScheme(8, 8), float_tail=False).freeze()
    artifact = write_tflite(quantized, tmp_path / "int.tflite")
    assert block_parity(quantized, artifact, noise(shape, 5)).within_one_step == 1


def test_a_network_with_groups_and_odd_bounds(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Hardtanh(-0.5, 0.7), nn.Conv2d(8, 4, 1)).eval()
    graph = Graph(
        (8, 6, 7),
        [
            node
            for node in [
                Node("a", "conv", ("input",), (1, 8, 6, 7), trace(network[0], (8, 6, 7)).nodes[0].attributes, "w", "b"),
                Node("c", "clamp", ("a",), (1, 8, 6, 7), {"low": -0.5, "high": 0.7}),
            ]
        ],
        "c",
        {"w": network[0].weight, "b": network[0].bias},
    )
    x = noise((8, 6, 7), 1)[0]
    write_tflite(graph, tmp_path / "float.tflite")
    with torch.no_grad():
        np.testing.assert_allclose(TfliteSession(tmp_path / "float.tflite").run(x), graph(x).numpy(), atol=1e-5)


# What cannot be written or read


def test_an_operator_without_a_form_is_named(tmp_path):
    graph = Graph((4, 8, 8), [Node("a", "softmax", ("input",), (1, 4, 8, 8), where="stage1.0")], "a", {})
    with pytest.raises(UnsupportedOperator, match=r"'softmax' in stage1\.0"):
        write_tflite(graph, tmp_path / "odd.tflite")


def test_every_operator_has_a_form():
    assert set(EMITTERS) == set(OPERATORS)


def test_a_file_is_written_whole_or_not_at_all_and_the_same_each_time(tmp_path, monkeypatch):
    graph = trace(conv().eval(), (4, 8, 8))
    one, two = (write_tflite(graph, tmp_path / name / "net.tflite") for name in ("one", "two"))
    assert one.sha256 == two.sha256 and one.name == "net"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        write_tflite(graph, tmp_path / "three" / "net.tflite")
    assert not list((tmp_path / "three").iterdir())


def test_numbers_lie_where_kernels_can_read_them(tmp_path):
    path = tmp_path / "net.tflite"
    quantized = quantized_of(nn.Sequential(conv(), nn.ReLU(), conv(4, 9)).eval(), (4, 8, 8))
    write_tflite(quantized.with_integer_tail(), path)
    data = path.read_bytes()
    model = model_of(path)
    for buffer in model.buffers[1:]:
        assert data.index(bytes(buffer.data)) % 16 == 0
    assert data[4:8] == b"TFL3"


def test_a_file_that_is_none_is_said(tmp_path):
    (tmp_path / "bad.tflite").write_bytes(b"not a network")
    with pytest.raises(InvalidFile, match=r"bad\.tflite: expected a TFLite file"):
        TfliteSession(tmp_path / "bad.tflite")


LOAD = """
import sys
from pathlib import Path
from qaedge.nn.tflite_session import TfliteSession
for path in sys.argv[1:]:
    TfliteSession(Path(path)).zeros()
"""


def test_loading_files_says_nothing_on_stderr(tmp_path):
    path = write_tflite(trace(conv().eval(), (4, 8, 8)), tmp_path / "net.tflite").path
    ran = subprocess.run([sys.executable, "-c", LOAD, path, path], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")
    (tmp_path / "bad.tflite").write_bytes(b"not a network")
    ran = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path / "bad.tflite")], capture_output=True, text=True)
    assert ran.returncode == 1 and "expected a TFLite file" in ran.stderr


def test_of_what_is_held_back_the_one_line_alone_is_lost(capfd):
    with without_line(GREETING):
        os.write(2, b"ERROR: before\n" + GREETING + b" for CPU.\nERROR: behind\n")
    assert capfd.readouterr().err == "ERROR: before\nERROR: behind\n"
    with pytest.raises(ValueError), without_line(GREETING):
        os.write(2, b"ERROR: last words")
        raise ValueError
    assert capfd.readouterr().err == "ERROR: last words"


def test_without_the_extra_its_name_is_told(monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("ai_edge_litert"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match="ai-edge-litert") as caught:
        schema()
    assert "qaedge[tflite]" in caught.value.hint
