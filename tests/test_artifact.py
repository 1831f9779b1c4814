import hashlib

import pytest

from qaedge.artifact import Artifact
from qaedge.errors import MissingFile


def test_a_file_is_described_by_its_content(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"content")
    artifact = Artifact.of(path, weight_bytes=3, form="u8u8")
    assert artifact.name == "net"
    assert artifact.format == "onnx"
    assert artifact.size_bytes == 7
    assert artifact.sha256 == hashlib.sha256(b"content").hexdigest()
    assert (artifact.weight_bytes, artifact.form, artifact.path) == (3, "u8u8", str(path))
    assert Artifact.of(path, name="teacher").name == "teacher"


def test_the_format_is_the_suffix(tmp_path):
    for suffix, wanted in ((".tflite", "tflite"), (".onnx", "onnx"), (".bin", "bin")):
        (tmp_path / f"a{suffix}").write_bytes(b"")
        assert Artifact.of(tmp_path / f"a{suffix}").format == wanted


def test_an_absent_file_is_missing(tmp_path):
    with pytest.raises(MissingFile, match="No file"):
        Artifact.of(tmp_path / "none.onnx")
