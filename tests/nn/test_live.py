"""Numbers alive while a graph runs: held against counting by hand, and against what a candidate's text says."""

from __future__ import annotations

import json

import pytest
from tiny_scenes import space_of, write_project
from torch import Tensor, nn

from qaedge.candidate import BlockSpec, Candidate, QuantScheme
from qaedge.nn.blocks import build_block
from qaedge.nn.deeplab import Head
from qaedge.nn.live import most_alive, own_alive
from qaedge.nn.teacher import load_teacher
from qaedge.nn.tracing import trace
from qaedge.search.activations import own_key, peak_bytes

SHAPE = (8, 12, 16)
PIXELS = 12 * 16


class Fork(nn.Module):
    """Two branches of one input; the first waits while the second is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(8, 32, 1), nn.Conv2d(8, 2, 1)
        self.back = nn.Conv2d(2, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(x) + self.back(nn.functional.relu6(self.narrow(x)))


@pytest.mark.parametrize(
    ("module", "numbers"),
    [
        (nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU6()), (8 + 16) * PIXELS),
        # wide beside input; then beside input and narrow; then beside narrow and back; then the sum of two.
        (Fork(), max(8 + 32, 8 + 32 + 2, 32 + 2 + 32, 32 + 32 + 32) * PIXELS),
        # Pooled at full size beside the input and the local branch; four times the width where the two are joined.
        (Head(8, 16, 3), max(8 + 2 * 16, 4 * 16) * PIXELS),
        (Head(40, 4, 3), (40 + 2 * 4) * PIXELS),
    ],
)
def test_numbers_alive_are_those_counted_by_hand(module, numbers):
    shape = (40, *SHAPE[1:]) if isinstance(module, Head) and numbers == 48 * PIXELS else SHAPE
    assert most_alive(trace(module.eval(), shape)) == numbers


@pytest.mark.parametrize(
    "text",
    [
        "conv_k3_s2_c64",
        "ir_k3_s1_e6_c16",
        "ir_k5_s2_e3_c8_d2",
        "ir_k3_s1_e1_c8",
        "ir_k3_s1_e6_c8+ir_k3_s1_e2_c8",
        "context_k1_c32+logits_c3",
        "context_k3_c4+logits_c3",
        "poolcontext_k1_c32+logits_c3",
        "poolcontext_k3_c4+logits_c30",
        "logits_c3",
    ],
)
def test_a_candidates_text_says_what_its_graph_has(text):
    spec = BlockSpec.parse(text)
    graph = trace(build_block(spec, SHAPE[0]).eval(), SHAPE)
    assert peak_bytes(Candidate(spec, QuantScheme(8, 8), SHAPE)) == most_alive(graph)


def test_a_limit_counts_the_teachers_own_blocks(tmp_path, qaedge_run):
    workspace = write_project(tmp_path)
    assert qaedge_run("space", "--project", workspace.file, "--quiet") == 0
    found = json.loads(workspace.activations_json.read_bytes())
    assert found == own_alive(load_teacher(workspace))
    for block in space_of(workspace).blocks:
        own = block.candidates[0]
        assert (
            peak_bytes(own, found)
            == found[own_key(own)]
            >= max(len_of(shape) for shape in (block.input_shape, block.output_shape))
        )
        assert peak_bytes(own) is None


def len_of(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]


@pytest.fixture
def qaedge_run():
    from qaedge import cli

    return lambda *arguments: cli.run(list(map(str, arguments)))
