"""The teacher: loading its code and its weights, and the digests that follow both."""

import importlib
import os
import sys
from pathlib import Path

import msgspec
import pytest
import safetensors.torch
import torch
from small_teacher import BLOCKS, SMALL, Net, cut_net, with_tail, workspace
from torch import Tensor, nn

from qaedge.errors import MissingFile, TeacherError
from qaedge.nn.deeplab import deeplabv3_mobilenetv2
from qaedge.nn.fingerprint import computation_digest, structure_digest
from qaedge.nn.teacher import (
    Teacher,
    cut,
    load_teacher,
)
from qaedge.nn.weights import load_weights
from qaedge.project import DataConfig, Workspace


def test_load_gives_blocks_and_shapes(teacher: Teacher) -> None:
    assert not teacher.module.training
    assert teacher.input_shape == (3, 64, 96)
    assert [block.name for block in teacher.blocks] == list(BLOCKS)
    assert teacher.blocks[0].input_shape == (3, 64, 96)
    assert teacher.blocks[-1].output_shape == (8, 4, 6)
    for before, after in zip(teacher.blocks, teacher.blocks[1:], strict=False):
        assert before.output_shape == after.input_shape


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights_of_each_kind(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(5)
    network = deeplabv3_mobilenetv2(**SMALL).eval()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(network.state_dict(), path)
    else:
        torch.save(network.state_dict(), path)
    loaded = load_teacher(workspace(tmp_path, weights=path.name))
    x = torch.rand(1, 3, 64, 96)
    assert torch.equal(loaded.module(x), network(x))
    assert loaded.digest != load_teacher(workspace(tmp_path)).digest


def test_digest_follows_arguments_weights_and_cut(tmp_path: Path, teacher: Teacher) -> None:
    assert load_teacher(workspace(tmp_path)).digest == teacher.digest, "fresh weights are drawn from a fixed seed"
    fewer = {"stage1": BLOCKS["stage1"]}
    wider = {**SMALL, "classes": 9}
    digests = {
        load_teacher(workspace(tmp_path, **change)).digest for change in ({"blocks": fewer}, {"arguments": wider})
    }
    assert len({teacher.digest, *digests}) == 3


def edited(root: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> str:
    """Write modules into the project's folder, import them anew, and return the teacher's digest."""
    for name, text in files.items():
        (root / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # bytecode is told apart by second and size only
    importlib.invalidate_caches()
    return load_teacher(workspace(root, function="edited_network:make", arguments={}, blocks={"conv": "conv"})).digest


NETWORK = """
import torch
from torch import nn
{above}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.{buffer}
    def forward(self, x):
        {inside}
def make():
    return Net()
"""


@pytest.mark.parametrize("traceable", [True, False])
def test_digest_follows_the_code_of_the_network(tmp_path, monkeypatch, traceable: bool) -> None:
    above = "" if traceable else "def shown(x): return float(x.mean())"
    buffer = "register_buffer('gain', torch.tensor(2.0), persistent=False)"
    monkeypatch.setattr("qaedge.nn.teacher.sources_digest", lambda *_: "")  # as of an installed network
    texts = [
        NETWORK.format(above=above, buffer=held, inside=("" if traceable else "shown(x); ") + inside)
        for inside, held in (
            ("return self.conv(x)", buffer),
            ("return self.conv(x * 0.5)", buffer),
            ("return self.conv(x * self.gain)", buffer),
            ("return self.conv(x * self.gain)", buffer.replace("2.0", "3.05")),
            ("return self.conv(torch.relu(x)) ", buffer),
            ("return self.conv(nn.functional.relu6(x))", buffer),
        )
    ]
    digests = [edited(tmp_path, monkeypatch, edited_network=text) for text in texts]
    assert len(set(digests)) == len(texts)
    assert edited(tmp_path, monkeypatch, edited_network=texts[0]) == digests[0]


def test_digest_follows_the_files_that_the_code_imports(tmp_path, monkeypatch) -> None:
    network = NETWORK.format(above="import edited_part", buffer="n = 1", inside="return edited_part.scaled(self, x)")
    parts = [f"def scaled(net, x):\n    return net.conv(x * {scale})\n" for scale in ("0.5", "0.25")]
    digests = {edited(tmp_path, monkeypatch, edited_part=part, edited_network=network) for part in parts}
    assert len(digests) == 2


def test_digest_follows_the_size_of_the_images(tmp_path: Path, teacher: Teacher) -> None:
    project = workspace(tmp_path).project
    larger = msgspec.structs.replace(project, data=DataConfig("scenes", 80, 96))
    assert load_teacher(Workspace(tmp_path, larger)).digest != teacher.digest


def test_block_digests_follow_operators() -> None:
    layers = (nn.ReLU(), nn.ReLU6(), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1))
    functions = (
        nn.functional.relu,
        nn.functional.relu6,
        lambda x: nn.functional.max_pool2d(x, 3, 1, 1),
        lambda x: nn.functional.avg_pool2d(x, 3, 1, 1),
    )
    parts = [nn.Sequential(nn.Conv2d(3, 3, 1), layer) for layer in layers]
    parts += [Net(lambda net, x, f=f: f(net.body(x))) for f in functions]
    digests = {with_tail(part, lambda net, x: net.tail["a"](x)).block("a").digest for part in parts}
    assert len(digests) == len(parts)


def test_block_digests_follow_structure_not_weights(tmp_path: Path, teacher: Teacher) -> None:
    other = deeplabv3_mobilenetv2(**SMALL)
    same = cut(other, BLOCKS, (3, 64, 96), "other")
    assert [b.digest for b in same.blocks] == [b.digest for b in teacher.blocks]
    assert len({b.digest for b in teacher.blocks}) == len(BLOCKS)
    larger = cut(other, BLOCKS, (3, 96, 96), "other")
    assert all(a.digest != b.digest for a, b in zip(larger.blocks, teacher.blocks, strict=True))


def test_digests_outlive_how_a_version_of_torch_prints_its_layers(tmp_path, monkeypatch, teacher) -> None:
    known = [teacher.digest, *(block.digest for block in teacher.blocks)]
    monkeypatch.setattr(nn.BatchNorm2d, "extra_repr", lambda self: "as a later version says it")
    again = load_teacher(workspace(tmp_path))
    assert [again.digest, *(block.digest for block in again.blocks)] == known


class OwnNorm(nn.BatchNorm2d):
    """A layer as users derive them."""


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.ModuleList([nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)]),
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), OwnNorm(3)),
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)),
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2), 1, norm=nn.LayerNorm(8), enable_nested_tensor=False
        ),
    ],
    ids=["list", "derived", "parametrized", "nested"],
)
def test_so_do_those_of_layers_within_layers(monkeypatch, make) -> None:
    def digests() -> tuple[str, str]:
        torch.manual_seed(0)
        module = make()
        return computation_digest(module), structure_digest(module, (3, 4, 4), "")

    known = digests()
    for kind in (nn.modules.batchnorm._NormBase, nn.modules.conv._ConvNd, nn.LayerNorm, nn.Linear):
        monkeypatch.setattr(kind, "extra_repr", lambda self: "as a later version says it")
    assert digests() == known


