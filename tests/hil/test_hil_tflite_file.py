"""What is wrong with a TFLite file, without a runtime: cut off, damaged, something else, or in two parts."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from qaedge.hil.bootstrap import profilers_folder
from qaedge.hil.tflite_file import refusal


@pytest.fixture
def whole(monkeypatch):
    monkeypatch.syspath_prepend(str(profilers_folder()))
    import tflite_files

    yield tflite_files.identity([("a", "int8", (1, 2, 3)), ("b", "float32", ())])
    for name in ("tflite_files", "onnx_files"):
        sys.modules.pop(name, None)


def test_whole_files_are_not_refused(whole):
    import tflite_files

    assert refusal(whole) == refusal(tflite_files.reference()) == ""


@pytest.mark.data
def test_third_parties_files_are_not_refused(qaedge_data):
    paths = sorted((qaedge_data / "models").glob("*.tflite"))
    if not paths:
        pytest.skip("QAEDGE_DATA holds no models/")
    assert {path.name: refusal(path.read_bytes()) for path in paths} == {path.name: "" for path in paths}


def test_every_cut_is_seen(whole):
    for length in range(len(whole)):
        assert refusal(whole[:length]), length


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no TFLite file: it is empty"),
        (b"TFL3", "no TFLite file: it begins with b'TFL3'"),
        (b"To whom it may concern", "begins with b'To whom it m', and one has 'TFL3' from its fifth byte on"),
        (b"\x10\0\0\0TFL3", "cut off or damaged"),
        (b"\xff\xff\xff\xffTFL3" + bytes(100), "cut off or damaged"),
        (b"\x08\0\0\0TFL3" + bytes(100), "cut off or damaged"),
    ],
)
def test_what_is_none_is_told(data, says):
    assert says in refusal(data)


def test_any_damage_is_taken_or_told_and_never_raises(whole):
    dice = random.Random(0)
    told = 0
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(8, len(whole))] = dice.choice([0, 1, 127, 128, 255, dice.randrange(256)])
        told += bool(refusal(bytes(damaged)))
    assert told > 300


def test_numbers_that_lead_outside_are_told(whole):
    import tflite_files

    def refused(change):
        graph = tflite_files._Graph()
        source, sink = (graph.tensor(name, 0, (1,)) for name in "xy")
        graph.operator(98, [source], sink, 75, {})
        graph.inputs, graph.outputs = [source], [sink]
        change(graph)
        return refusal(graph.file("test"))

    assert refused(lambda graph: None) == ""
    assert "an input is number 7 of 2" in refused(lambda graph: graph.inputs.append(7))
    assert "an output is number -2 of 2" in refused(lambda graph: graph.outputs.append(-2))
    assert "a tensor's buffer is number 9 of 1" in refused(lambda graph: graph._tensors[0].update({2: ("uint32", 9)}))
    assert "an operator's kind is number 3 of 1" in refused(
        lambda graph: graph._operators[0].update({0: ("uint32", 3)})
    )
    assert "an operator's input is number 5 of 2" in refused(
        lambda graph: graph._operators[0].update({1: ("int32s", [5])})
    )


def test_tensors_in_another_file_are_refused(whole):
    import tflite_files

    model = {
        1: ("tables", []),
        2: ("tables", [{}]),
        4: ("tables", [{}]),
        8: ("tables", [{0: ("text", "/etc/passwd")}]),
        9: ("tables", [{}]),
    }
    out = bytearray(b"\0\0\0\0TFL3")
    out[:4] = tflite_files._table(out, model).to_bytes(4, "little")
    assert refusal(bytes(out)) == "tensors lie in another file, and only the file itself goes to a device"


def test_a_buffer_behind_the_tables_lies_within_the_file(whole):
    import tflite_files

    tflite_files._SCALARS["uint64"] = "<Q"
    try:
        for offset, says in ((16, ""), (1 << 40, "a buffer of 8 bytes would end at")):
            model = {2: ("tables", [{}]), 4: ("tables", [{1: ("uint64", offset), 2: ("uint64", 8)}])}
            out = bytearray(b"\0\0\0\0TFL3")
            out[:4] = tflite_files._table(out, model).to_bytes(4, "little")
            assert says in refusal(bytes(out)) and bool(says) == bool(refusal(bytes(out)))
    finally:
        del tflite_files._SCALARS["uint64"]


def test_the_page_of_slots_is_the_runtimes_own():
    """The numbers of the schema, as the package has them."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    text = Path(schema.__file__).read_text()
    for table, slot, name in (
        ("Model", 4, "Buffers"),
        ("Model", 9, "ExternalBuffers"),
        ("Tensor", 2, "Buffer"),
        ("Operator", 4, "BuiltinOptions"),
        ("SubGraph", 3, "Operators"),
    ):
        body = text[text.index(f"class {table}(object)") :]
        start = body.index(f"    def {name}(self")
        assert f"Offset({4 + 2 * slot})" in body[start : start + 400], (table, name)
