"""`space --gains`: what each step of quantization did, without distilling again."""

from __future__ import annotations

import json

import msgspec
import pytest

from qaedge.project import Workspace
from qaedge.tables import LossTable


def test_gains_are_shown_by_scheme(tables, qaedge):
    assert "no further step was taken" in qaedge("space", "--gains").out
    store = LossTable.store(Workspace.open().loss_file(tables.origin))
    for row in list(store.rows()):
        told = {"nearest": 0.4, "ranges": 0.2, "rounding": 0.05}
        store.append(msgspec.structs.replace(row, recipe="nearest+ranges+rounding", gains=told))
    ran = qaedge("space", "--gains")
    assert ran.status == 0, ran.err
    lines = [line.split() for line in ran.out.splitlines()]
    assert ["w7a8", "rounding:", "learned,", "layer", "by", "layer", "6", "0.0500", "75.0", "%", "6"] in lines
    steps = json.loads(qaedge("space", "--json").out)["steps"]
    assert [(one["step"], one["gain"]) for one in steps] == [
        ("nearest", None),
        ("ranges", pytest.approx(0.5)),
        ("rounding", pytest.approx(0.75)),
    ]


def test_gains_that_nobody_knows_name_the_command(tables, qaedge):
    Workspace.open().loss_file(tables.origin).unlink()
    ran = qaedge("space", "--gains")
    assert ran.status == 1 and "Run: qaedge distill" in ran.err
