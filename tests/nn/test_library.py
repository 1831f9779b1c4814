"""The library of distilled candidates: every row once, whatever happens in between."""

from __future__ import annotations

import queue
import resource
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch
from tiny_scenes import ROWS, space_of, write_project

from qaedge.errors import DiskFull, InvalidFile, MissingFile, QaedgeError, TeacherError
from qaedge.files import only_one
from qaedge.nn import library
from qaedge.nn.distill import Sample, score
from qaedge.nn.features import Features
from qaedge.nn.inherit import OwnBlock, start_block
from qaedge.nn.library import fill_library, load_candidate, missing_tasks, weights_path
from qaedge.nn.teacher import Teacher, load_teacher
from qaedge.progress import Step
from qaedge.project import Workspace
from qaedge.space import SearchSpace
from qaedge.tables import LossRow, LossTable


class Library(msgspec.Struct):
    workspace: Workspace
    teacher: Teacher
    space: SearchSpace
    steps: list[Step]

    @property
    def rows(self) -> list[LossRow]:
        return list(LossTable.store(self.workspace.loss_file(self.space.origin)).rows())


def fill(folder: Path) -> Library:
    workspace = Workspace.open(folder / "qaedge.toml")
    teacher, space = load_teacher(workspace), space_of(workspace)
    return Library(workspace, teacher, space, list(fill_library(workspace, teacher, space)))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("library")
    write_project(folder, steps=6)
    return fill(folder)


@pytest.fixture
def copy(filled: Library, tmp_path: Path) -> Library:
    """The same library in a folder that a test may spoil."""
    folder = tmp_path / "copy"
    shutil.copytree(filled.workspace.root, folder)
    return Library(Workspace.open(folder / "qaedge.toml"), filled.teacher, filled.space, [])


def keep_rows(library: Library, wanted: Any) -> list[LossRow]:
    """Write the loss table anew with some of its rows."""
    kept = [row for row in library.rows if wanted(row)]
    path = library.workspace.loss_file(library.space.origin)
    path.unlink()
    store = LossTable.store(path)
    for row in kept:
        store.append(row)
    return kept


def test_every_candidate_has_a_row_and_weights(filled):
    rows = filled.rows
    wanted = [(b.name, str(c.spec), str(c.scheme)) for b in filled.space.blocks for c in b.candidates]
    assert sorted((r.block, r.spec, r.scheme) for r in rows) == sorted(wanted) and len(rows) == ROWS
    assert [s.result for s in filled.steps if s.result is not None] == rows
    assert (filled.steps[-1].done, filled.steps[-1].total) == (ROWS, ROWS)
    assert not any(s.warning for s in filled.steps)
    for row in rows:
        own = row.spec.startswith("own")
        assert row.started_from == ("own" if own else "teacher")
        assert row.steps == (0 if own else 6) and row.settings["images"] > 0
        assert (row.weights == "") == own
        assert own or (filled.workspace.results / row.weights).is_file()
        assert row.seconds >= row.train_seconds >= 0
        # A candidate is trained once, and the row of its first scheme says how long that took.
        first = next(r for r in rows if (r.block, r.spec) == (row.block, row.spec))
        assert (row.train_seconds > 0) == (not own and row is first)
    assert missing_tasks(filled.workspace, filled.space) == []


def test_a_row_whose_files_are_gone_is_made_anew(copy):
    rounded = next(row for row in copy.rows if row.rounded)
    trained = next(row for row in copy.rows if row.weights and row.block != rounded.block)
    for name in (rounded.rounded, trained.weights):
        (copy.workspace.results / name).unlink()
    lacking = {
        (task.block, str(task.spec), tuple(map(str, task.schemes)))
        for task in missing_tasks(copy.workspace, copy.space)
    }
    assert lacking == {(row.block, row.spec, (row.scheme,)) for row in (rounded, trained)}
    before = len(copy.rows)
    list(fill_library(copy.workspace, copy.teacher, copy.space))
    assert len(copy.rows) == before + 2 and missing_tasks(copy.workspace, copy.space) == []
    again = LossTable(copy.rows).rows[rounded.block, rounded.spec, rounded.scheme]
    assert again.loss == pytest.approx(rounded.loss) and (copy.workspace.results / again.rounded).is_file()


