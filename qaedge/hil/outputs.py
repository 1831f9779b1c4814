"""What a file puts out on a device for given inputs: to be held against what it puts out here."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np

from qaedge.artifact import Artifact
from qaedge.errors import CandidateFailed, ProtocolError
from qaedge.hil import frames
from qaedge.hil.agent import AgentSession
from qaedge.hil.contents import contents_of
from qaedge.hil.given import Inputs, described
from qaedge.hil.profile import FAILURES
from qaedge.hil.runtimes import options_for

#: How long one inference, loading included, may take [s].
DEADLINE_S = 120.0
#: What an output may hold [bytes].
_LARGEST = 1 << 28


def outputs_on(
    session: AgentSession,
    artifact: Artifact,
    inputs: Inputs,
    runtime: str,
    threads: int = 1,
) -> dict[str, np.ndarray[Any, Any]]:
    """Run a file once on a device, on given inputs, and return its outputs by name.

    Args:
        session: holds the device's lock.
        artifact: the file.
        inputs: by the name of each of the file's inputs, in the file's own types and shapes; an only one may
            have an empty name.
        runtime: what runs it there.
        threads: how many.

    Raises:
        CandidateFailed: the file is damaged, or the runtime refused it or its inputs.
        CandidateCrashed, CandidateTimeout: the process that ran it died, or did not finish.
        ProtocolError: outputs that are not what was announced.
        MeasurementError: the device is gone.
    """
    items, contents = described(inputs)
    contents[artifact.sha256] = contents_of(artifact)
    absent = session.missing(contents)
    session.put({sha256: data for sha256, data in contents.items() if sha256 in absent})
    pieces: dict[int, bytearray] = {}
    order = {
        "type": "infer",
        "runtime": runtime,
        "sha256": artifact.sha256,
        "inputs": items,
        "threads": threads,
        "deadline_s": DEADLINE_S,
        "options": options_for(session.device, runtime),
    }
    for message in session.follow(order, frames.Output, frames.Inferred, frames.NotInferred):
        if isinstance(message, frames.Output):
            held = pieces.setdefault(message.number, bytearray())
            held += base64.b64decode(message.data, validate=True)
            if len(held) > _LARGEST:
                raise ProtocolError(f"{session.device.name} sends more than {_LARGEST} bytes of one output.")
        elif isinstance(message, frames.NotInferred):
            text = frames.clean(message.text)[:600].rstrip(".")
            raise FAILURES.get(message.kind, CandidateFailed)(
                f"{artifact.name} does not run on {session.device.name}: {text}."
            )
        elif isinstance(message, frames.Inferred):
            session.drop(absent)
            return {o.name: _array(o, bytes(pieces.get(i, b"")), session) for i, o in enumerate(message.outputs)}
    raise ProtocolError(f"{session.device.name} ended without outputs.")


def _array(output: frames.Described, data: bytes, session: AgentSession) -> np.ndarray[Any, Any]:
    try:
        kind = np.dtype(output.dtype)
    except TypeError as error:
        raise ProtocolError(f"{session.device.name} names a type {output.dtype!r} that is none.") from error
    if kind.kind not in "fiub" or len(data) != kind.itemsize * math.prod(output.shape):
        raise ProtocolError(
            f"{session.device.name} sent {len(data)} bytes for {output.name!r}, {output.shape} of {kind}."
        )
    return np.frombuffer(data, kind).reshape(output.shape)
