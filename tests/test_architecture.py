import json

import pytest
from synthetic import make_space, make_tables

from qaedge.architecture import Architecture
from qaedge.errors import InvalidFile, MissingFile
from qaedge.search.space_problem import Constraint, build_problem


@pytest.fixture
def saved(tmp_path):
    space = make_space()
    losses, table = make_tables(space)
    found = build_problem(space, losses, {"local": table}, [Constraint("latency@local", 0.03)])
    architecture = found.architecture(found.solve())
    path = tmp_path / "architecture.json"
    architecture.save(path)
    return space, architecture, path


def change(path, **values):
    data = json.loads(path.read_text())
    data.update(values)
    path.write_text(json.dumps(data))


def test_an_architecture_survives_its_file(saved):
    space, architecture, path = saved
    again = Architecture.load(path, space)
    assert again == architecture
    data = json.loads(path.read_text())
    assert (data["format"], data["version"]) == ("qaedge-architecture", 2)
    assert data["space_hash"] == space.hash
    assert data["limits"] == {"latency@local": 0.03}
    assert set(data["costs"]["latency@local"]) == {"value", "error"}
    for choice, candidate, block in zip(again.choices, again.candidates(space), space.blocks, strict=True):
        assert (choice.block, choice.spec, choice.scheme) == (block.name, str(candidate.spec), str(candidate.scheme))
        assert block.candidates[choice.index] == candidate


def test_an_older_file_still_loads(saved):
    space, architecture, path = saved
    data = json.loads(path.read_text())
    del data["file_format"]
    path.write_text(json.dumps({**data, "version": 1}))
    assert Architecture.load(path, space) == architecture and architecture.file_format == "onnx"


def test_a_format_that_is_none_is_refused(saved):
    space, _, path = saved
    change(path, file_format="tflit")
    with pytest.raises(InvalidFile, match=r"file_format: expected onnx or tflite, found 'tflit'"):
        Architecture.load(path, space)


def test_another_spaces_architecture_is_refused_with_both_hashes(saved):
    space, architecture, path = saved
    other = make_space(candidates=9)
    with pytest.raises(InvalidFile) as caught:
        Architecture.load(path, other)
    assert caught.value.key == "space_hash"
    assert other.hash in caught.value.expected
    assert space.hash in caught.value.found
    assert "Run: qaedge search" in caught.value.hint
    assert architecture.space_hash == space.hash


def test_another_teachers_architecture_is_refused(saved):
    space, _, path = saved
    change(path, teacher="0" * 64)
    with pytest.raises(InvalidFile, match="teacher: expected abab"):
        Architecture.load(path, space)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        (
            "spec",
            "ir_k9_s1_e1_c8",
            r"choices\[0\]\.spec: expected a candidate of stage0, found ir_k9_s1_e1_c8 \(w8a8\)",
        ),
        ("scheme", "w4a8", r"choices\[0\]\.spec: expected a candidate of stage0, found .* \(w4a8\)"),
        ("block", "stage2", r"choices\[0\]\.block: expected 'stage0', found 'stage2'"),
        ("index", 99, r"choices\[0\]\.index: expected [0-3], where .* stands, found 99"),
        ("index", "1", r"choices\[0\]\.index: expected a whole number, found text"),
        ("indx", 1, r"choices\[0\]\.indx: expected a known key \(block, spec, scheme, index\), found 'indx'"),
    ],
)
def test_a_choice_that_the_space_does_not_have_is_refused(saved, key, value, match):
    space, _, path = saved
    choices = json.loads(path.read_text())["choices"]
    choices[0][key] = value
    change(path, choices=choices)
    with pytest.raises(InvalidFile, match=match):
        Architecture.load(path, space)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"format": "qaedge-loss"}, "format: expected qaedge-architecture, found 'qaedge-loss'"),
        ({"version": 3}, "version: expected 2 or older, found 3.\nUpgrade qaedge"),
        ({"version": 3, "new_field": 1}, "version: expected 2 or older, found 3"),
        ({"choices": []}, "choices: expected 3 blocks, found 0"),
        ({"loss": -1.0}, r"loss: expected a number from 0, found -1\.0"),
        ({"loss": None}, "loss: expected a number, found nothing"),
        ({"costs": {"size": {"value": -5.0, "error": 0.0}}}, r"costs\.size\.value: expected a number from 0"),
        ({"costs": {"size": {"value": 5.0, "error": -1.0}}}, r"costs\.size\.error: expected a number from 0"),
        ({"limits": {"size": -1.0}}, r"limits\.size: expected a number from 0"),
        ({"speed": 1}, "speed: expected a known key"),
    ],
)
def test_a_wrong_file_is_told(saved, values, match):
    space, _, path = saved
    change(path, **values)
    with pytest.raises(InvalidFile, match=match):
        Architecture.load(path, space)


def test_an_absent_or_torn_file_is_told(saved):
    space, _, path = saved
    with pytest.raises(MissingFile, match="Make one with: qaedge search"):
        Architecture.load(path.with_name("none.json"), space)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InvalidFile, match=r"architecture\.json: expected a valid file"):
        Architecture.load(path, space)
