from __future__ import annotations

import pytest

from qaedge.errors import InvalidFile, MissingFile
from qaedge.regression.suite import read_suite


@pytest.fixture
def write(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"x")
    (tmp_path / "net.tflite").write_bytes(b"x")

    def write(text):
        file = tmp_path / "benchmarks.toml"
        file.write_text(text)
        return file

    return write


def test_a_suite_is_read(write):
    suite = read_suite(
        write(
            """
devices = ["pi4", "local"]
runtimes = ["onnxruntime", "tflite"]
wait = "10min"
limits = ["latency_p90 < 30ms", "slower_than_baseline < 3%"]
[[model]]
file = "net.onnx"
limits = ["latency_p90 < 20ms"]
[[model]]
name = "light"
file = "net.tflite"
devices = ["local"]
"""
        )
    )
    first, second = suite.models
    assert [limit.text for limit in first.limits] == ["slower_than_baseline < 3%", "latency_p90 < 20ms"]
    assert (first.runtimes, second.runtimes) == (("onnxruntime",), ("tflite",)), "each runs what it can"
    assert suite.places == (("pi4", "onnxruntime"), ("local", "onnxruntime"), ("local", "tflite"))
    assert suite.models_at("local", "tflite") == (second,) and suite.wait_s == 600 and first.threshold == 0.03


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("", InvalidFile, r"benchmarks.toml: model: expected at least one \[\[model\]\], found none"),
        ('[[model]]\nfile = "net.onnx"\nlimits = ["latency_p90 < 30"]', InvalidFile, r"model\[0\].limits\[0\]"),
        (
            'limits = ["size < 3"]\n[[model]]\nfile = "net.onnx"',
            InvalidFile,
            r"limits\[0\]: expected a limit with a unit",
        ),
        ('[[model]]\nfile = "gone.onnx"', MissingFile, "The model 'gone' of .* has disappeared"),
        (
            '[[model]]\nfile = "net.onnx"\nbaseline = "gone.onnx"',
            MissingFile,
            "baseline of the model 'net' .* disappeared",
        ),
        ('[[model]]\nfile = "net.onnx"\n[[model]]\nfile = "net.tflite"', InvalidFile, r"model\[1\].name"),
        ('[[model]]\nfile = "benchmarks.toml"', InvalidFile, "an .onnx or .tflite file"),
        ('[[model]]\nfile = "net.onnx"\nruntimes = ["tflite"]', InvalidFile, "one that runs net.onnx"),
        ('runtimes = ["torch"]\n[[model]]\nfile = "net.onnx"', InvalidFile, "'torch'"),
        ('devices = []\n[[model]]\nfile = "net.onnx"', InvalidFile, "at least one device"),
        ('wait = "ten"\n[[model]]\nfile = "net.onnx"', InvalidFile, "a time with a unit"),
        ('limits = ["miou > 0.6"]\n[[model]]\nfile = "net.onnx"', InvalidFile, "project"),
        ('[[model]]\nfile = "net.onnx"\nlimit = ["size < 3B"]', InvalidFile, "Did you mean|known key"),
        ('threads = 0\n[[model]]\nfile = "net.onnx"', InvalidFile, "threads"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_measured(text, kind, said, write):
    with pytest.raises(kind, match=said):
        read_suite(write(text))
