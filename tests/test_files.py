import fcntl
import os
import stat
from pathlib import Path

import msgspec
import pytest

from qaedge.errors import CannotWrite, DiskFull, InvalidFile, MissingFile
from qaedge.files import decode_json, decode_toml, disk_errors, read_bytes, write_atomic, write_json


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: int
    text: str = ""


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    items: tuple[Inner, ...] = ()
    pair: tuple[float, float] = (0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "key", "expected", "found"),
    [
        ('name = "a"\nnmae = "b"', "nmae", "a known key (name, items, pair)", "'nmae'"),
        ('name = "a"\n[[items]]\nsize = 1\nsise = 2', "items[0].sise", "a known key (size, text)", "'sise'"),
        ("pair = [1.0, 2.0]", "name", "a value", "nothing"),
        ('name = "a"\n[[items]]\n[[items]]\nsize = 1', "items[0].size", "a value", "nothing"),
        ("name = 3", "name", "text", "a whole number"),
        ('name = "a"\n[[items]]\nsize = 1.5', "items[0].size", "a whole number", "a number"),
        ('name = "a"\nitems = 3', "items", "a list", "a whole number"),
        ('name = "a"\npair = [1.0]', "pair", "a list of length 2", "1"),
    ],
)
def test_a_wrong_value_names_file_key_expected_and_found(tmp_path, text, key, expected, found):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(InvalidFile) as caught:
        decode_toml(path, Outer)
    assert caught.value.message == f"{path}: {key}: expected {expected}, found {found}."


@pytest.mark.parametrize(
    ("text", "key", "expected", "found"),
    [
        ('{"name": "a", "pair": [1, NaN]}', "pair[1]", "a number", "nan"),
        ('{"name": "a", "pair": [-Infinity, 1]}', "pair[0]", "a number", "-inf"),
        ('{"name": "a", "pair": [1, 1e999]}', "pair[1]", "a number", "inf"),
        ('{"name": "a", "items": [{"size": 1e300}]}', "items[0].size", "a whole number", "1e+300"),
        ('{"name": "a", "items": [{"size": 1, "sise": 1}]}', "items[0].sise", "a known key (size, text)", "'sise'"),
        ('{"name": 1}', "name", "text", "a whole number"),
    ],
)
def test_a_number_in_json_that_is_none_is_told(tmp_path, text, key, expected, found):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InvalidFile) as caught:
        decode_json(path, Outer)
    assert (caught.value.key, caught.value.expected, caught.value.found) == (key, expected, found)
    path.write_text("[" * 100_000)
    with pytest.raises(InvalidFile):
        decode_json(path, Outer)


def test_an_unknown_key_is_told_what_was_meant(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('name = "a"\nnmae = "b"')
    with pytest.raises(InvalidFile, match=r"\nDid you mean 'name'\?"):
        decode_toml(path, Outer)
    path.write_text('name = "a"\nzzz = 1')
    with pytest.raises(InvalidFile, match=r"\nCorrect its name, or take it out"):
        decode_toml(path, Outer)


@pytest.mark.parametrize("text", ['name = "a', "name", "= 3", '[a\nname="b"', 'name = "a"\nname = "b"'])
def test_broken_toml_names_the_file(tmp_path, text):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(InvalidFile, match=r"a\.toml: expected a valid file, found a mistake: "):
        decode_toml(path, Outer)


@pytest.mark.parametrize("text", ["", "{", '{"name": "a"', "[1]", '{"name": null}', '{"name": "a"} x'])
def test_broken_json_names_the_file(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InvalidFile, match=r"a\.json: "):
        decode_json(path, Outer)


@pytest.mark.parametrize("decode", [decode_toml, decode_json])
def test_what_is_not_utf8_names_the_file(tmp_path, decode):
    path = tmp_path / "a"
    path.write_bytes(b'{"name": "\xff\xfe"}' if decode is decode_json else b'name = "\xff\xfe"')
    with pytest.raises(InvalidFile, match="expected"):
        decode(path, Outer)


def test_an_absent_file_is_missing_with_its_hint(tmp_path):
    with pytest.raises(MissingFile, match=r"No file .*nowhere\.toml\.\nWrite one"):
        decode_toml(tmp_path / "nowhere.toml", Outer, hint="Write one")
    with pytest.raises(MissingFile, match="Cannot read"):
        read_bytes(tmp_path)


def test_json_comes_back_and_is_readable(tmp_path):
    path = tmp_path / "deep" / "er" / "a.json"
    value = Outer("a", (Inner(3, "x"),), (1.0, 2.5))
    write_json(path, value)
    assert decode_json(path, Outer) == value
    assert path.read_text().endswith("}\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomic(path, b"old")

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_is_told_with_the_path(tmp_path):
    with (
        pytest.raises(DiskFull, match=r"No space left while writing .*result\.json"),
        disk_errors(tmp_path / "result.json"),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")


def test_a_place_that_is_no_folder_is_told(tmp_path):
    (tmp_path / "results").write_text("a file where a folder should be")
    with pytest.raises(CannotWrite, match=r"Cannot write .*results/a\.json: .*\n.*name another"):
        write_json(tmp_path / "results" / "a.json", {})


def test_what_a_killed_process_left_is_removed(tmp_path):
    path = tmp_path / "table.json"
    left, another = tmp_path / ".table.json.abcd1234.part", tmp_path / ".table.json.swp"
    for file in (left, another):
        file.write_text("half")
    (tmp_path / ".table.json.efgh5678.part").mkdir()
    with (tmp_path / ".table.json.held_000.part").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # somebody still writes it
        write_atomic(path, b"{}")
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            ".table.json.held_000.part",
            ".table.json.swp",
            "table.json",
        ]
    write_atomic(path, b"[]")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".table.json.swp", "table.json"]
    assert path.read_bytes() == b"[]"
