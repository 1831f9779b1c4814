"""An artifact: an exported file, its hash and its size."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from qaedge.errors import InvalidFile
from qaedge.files import read_bytes

FORMATS = {".onnx": "onnx", ".tflite": "tflite"}

#: How what Git LFS leaves in the place of a file begins.
POINTER = b"version https://git-lfs.github.com/spec/"


def check_content(path: Path | str, data: bytes, hint: str = "Get the file itself: git lfs pull") -> None:
    """Raise InvalidFile for what Git LFS leaves in the place of a file."""
    if data.startswith(POINTER):
        raise InvalidFile(path, "", "a network", "a pointer of Git LFS to one", hint)


class Artifact(msgspec.Struct, frozen=True):
    """What a file is: `name` says it to people, `sha256` to machines.

    `weight_bytes` counts weights, biases and scales as they lie in the file; it is 0 for a file
    that qaedge did not write. `form` tells how a quantized file stores its numbers (`u8s8`, ...).
    """

    name: str
    path: str
    format: str
    sha256: str
    size_bytes: int
    weight_bytes: int = 0
    form: str = ""

    @staticmethod
    def of(path: Path, name: str = "", weight_bytes: int = 0, form: str = "") -> Artifact:
        """Read a file and describe it; raise MissingFile where there is none, InvalidFile for a pointer to it."""
        data = read_bytes(path)
        check_content(path, data)
        return Artifact.written(path, data, name, weight_bytes, form)

    @staticmethod
    def written(path: Path, data: bytes, name: str = "", weight_bytes: int = 0, form: str = "") -> Artifact:
        """Describe a file that holds these bytes; its name is the file's where none is given."""
        return Artifact(
            name=name or path.stem,
            path=str(path),
            format=FORMATS.get(path.suffix, path.suffix.lstrip(".")),
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            weight_bytes=weight_bytes,
            form=form,
        )
