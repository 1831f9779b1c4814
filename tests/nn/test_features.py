"""The cache of the teacher's features: bounded, kept, and whole or not there."""

from __future__ import annotations

import collections
import resource
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tiny_scenes import write_project

from qaedge.errors import CannotWrite, DiskFull, InvalidFile, MissingFile, QaedgeError, TeacherError
from qaedge.files import only_one
from qaedge.nn.data import Split, open_split
from qaedge.nn.features import LOCK, Features, compute_features, drop_others, features_folder, to_tensor
from qaedge.nn.teacher import Teacher, load_teacher, record
from qaedge.project import Workspace

NAMES = ("one", "two")
BOUND = 1 << 20


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return write_project(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def teacher(workspace: Workspace) -> Teacher:
    return load_teacher(workspace)


@pytest.fixture(scope="module")
def split(workspace: Workspace) -> Split:
    return open_split(workspace.project.data, None, "train")


def per_image(teacher: Teacher) -> int:
    """Bytes of one image's features where no block's input is its neighbor's output."""
    return 2 * sum(int(np.prod(b.input_shape) + np.prod(b.output_shape)) for b in teacher.blocks)


def test_features_are_what_the_teacher_computes(tmp_path, teacher, split):
    steps = list(compute_features(tmp_path, teacher, split, BOUND))
    assert steps[-1].done == steps[-1].total == 12 and not any(s.warning for s in steps)
    features = Features(tmp_path)
    assert len(features) == 12
    images = split.preprocess(np.stack([split.image(i) for i in range(12)]))
    for name, (given, out) in record(teacher, images, [b.name for b in teacher.blocks]).items():
        torch.testing.assert_close(to_tensor(features.inputs(name)), given, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(to_tensor(features.outputs(name)), out, rtol=2e-3, atol=2e-3)
        assert features.inputs(name).dtype == np.float16 and not features.inputs(name).flags.writeable


def test_what_neighbors_share_is_kept_once(tmp_path, workspace, split):
    blocks = {"one": "features[0:2]", "two": "features[2:3]", "four": "features[4:5]"}
    changed = msgspec.structs.replace(workspace.project.teacher, blocks=blocks)
    cut = load_teacher(Workspace(workspace.root, msgspec.structs.replace(workspace.project, teacher=changed)))
    list(compute_features(tmp_path, cut, split, BOUND))
    features = Features(tmp_path)
    assert features.index.outputs["one"] == features.index.inputs["two"]
    assert features.index.outputs["two"] != features.index.inputs["four"]
    assert len(list(tmp_path.glob("*.f16"))) == 5
    assert np.array_equal(features.outputs("one"), features.inputs("two"))


def test_a_small_bound_keeps_fewer_images_and_says_so(tmp_path, teacher, split):
    bound = 6 * per_image(teacher)
    steps = list(compute_features(tmp_path, teacher, split, bound))
    warnings = [step.warning for step in steps if step.warning]
    assert warnings == ["distill.cache holds the features of 6 of 12 images; those are used."]
    features = Features(tmp_path)
    assert len(features) == 6 and (features.index.images[0], features.index.images[-1]) == (0, 11)
    assert sum(p.stat().st_size for p in tmp_path.glob("*.f16")) <= bound


def test_a_finished_cache_is_not_computed_again(tmp_path, teacher, split):
    list(compute_features(tmp_path, teacher, split, BOUND))
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}

    def broken(_: object) -> None:
        raise AssertionError("the teacher ran again")

    handle = teacher.module.register_forward_pre_hook(lambda *_: broken(_))
    try:
        assert list(compute_features(tmp_path, teacher, split, BOUND)) == []
    finally:
        handle.remove()
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_an_interrupted_cache_is_computed_again(tmp_path, teacher, split):
    steps = compute_features(tmp_path, teacher, split, BOUND)
    next(steps)
    steps.close()
    with pytest.raises(MissingFile):
        Features(tmp_path)
    assert len(list(compute_features(tmp_path, teacher, split, BOUND))) == 3
    assert len(Features(tmp_path)) == 12


def test_another_teacher_or_other_data_is_another_folder(tmp_path, workspace, teacher):
    data = workspace.project.data
    here = features_folder(tmp_path, teacher, data, NAMES, BOUND)
    assert here == features_folder(tmp_path, load_teacher(workspace), data, NAMES, BOUND)
    others = (
        features_folder(tmp_path, msgspec.structs.replace(teacher, digest="other"), data, NAMES, BOUND),
        features_folder(tmp_path, teacher, msgspec.structs.replace(data, count=13), NAMES, BOUND),
        features_folder(tmp_path, teacher, data, NAMES, BOUND * 2),
        features_folder(tmp_path, teacher, data, (*NAMES, "more"), BOUND),
    )
    assert len({here, *others}) == 5 and {p.parent for p in others} == {tmp_path}


def test_a_damaged_cache_is_said(tmp_path, teacher, split):
    list(compute_features(tmp_path, teacher, split, BOUND))
    part = next(tmp_path.glob("*.f16"))
    part.write_bytes(part.read_bytes()[:-2])
    with pytest.raises(InvalidFile, match=part.name) as caught:
        Features(tmp_path)
    assert str(tmp_path) in caught.value.hint
    part.unlink()
    with pytest.raises(InvalidFile, match="found 0"):
        Features(tmp_path)


# A full disk


def test_no_space_is_said_before_anything_is_written(tmp_path, teacher, split, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 100, 100))
    with pytest.raises(DiskFull, match="100 are free") as caught:
        list(compute_features(tmp_path / "new", teacher, split, BOUND))
    assert "distill.cache" in caught.value.hint and not list((tmp_path / "new").iterdir())


def test_a_limit_on_files_is_a_full_disk(tmp_path, teacher, split):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DiskFull, match="No space left"):
            list(compute_features(tmp_path, teacher, split, BOUND))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "index.json").exists()
    list(compute_features(tmp_path, teacher, split, BOUND))
    assert len(Features(tmp_path)) == 12


def test_a_place_that_takes_nothing_is_said(tmp_path: Path, teacher, split):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(CannotWrite, match="cache"):
        list(compute_features(tmp_path / "cache" / "features", teacher, split, BOUND))


# A teacher whose numbers half precision does not hold


def test_numbers_beyond_half_precision_are_refused(tmp_path, workspace, split):
    loud = load_teacher(workspace)
    with torch.no_grad():
        loud.module.features[1].conv[-1].weight.fill_(1e9)
    with pytest.raises(TeacherError, match="'stage1' is not finite"):
        list(compute_features(tmp_path, loud, split, BOUND))
    with pytest.raises(MissingFile):
        Features(tmp_path)


# What the bound holds


def test_a_bound_that_holds_no_batch_is_refused(tmp_path, teacher, split):
    needed = 4 * per_image(teacher)
    with pytest.raises(
        QaedgeError, match=rf"distill\.cache is 1000 bytes, .* of 4 images, .* need {needed}\."
    ) as caught:
        list(compute_features(tmp_path / "new", teacher, split, 1000))
    assert 'cache = "1MiB"' in caught.value.hint and not (tmp_path / "new").exists()


def test_a_new_cache_takes_the_place_of_older_ones(tmp_path):
    names = ("0" * 12, "1" * 12, "2" * 12, "mine")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "in0.f16").write_bytes(b"x")
    with only_one(tmp_path / names[1] / LOCK, "using features"):
        drop_others(tmp_path / names[2])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
    (tmp_path / names[2] / "index.json").write_text("{}")
    drop_others(tmp_path / names[2])
    assert (tmp_path / names[1]).is_dir()
