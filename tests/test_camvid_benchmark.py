"""The figures that the CamVid benchmark sums up, without running it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from qaedge.tables import LossRow

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "camvid" / "run.py"
ROW = LossRow("stage1", "ir", "w7a8", 0.1, 0.1, 6, 4.0, 3.0, "w", "teacher", {})


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("camvid_run", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("WORK", "HERE"):
        monkeypatch.setattr(module, name, tmp_path)
    return module


def test_a_candidate_counts_once_whatever_its_schemes(script):
    again = msgspec.structs.replace(ROW, scheme="w4a8", seconds=1.0, train_seconds=0.0)
    own = msgspec.structs.replace(ROW, spec="own", steps=0, seconds=9.0, train_seconds=0.0)
    found = script.distill_figures([ROW, again, own], ["stage1"])
    assert found == {"stage1": {"candidates": 1, "seconds_each": 4.0, "training": 0.75}, "training": 0.75}


def test_a_table_from_kept_weights_alone_divides_by_nothing(script):
    kept = msgspec.structs.replace(ROW, train_seconds=0.0)
    nothing = {"candidates": 0, "seconds_each": None, "training": None}
    for rows in ([], [kept]):
        assert script.distill_figures(rows, ["stage1", "head"]) == {
            "stage1": nothing,
            "head": nothing,
            "training": None,
        }


def test_seconds_are_those_of_all_calls(script, monkeypatch, tmp_path):
    clock = iter([0.0, 5.0, 10.0, 17.0])
    monkeypatch.setattr(script.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(script.sys, "argv", ["run.py"])

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        script.main()
    assert not (tmp_path / "result.json").exists()
    monkeypatch.setattr(script, "run", lambda *_: {"seconds": 0.0})
    script.main()
    assert msgspec.json.decode((tmp_path / "result.json").read_bytes()) == {"seconds": 12.0}