def test_digests_follow_what_users_layers_say_of_themselves() -> None:
    class Told(nn.ReLU):
        def __init__(self, said: str) -> None:
            super().__init__()
            self.said = said

        def extra_repr(self) -> str:
            return self.said

    assert computation_digest(Told("one")) != computation_digest(Told("other"))
    heads = [nn.MultiheadAttention(8, count) for count in (2, 4)]
    assert structure_digest(heads[0], (8, 1, 1), "") != structure_digest(heads[1], (8, 1, 1), "")


def test_digests_follow_the_settings_of_layers() -> None:
    layers = [
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3, eps=1e-3),
        nn.Conv2d(3, 3, 3, padding=1),
        nn.Conv2d(3, 3, 3, padding=2, dilation=2),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
        nn.Hardtanh(),
        nn.Hardtanh(max_val=2.0),
        nn.LeakyReLU(0.1),
        nn.LeakyReLU(0.2),
        nn.AvgPool2d(3, 1, 1),
        nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        nn.Upsample(scale_factor=1, mode="nearest"),
        nn.Upsample(scale_factor=1, mode="bilinear"),
    ]
    parts = [with_tail(nn.Sequential(nn.Conv2d(3, 3, 1), layer), lambda net, x: net.tail["a"](x)) for layer in layers]
    assert len({part.block("a").digest for part in parts}) == len(layers)


def test_equal_layers_share_a_digest() -> None:
    net = cut_net({"one": "body[0:2]", "two": "body[2:4]", "a": "tail.a", "b": "tail.b"})
    assert net.block("one").digest == net.block("two").digest != net.block("a").digest == net.block("b").digest


