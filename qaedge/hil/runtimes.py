"""Runtimes: which of a device's measures a file."""

from __future__ import annotations

from typing import Any

from qaedge.artifact import Artifact
from qaedge.device import Device
from qaedge.errors import AgentFailed, CandidateFailed
from qaedge.hil.agent import AgentSession
from qaedge.runtime import FORMATS, RUNTIMES, that_run


def first_runtime(session: AgentSession, file_format: str) -> str | None:
    """Return the first of the device's runtimes that is there and runs such files; None where there is none."""
    can = that_run(file_format)
    return next((name for name in session.device.runtimes if name in can and name in session.hello.runtimes), None)


def runtime_for(session: AgentSession, artifact: Artifact) -> str:
    """Return the runtime that measures a file.

    Raises CandidateFailed where none of the device's runs such files, AgentFailed where those that
    do are not there.
    """
    found = first_runtime(session, artifact.format)
    if found is not None:
        return found
    can = that_run(artifact.format)
    device = session.device
    fitting = [name for name in device.runtimes if name in can]
    if not can:
        raise CandidateFailed(
            f"{artifact.name}: no runtime measures {artifact.format or 'unknown'!r} files.",
            f"Known: {', '.join(FORMATS)}.",
        )
    if not fitting:
        raise CandidateFailed(
            f"{artifact.name} is a {artifact.format} file. Those are measured by {' or '.join(can)}, "
            f"and here {device.name} measures with {' and '.join(device.runtimes)}.",
            f"Give --runtime {artifact.format}, or --runtime both. Without it, "
            f"{device.name} measures with the runtimes that devices/{device.name}.toml names.",
        )
    why = "; ".join(f"{name}: {session.hello.runtime_failures.get(name, 'it is not there')}" for name in fitting)
    raise AgentFailed(
        f"{artifact.name} needs {' or '.join(fitting)} on {device.name}. {why}.",
        "\n".join(RUNTIMES[name].advice.format(python=session.hello.executable) for name in fitting),
    )


def options_for(device: Device, runtime: str) -> dict[str, Any]:
    """Return what a runtime is told of a device, where its description says other than what is usual.

    ONNX Runtime's execution providers; that TensorRT may not compute in half precision; that TFLite runs every
    operator itself.
    """
    if runtime == "onnxruntime" and device.providers:
        return {"providers": list(device.providers)}
    if runtime == "tensorrt" and not device.tensorrt_fp16:
        return {"fp16": False}
    if runtime == "tflite" and not device.tflite_xnnpack:
        return {"xnnpack": False}
    return {}