def test_losses_are_those_of_the_kept_weights(filled):
    cache = next(filled.workspace.cache.iterdir())
    for block in filled.space.blocks:
        own = filled.teacher.block(block.name).module
        sample = Sample.of(Features(cache), block.name, own)
        start = OwnBlock(own, torch.from_numpy(sample.inputs[list(sample.train)].astype("f4")))
        for candidate in block.candidates:
            row = next(r for r in filled.rows if (r.block, r.spec) == (block.name, str(candidate.spec)))
            module = load_candidate(filled.workspace, filled.space, filled.teacher, block.name, candidate.spec)
            assert not module.training and row.float_loss == pytest.approx(score(module, sample), rel=1e-3, abs=1e-6)
            if not candidate.spec.is_own:
                assert row.float_loss <= score(start_block(candidate.spec, start, 0)[0], sample) * 1.05
    table = LossTable(filled.rows)
    for block in filled.space.blocks:
        own_row = table.row(block.name, block.candidates[0])
        assert own_row.float_loss < 1e-3 < own_row.loss + 1e-3 and own_row.loss >= own_row.float_loss
    by_scheme = {r.scheme: r.loss for r in filled.rows if r.block == "stage3" and r.spec.startswith("own")}
    assert by_scheme["w4a8"] > by_scheme["w7a8"]


def test_a_second_run_does_nothing(filled):
    before = filled.workspace.loss_file(filled.space.origin).read_bytes()
    assert list(fill_library(filled.workspace, filled.teacher, filled.space)) == []
    assert filled.workspace.loss_file(filled.space.origin).read_bytes() == before


def test_a_missing_row_is_filled_from_kept_weights(copy):
    """A process that was killed between weights and row trains nothing again; damage is said, not hidden."""
    then = {(r.block, r.spec, r.scheme): r for r in copy.rows}
    rows = keep_rows(copy, lambda r: r.spec.startswith("own") or r.block == "head")
    file = copy.workspace.root / "qaedge.toml"
    file.write_text(file.read_text().replace("steps = 6", "steps = 2").replace("batch = 4", "batch = 3"))
    copy.workspace = Workspace.open(file)
    paths = {
        str(c.spec): weights_path(copy.workspace, copy.space, "stage3", c.spec)
        for c in copy.space.block("stage3").candidates
        if not c.spec.is_own
    }
    damaged, kept = sorted(paths)
    before = paths[kept].read_bytes()
    paths[damaged].write_bytes(paths[damaged].read_bytes()[:100])
    steps: list[Step] = []
    with pytest.raises(TeacherError, match="1 candidate could not be distilled: stage3") as caught:
        for step in fill_library(copy.workspace, copy.teacher, copy.space):
            steps.append(step)
    assert damaged in caught.value.message and "The others are kept" in caught.value.hint
    (warning,) = [s.warning for s in steps if s.warning]
    assert paths[damaged].name in warning and "\n" not in warning

    after = copy.rows
    assert after[: len(rows)] == rows
    added = {(r.block, r.spec, r.scheme): r for r in after[len(rows) :]}
    for scheme in ("w7a8", "w4a8"):  # as they were trained, and not as they would be today
        row = added.pop(("stage3", kept, scheme))
        old = then["stage3", kept, scheme]
        assert row == msgspec.structs.replace(old, seconds=row.seconds, train_seconds=0.0)
        assert (row.started_from, row.steps, row.settings["batch"]) == ("teacher", 6, 4)
    assert [block for block, _, _ in added] == ["stage1"] and paths[kept].read_bytes() == before
    assert steps[-1].done == steps[-1].total

    with pytest.raises(InvalidFile, match="Delete it and run: qaedge distill"):
        load_candidate(copy.workspace, copy.space, copy.teacher, "stage3", _spec(copy, "stage3", damaged))


def test_a_candidate_that_is_dead_is_told_and_the_others_go_on(copy):
    rows = keep_rows(copy, lambda r: r.block == "head")
    spec = next(c.spec for c in copy.space.block("stage3").candidates if not c.spec.is_own)
    path = weights_path(copy.workspace, copy.space, "stage3", spec)
    weights = safetensors.torch.load_file(path)
    (name,) = (name for name in weights if "expand" in name and name.endswith("bias"))
    path.write_bytes(safetensors.torch.save({**weights, name: torch.full_like(weights[name], -1e4)}))
    steps: list[Step] = []
    with pytest.raises(TeacherError, match="1 candidate could not be distilled: stage3") as caught:
        for step in fill_library(copy.workspace, copy.teacher, copy.space):
            steps.append(step)
    assert str(spec) in caught.value.message
    (warning,) = [s.warning for s in steps if s.warning]
    assert warning.startswith(f"stage3 {spec}: The layer '0.expand") and "puts out 0 everywhere" in warning
    assert "take the candidate out of the space" in warning
    assert len(copy.rows) == ROWS - 2 and copy.rows[: len(rows)] == rows, "all but the two schemes of this one"