def test_a_function_from_the_project_folder(tmp_path: Path) -> None:
    (tmp_path / "my_own_network.py").write_text(
        "from torch import nn\n"
        "def make(channels):\n    return nn.Sequential(nn.Conv2d(3, channels, 3), nn.Conv2d(channels, 4, 1))\n"
        "def broken():\n    raise KeyError('no such thing')\n"
        "def nothing():\n    return 3\n"
    )
    space = {"blocks": {"first": "0", "second": "[1:]"}, "arguments": {"channels": 7}}
    loaded = load_teacher(workspace(tmp_path, function="my_own_network:make", **space))
    assert loaded.blocks[1].output_shape == (4, 62, 94)
    with pytest.raises(TeacherError, match=r"no function 'mak'.\nDid you mean make"):
        load_teacher(workspace(tmp_path, function="my_own_network:mak", **space))
    with pytest.raises(TeacherError, match="failed with TypeError"):
        load_teacher(workspace(tmp_path, function="my_own_network:make"))
    with pytest.raises(TeacherError, match="failed with KeyError"):
        load_teacher(workspace(tmp_path, function="my_own_network:broken", arguments={}))
    with pytest.raises(TeacherError, match="returned a value of type int"):
        load_teacher(workspace(tmp_path, function="my_own_network:nothing", arguments={}))


def test_modules_that_cannot_be_imported(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="no module 'no_such_thing'"):
        load_teacher(workspace(tmp_path, function="no_such_thing:make"))
    (tmp_path / "broken_network.py").write_text("def make(:\n")
    with pytest.raises(TeacherError, match="failed with SyntaxError"):
        load_teacher(workspace(tmp_path, function="broken_network:make"))


def saved(tmp_path: Path, **changes: object) -> dict[str, Tensor]:
    return dict(deeplabv3_mobilenetv2(**{**SMALL, **changes}).state_dict())


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    state = saved(tmp_path)
    for key in [key for key in state if key.startswith("features.3.")]:
        state[f"x{key}"] = state.pop(key)
    state["head.classifier.weight"] = torch.zeros(3, 16, 1, 1)
    safetensors.torch.save_file(state, path)
    with pytest.raises(TeacherError) as caught:
        load_teacher(workspace(tmp_path, weights=path.name))
    text = str(caught.value)
    assert "15 missing (features.3.conv.0.0.weight" in text and "and 12 more" in text
    assert "18 unexpected (xfeatures.3." in text
    assert "1 wrongly shaped (head.classifier.weight [3, 16, 1, 1] instead of [8, 16, 1, 1])" in text


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_weights(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(saved(tmp_path), path)
    else:
        torch.save(saved(tmp_path), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(TeacherError, match=rf"weights\{suffix} cannot be read"):
        load_teacher(workspace(tmp_path, weights=path.name))


class Surprise:
    """What a weights file must not be able to bring along."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("surprise",))


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MissingFile, match=r"teacher\.weights"):
        load_teacher(workspace(tmp_path, weights="none.safetensors"))
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(MissingFile, match="directory"):
        load_teacher(workspace(tmp_path, weights="folder.pt"))
    with pytest.raises(TeacherError, match=r"Known: \.safetensors, \.pt, \.pth"):
        load_teacher(workspace(tmp_path, weights="weights.onnx"))
    torch.save({"state_dict": saved(tmp_path), "epoch": 3}, tmp_path / "more.pt")
    with pytest.raises(TeacherError, match="a dict with 'state_dict', 'epoch', no state dict"):
        load_teacher(workspace(tmp_path, weights="more.pt"))
    for held in ({"a": Surprise()}, nn.Linear(2, 2)):
        torch.save(held, tmp_path / "code.pt")
        with pytest.raises(TeacherError, match=r"code\.pt hold more than tensors\.\nSave model\.state_dict") as caught:
            load_teacher(workspace(tmp_path, weights="code.pt"))
        assert "trust" not in str(caught.value)
    assert "surprise" not in capsys.readouterr().out


def test_images_that_do_not_fit() -> None:
    with pytest.raises(TeacherError, match=r"fails on images of shape \(1, 4, 8, 8\)"):
        cut(Net(), {"body": "body"}, (4, 8, 8), "digest")


def test_a_file_that_would_run_code_is_refused_without_advice_to_run_it(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    path = tmp_path / "evil.pt"
    torch.save({"a": Evil()}, path)
    with pytest.raises(TeacherError, match="hold more than tensors") as caught:
        load_weights(torch.nn.Conv2d(3, 8, 1), path)
    assert "weights_only" not in str(caught.value) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(value: float, tmp_path: Path) -> None:
    net = nn.Conv2d(3, 4, 1)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state["bias"][1] = value
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(TeacherError, match=r"hold NaN or infinity in 1 of their tensors \(bias\)"):
        load_weights(net, tmp_path / "net.safetensors")


def test_a_buffer_may_hold_infinity_and_weights_of_eight_bits_are_read(tmp_path: Path) -> None:
    net = nn.Linear(2, 2, bias=False)
    net.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    state = {"weight": torch.ones(2, 2).to(torch.float8_e4m3fn), "mask": net.mask.clone()}
    safetensors.torch.save_file(state, tmp_path / "net.safetensors")
    load_weights(net, tmp_path / "net.safetensors")
    assert torch.equal(net.weight, torch.ones(2, 2))
