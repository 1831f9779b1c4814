"""Inputs that are given to files: arrays by name, from a file of numpy's, and how they travel to a device."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from qaedge.errors import InvalidFile
from qaedge.files import read_bytes

#: Arrays by the name of the input; an empty name means a file's only one.
Inputs: TypeAlias = Mapping[str, np.ndarray[Any, Any]]
_HINT = "Write it with numpy: numpy.savez(PATH, **{'NAME OF THE INPUT': array}), or numpy.save(PATH, array) for one."


def read_inputs(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read an .npz, an array for each name, or an .npy, one array for a file's only input.

    Raises MissingFile, or InvalidFile where it is neither, or holds what no network takes.
    """
    data = read_bytes(path, _HINT)
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        found = {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        # numpy advises to load what it does not know as code; that is no advice to pass on.
        said = "none that numpy knows" if "pickle" in str(error) else str(error)[:200]
        raise InvalidFile(path, "", "arrays of numbers, as .npz or .npy", said, _HINT) from error
    if not found:
        raise InvalidFile(path, "", "at least one array", "none", _HINT)
    for name, value in found.items():
        if value.dtype.kind not in "fiub":
            raise InvalidFile(path, name, "numbers", str(value.dtype), _HINT)
    return found


def described(inputs: Inputs) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Return what a message says of inputs, and their contents by hash."""
    items, contents = [], {}
    for name, value in inputs.items():
        data = np.ascontiguousarray(value).tobytes()
        sha256 = hashlib.sha256(data).hexdigest()
        contents[sha256] = data
        items.append({"name": name, "sha256": sha256, "dtype": str(value.dtype), "shape": list(value.shape)})
    return items, contents
