"""Contents: what of a file goes to a device, and which files a runtime there must not get."""

from __future__ import annotations

import hashlib
from pathlib import Path

from qaedge.artifact import Artifact
from qaedge.errors import CandidateFailed, InvalidFile
from qaedge.files import read_bytes
from qaedge.hil import frames
from qaedge.hil.onnx_file import external_tensor
from qaedge.hil.tflite_file import refusal


def contents_of(artifact: Artifact) -> bytes:
    """Return a file that a runtime may get; raise MissingFile, InvalidFile or CandidateFailed."""
    path = Path(artifact.path)
    data = read_bytes(path)
    found = hashlib.sha256(data).hexdigest()
    if found != artifact.sha256:
        raise InvalidFile(
            path, "", f"the content {artifact.sha256[:12]}", found[:12], "It was changed; export it again."
        )
    if artifact.format == "tflite":
        why = refusal(data)
        if why:
            raise CandidateFailed(f"{artifact.name}: {why}.", "Is it whole? Copy it, or export it, again.")
        return data
    name = external_tensor(data)
    if name is not None:
        raise CandidateFailed(
            f"{artifact.name}: the tensor {frames.clean(name)[:80]!r} lies in another file.",
            "Only the file itself goes to a device. Save it as one: "
            "onnx.save(onnx.load(path), path, save_as_external_data=False).",
        )
    return data
