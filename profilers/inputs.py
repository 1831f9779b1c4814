"""Inputs that the host gives: files that were put here, raw numbers in C order."""

import os
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from uploads import Refused, Uploads


class Input(NamedTuple):
    """One of them: the input's name (empty: the only one), its file, numpy's word for its type, its shape."""

    name: str
    path: str
    dtype: str
    shape: Tuple[int, ...]


def described(items: Optional[Sequence[Dict[str, Any]]], uploads: Uploads) -> Optional[List[Input]]:
    """Return what a message says of inputs; None where it says nothing. Raises Refused where a file is not here."""
    if items is None:
        return None
    found = []
    for item in items:
        path = uploads.path(item["sha256"])
        if not os.path.exists(path):
            raise Refused("hash", "%s is not here" % item["sha256"])
        found.append(Input(str(item["name"]), path, str(item["dtype"]), tuple(int(size) for size in item["shape"])))
    return found


def read(described: Sequence[Input], numpy: Any) -> Dict[str, Any]:
    """Return the arrays by name; each runtime has numpy, and hands it in: the agent itself does without."""
    return {one.name: numpy.fromfile(one.path, dtype=one.dtype).reshape(one.shape) for one in described}
