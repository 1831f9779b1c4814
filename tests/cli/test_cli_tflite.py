"""`bench` and `compare` of TFLite files, alone and beside ONNX ones, with random and with given inputs."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from tiny_files import write_convolutions

from qaedge.hil.bootstrap import profilers_folder

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (the extra tflite)")
SHAPE = (1, 16, 24, 24)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """An ONNX and a TFLite file with an input of the same name and shape; the current folder is theirs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(profilers_folder()))
    import tflite_files

    write_convolutions(tmp_path / "net.onnx", 1)
    (tmp_path / "net.tflite").write_bytes(tflite_files.identity([("input", "float32", SHAPE)]))
    yield tmp_path
    for name in ("tflite_files", "onnx_files"):
        sys.modules.pop(name, None)


def test_both_formats_in_one_run(files, qaedge):
    ran = qaedge("bench", "net.onnx", "net.tflite", "--json", "--quiet")
    assert ran.status == 0, ran.err
    ours, its = json.loads(ran.out)
    assert (ours["runtime"], its["runtime"]) == ("onnxruntime", "tflite")
    assert its["runtime_version"].startswith("ai-edge-litert ") and its["delegate"] == "XNNPACK, 1 of 1 operators"
    assert ours["delegate"] == "" and 0 < its["median_s"] < ours["median_s"]

    ran = qaedge("bench", "net.onnx", "net.tflite", "--quiet", "--runtime", "both")
    said = " ".join(ran.out.split())
    assert "local: each with its runtime, threads: 1" in said
    assert its["runtime_version"] in said and f"onnxruntime {ours['runtime_version']}" in said
    assert "delegate of net.tflite: XNNPACK, 1 of 1 operators" in said and "delegate of net.onnx" not in said


def test_without_xnnpack(files, qaedge):
    ran = qaedge("bench", "net.tflite", "--json", "--quiet", "--no-xnnpack")
    (row,) = json.loads(ran.out)
    assert ran.status == 0 and row["delegate"] == "none"


@pytest.mark.parametrize(
    ("runtime", "left", "says"), [("onnx", "net.tflite", "tflite"), ("tflite", "net.onnx", "onnx")]
)
def test_a_format_alone_leaves_the_other_out(runtime, left, says, files, qaedge):
    ran = qaedge("bench", "net.onnx", "net.tflite", "--json", "--runtime", runtime)
    assert ran.status == 1 and len(json.loads(ran.out)) == 1
    assert f"1 of 2 files were not measured: {left}." in ran.err
    assert f"net.{says} is a {says} file" in ran.err and f"Give --runtime {says}, or --runtime both" in ran.err


def test_a_file_of_another_format_alone_is_one_error(files, qaedge):
    ran = qaedge("bench", "net.tflite", "--runtime", "onnx", "--quiet")
    said = " ".join(ran.err.split())
    assert ran.status == 1 and ran.out == ""
    assert said.startswith("error: net.tflite is a tflite file. Those are measured by tflite, and here local")
    assert "Give --runtime tflite" in said and said.count("net.tflite") == 1


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_given_inputs_serve_both(kind, files, qaedge):
    value = np.ones(SHAPE, np.float32)
    if kind == "npz":
        np.savez("given.npz", input=value, more=np.zeros(1))
    else:
        np.save("given.npy", value)
    ran = qaedge("bench", "net.onnx", "net.tflite", "--json", "--inputs", f"given.{kind}")
    assert ran.status == 0 and len(json.loads(ran.out)) == 2, ran.err


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (
            np.ones(SHAPE),
            "The input 'input' takes float32 [1, 16, 24, 24]; given: float64 [1, 16, 24, 24]",
        ),
        (
            np.ones((1, 16, 24, 23), np.float32),
            "The input 'input' takes float32 [1, 16, 24, 24]; given: float32 [1, 16, 24, 23]",
        ),
    ],
    ids=["type", "shape"],
)
def test_inputs_that_do_not_fit_are_told_for_each_file(value, says, files, qaedge):
    np.savez("given.npz", input=value)
    ran = qaedge("bench", "net.onnx", "net.tflite", "--inputs", "given.npz")
    assert ran.status == 1 and " ".join(ran.err.split()).count(says) == 2
    assert "error: 2 of 2 files were not measured" in ran.err
    assert "times" not in ran.err and "damaged" not in ran.err, "it is not tried again, and the files are not to blame"
    assert ran.err.count("numpy.savez") == 1

    ran = qaedge("bench", "net.tflite", "--inputs", "given.npz", "--quiet")
    said = " ".join(ran.err.split())
    assert ran.status == 1 and said.startswith("error: net.tflite") and said.count(says) == 1
    assert "warning" not in said and "numpy.savez" in said


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: None, "No file given.npz"),
        (lambda path: path.write_text("no arrays"), "given.npz: expected arrays of numbers, as .npz or .npy"),
        (lambda path: path.write_bytes(b"PK\x03\x04cut"), "given.npz: expected arrays of numbers, as .npz or .npy"),
        (lambda path: np.savez(path, a=np.array(["x"])), "given.npz: a: expected numbers, found <U1"),
        (lambda path: np.savez(path, a=np.array([None])), "given.npz: expected arrays of numbers"),
        (lambda path: np.savez(path), "given.npz: expected at least one array, found none"),
    ],
    ids=["absent", "text", "cut", "words", "objects", "empty"],
)
def test_a_file_without_arrays_is_told_with_how_to_write_one(write, says, files, qaedge):
    write(files / "given.npz")
    ran = qaedge("bench", "net.tflite", "--inputs", "given.npz")
    said = " ".join(ran.err.split())
    assert ran.status == 1 and says in said and "numpy.savez" in said


def test_compare_holds_one_format_against_the_other(files, qaedge):
    ran = qaedge("compare", "net.onnx", "net.tflite", "--json", "--quiet")
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)["verdict"] == "faster"
