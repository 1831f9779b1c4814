"""The teacher: cutting, recording, replacing."""

import msgspec
import pytest
import torch
from small_teacher import BLOCKS, DATA, Net, cut_net, with_tail
from torch import Tensor, nn

from qaedge.errors import QaedgeError, TeacherError
from qaedge.nn.block_costs import block_costs
from qaedge.nn.teacher import (
    Teacher,
    cut,
    record,
    replace,
    resolve_space,
    with_blocks,
)
from qaedge.space import Axes, SpaceFile

# Paths


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("bodi", "the network has no child 'bodi'.\nKnown there: body, tail"),
        ("body.7", "body has no child '7'.\nKnown there: 0, 1, 2, 3"),
        ("tail[0:1]", "slices a ModuleDict, which is no nn.Sequential.\n.*a, b"),
        ("[0:1]", "slices a Net"),
        ("body[2:2]", "covers nothing: body has 4 modules"),
        ("body[1:9]", "reaches too far: body has 4 modules.\nSlices run from 0 to 4"),
        ("body[3:1]", "covers nothing"),
        ("body[-1:]", "is not a block path"),
        ("body[1]", "is not a block path"),
        ("", "is not a block path"),
    ],
)
def test_paths_that_do_not_exist(path: str, message: str) -> None:
    with pytest.raises(TeacherError, match=message):
        cut_net({"x": path})


@pytest.mark.parametrize(("one", "two"), [("body[0:3]", "body[2:]"), ("body", "body.1"), ("body[1:]", "body.2")])
def test_overlapping_blocks(one: str, two: str) -> None:
    for blocks in ({"one": one, "two": two}, {"one": two, "two": one}):
        with pytest.raises(TeacherError, match=r"overlap in body"):
            cut_net(blocks)


def test_blocks_out_of_order() -> None:
    with pytest.raises(TeacherError, match="listed as b, body, but the network runs body, b"):
        cut_net({"b": "tail.b", "body": "body[1:3]"})


def test_slices_may_be_open_and_leave_gaps() -> None:
    net = cut_net({"start": "body[:1]", "end": "body[2:]", "b": "tail.b"})
    assert len(net.block("end").module) == 2
    assert net.block("end").module[0] is net.module.body[2]
    with pytest.raises(TeacherError, match=r"no block 'x'.\nKnown: start, end, b"):
        net.block("x")


# What a block may do


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_a_block_with_two_inputs() -> None:
    for run in (lambda net, x: net.tail["a"](x, x), lambda net, x: net.tail["a"](x, y=x)):
        with pytest.raises(TeacherError, match=r"'a' takes 2 values \(Tensor, Tensor\)"):
            with_tail(Two(), run)


def test_a_block_with_two_outputs() -> None:
    with pytest.raises(TeacherError, match=r"'a' puts out a tuple of 2 \(Tensor, Tensor\)"):
        with_tail(Pair(), lambda net, x: net.tail["a"](x)[0])


def test_a_block_that_puts_out_no_image() -> None:
    with pytest.raises(TeacherError, match=r"puts out torch.float32 of shape \(1, 192\)"):
        with_tail(nn.Flatten(), lambda net, x: net.tail["a"](x))


def test_a_block_called_twice_or_never() -> None:
    with pytest.raises(TeacherError, match="called more than once"):
        cut_net({"a": "tail.a"}, lambda net, x: net.tail["a"](net.tail["a"](x)))
    with pytest.raises(TeacherError, match=r"'a' \(tail.a\) is not called"):
        cut_net({"a": "tail.a"}, lambda net, x: net.body(x))


def test_a_slice_whose_inside_is_read_elsewhere() -> None:
    def skip(net: Net, x: Tensor) -> Tensor:
        early = net.body[1](net.body[0](x))
        return early + net.body[3](net.body[2](early))

    with pytest.raises(TeacherError, match=r"reads the inside of the block 'wide' \(body\[0:3\]\)"):
        cut_net({"wide": "body[0:3]", "last": "body[3:]"}, skip)
    assert len(cut_net({"early": "body[0:2]", "late": "body[2:4]"}, skip).blocks) == 2


# Recording


def test_record_is_what_blocks_map(teacher: Teacher) -> None:
    images = torch.rand(2, 3, 64, 96)
    records = record(teacher, images, ["stage2", "stage5", "head"])
    assert list(records) == ["stage2", "stage5", "head"]
    for name, (given, out) in records.items():
        assert not given.requires_grad and not out.requires_grad
        with torch.no_grad():
            assert torch.equal(teacher.block(name).module(given), out)
    with torch.no_grad():
        assert torch.equal(records["stage2"][0], teacher.block("stage1").module(images))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in teacher.module.modules())
    with pytest.raises(TeacherError, match="no block 'nine'"):
        record(teacher, images, ["nine"])