def test_weights_of_an_older_version_do_not_tell_their_settings(copy):
    spec = copy.space.block("stage1").candidates[-1].spec
    path = weights_path(copy.workspace, copy.space, "stage1", spec)
    assert (library.Origin.read(path).started_from, library.Origin.read(path).steps) == ("teacher", 6)
    weights = safetensors.torch.load_file(path)
    path.write_bytes(safetensors.torch.save(weights))
    keep_rows(copy, lambda r: (r.block, r.spec) != ("stage1", str(spec)))
    (row,) = [s.result for s in fill_library(copy.workspace, copy.teacher, copy.space) if s.result is not None]
    assert (row.started_from, row.steps, row.settings) == ("kept", 0, {"calibration_images": 4})
    path.write_bytes(safetensors.torch.save(weights, {library.ORIGIN: "{"}))
    with pytest.raises(InvalidFile, match="Delete it and run: qaedge distill"):
        library.Origin.read(path)


def test_seconds_of_a_row_are_its_own(copy, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(library.time, "perf_counter", lambda: float(next(clock)))
    bench = library._Bench(
        copy.workspace, copy.space, copy.teacher, Features(next(copy.workspace.cache.iterdir())), torch.device("cpu")
    )
    keep_rows(copy, lambda r: r.block != "stage3")
    task = next(t for t in missing_tasks(copy.workspace, copy.space) if not t.spec.is_own)
    assert [row.seconds for row in bench.finish(task)] == [1.0, 1.0]


def _spec(library: Library, block: str, text: str) -> Any:
    return next(c.spec for c in library.space.block(block).candidates if str(c.spec) == text)


def test_weights_of_another_shape_are_damaged(copy):
    spec = copy.space.block("head").candidates[-1].spec
    path = weights_path(copy.workspace, copy.space, "head", spec)
    safetensors.torch.save_file({"0.local.0.weight": torch.zeros(1)}, path)
    with pytest.raises(InvalidFile, match=r"the weights of .* found Missing key"):
        load_candidate(copy.workspace, copy.space, copy.teacher, "head", spec)
    path.unlink()
    with pytest.raises(MissingFile, match="was not distilled"):
        load_candidate(copy.workspace, copy.space, copy.teacher, "head", spec)


def test_a_full_disk_ends_it_and_keeps_what_is_done(copy):
    weights = copy.workspace.weights_folder(copy.space.origin)
    limit = min(p.stat().st_size for p in weights.rglob("*.safetensors")) - 1
    shutil.rmtree(weights)
    rows = keep_rows(copy, lambda r: r.spec.startswith("own"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # workers inherit it
    try:
        with pytest.raises(DiskFull, match=r"No space left while writing .*safetensors"):
            list(fill_library(copy.workspace, copy.teacher, copy.space))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert copy.rows[: len(rows)] == rows
    assert not [p for p in copy.workspace.weights_folder(copy.space.origin).rglob("*") if p.name.startswith(".")]


def test_a_damaged_cache_is_an_error_of_its_own(copy):
    keep_rows(copy, lambda r: r.block == "head")
    next(next(copy.workspace.cache.iterdir()).glob("*.f16")).write_bytes(b"short")
    with pytest.raises(InvalidFile, match=r"Delete .*cache"):
        list(fill_library(copy.workspace, copy.teacher, copy.space))


def test_a_space_is_distilled_by_one_at_a_time(copy):
    lock = copy.workspace.loss_file(copy.space.origin).with_name("distill.lock")
    with (
        only_one(lock, "distilling"),
        pytest.raises(QaedgeError, match=r"Another process \(process \d+\) is distilling"),
    ):
        list(fill_library(copy.workspace, copy.teacher, copy.space))
    assert list(fill_library(copy.workspace, copy.teacher, copy.space)) == []


class _Broken:
    """A bench on which nothing works."""

    def __init__(self, *_: object) -> None:
        pass

    def finish(self, task: library.Task) -> list[LossRow]:
        raise KeyError("a name that\nis not there")


def test_any_exception_of_a_candidate_is_told_with_its_type(copy, monkeypatch):
    keep_rows(copy, lambda r: r.block == "head")
    tasks = missing_tasks(copy.workspace, copy.space)[:2]
    monkeypatch.setattr(library, "_Bench", _Broken)
    monkeypatch.setattr(library, "end_with", lambda parent: None)
    waiting: Any = queue.Queue()
    results: Any = queue.Queue()
    for task in (*tasks, None):
        waiting.put(task)
    folder = next(copy.workspace.cache.iterdir())
    library._work(copy.workspace, copy.space, folder, waiting, results, 0)
    for task in tasks:
        found, rows, error = results.get_nowait()
        assert (found, rows) == (task, []) and isinstance(error, TeacherError)
        assert error.message.startswith(f"{task.spec} in {task.block}: KeyError: ")