def test_record_survives_what_is_overwritten_in_place() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True))
    teacher = cut(net, {"conv": "0", "relu": "1", "last": "2"}, (3, 4, 4), "digest")
    images = torch.randn(2, 3, 4, 4)
    records = record(teacher, images, ["conv", "relu", "last"])
    with torch.no_grad():
        assert torch.equal(records["conv"][1], net[0](images))
        assert (records["relu"][0] < 0).any() and (records["relu"][1] >= 0).all()
        assert torch.equal(records["last"][1], net[2](records["relu"][1]))


# Replacing


def test_replace_in_place_keeps_indices() -> None:
    net = Net()
    last, new = net.body[3], nn.Conv2d(3, 3, 5, padding=2)
    replace(net, "body[1:3]", new)
    assert net.body[1] is new and isinstance(net.body[2], nn.Identity) and net.body[3] is last
    replace(net, "tail.a", nn.Identity())
    assert isinstance(net.tail["a"], nn.Identity)
    assert net(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)


def test_with_blocks_leaves_the_teacher_alone(teacher: Teacher) -> None:
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        wanted = teacher.module(images)
        own = with_blocks(teacher, {block.name: block.module for block in teacher.blocks})
        assert torch.equal(own(images), wanted)
        head = nn.Conv2d(teacher.block("head").input_shape[0], 8, 1)
        student = with_blocks(teacher, {"head": head})
        assert student.head is head and teacher.module.head is not head
        assert not torch.equal(student(images), wanted)
        assert torch.equal(teacher.module(images), wanted)


def test_a_replacement_of_another_shape(teacher: Teacher) -> None:
    channels = teacher.block("head").input_shape[0]
    with pytest.raises(TeacherError, match=r"'head' puts out \(1, 9, 4, 6\), wanted \(1, 8, 4, 6\)"):
        with_blocks(teacher, {"head": nn.Conv2d(channels, 9, 1)})
    with pytest.raises(TeacherError, match=r"'head' fails on an input of shape \(1, 80, 4, 6\)"):
        with_blocks(teacher, {"head": nn.Conv2d(channels + 1, 8, 1)})
    with pytest.raises(TeacherError, match="puts out a tuple of 2"):
        with_blocks(teacher, {"head": Pair()})


def test_checking_a_replacement_changes_nothing_in_it(teacher: Teacher) -> None:
    head = nn.Sequential(nn.Conv2d(teacher.block("head").input_shape[0], 8, 1), nn.BatchNorm2d(8)).train()
    head[1].eval()
    with_blocks(teacher, {"head": head})
    assert head.training and head[0].training and not head[1].training
    assert head[1].num_batches_tracked == 0


# Costs and space


def test_costs_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), nn.Conv2d(8, 5, 1), nn.Conv2d(5, 5, 1))
    rows = block_costs(cut(net, {"first": "0", "second": "1"}, (4, 6, 6), "digest"))
    assert [(row.name, row.parameters, row.macs) for row in rows] == [
        ("first", 8 * 2 * 9 + 8, 9 * 8 * 2 * 9),
        ("second", 8 * 5 + 5, 9 * 8 * 5),
        ("rest", 5 * 5 + 5, 9 * 25),
    ]


def test_resolve_space(teacher: Teacher) -> None:
    axes = tuple(
        Axes(name, kind="context" if name == "head" else "inverted_residual", kernels=(3, 5)) for name in BLOCKS
    )
    space = resolve_space(teacher, SpaceFile("small", axes), DATA)
    assert space.teacher == teacher.digest
    for block, mine in zip(space.blocks, teacher.blocks, strict=True):
        assert block.candidates[0].spec.is_own and mine.digest in block.candidates[0].key
        assert block.input_shape == mine.input_shape and len(block.candidates) == 3
    scaled = msgspec.structs.replace(DATA, mean=(0.4, 0.4, 0.4))
    other = resolve_space(teacher, SpaceFile("small", axes), scaled)
    assert other.origin != space.origin and other.hash != space.hash and other.blocks == space.blocks
    with pytest.raises(QaedgeError, match=r"only in teacher\.blocks of the project file: "):
        resolve_space(teacher, SpaceFile("small", axes[:3]), DATA)
