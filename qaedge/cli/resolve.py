"""What a command works on: its device, and the space, resolved against the teacher when it has to be.

Resolving needs torch; what reads the result does not. A file beside `space.json` tells what it was
made from, so that a change of any of it is seen without loading the teacher.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from qaedge import report
from qaedge.device import Device, load_device
from qaedge.errors import InvalidFile, MissingExtra, MissingFile, QaedgeError
from qaedge.files import decode_json, read_bytes, write_json
from qaedge.project import FILE_NAME, Workspace
from qaedge.sources import sources_digest
from qaedge.space import SearchSpace, SpaceFile

if TYPE_CHECKING:
    from qaedge.nn.teacher import Teacher

#: What `qaedge.nn` imports, and the name under which pip knows it.
_NN_PACKAGES = {
    "torch": "torch",
    "onnx": "onnx",
    "safetensors": "safetensors",
    "PIL": "pillow",
    "jaxtyping": "jaxtyping",
}


class Inputs(msgspec.Struct, frozen=True):
    """What a resolved space was made from: digests of files, and the settings that shape it."""

    space: str
    weights: str
    teacher: str
    height: int
    width: int
    code: str = ""
    data: str = ""

    @staticmethod
    def of(workspace: Workspace, untrained: bool = False) -> Inputs:
        """Read the project as it is now; raise MissingFile where the space file or the weights are not there.

        With `untrained`, weights that are not there count as none.
        """
        project = workspace.project
        weights = None if untrained and not workspace.is_trained else workspace.weights_file
        return Inputs(
            space=_digest(read_bytes(workspace.space_file, hint="Write one with: qaedge init")),
            weights=_digest(read_bytes(weights)) if weights else "",
            teacher=_digest(msgspec.json.encode(project.teacher, order="sorted")),
            height=project.data.height,
            width=project.data.width,
            code=sources_digest(workspace.root, project.teacher.function),
            data=project.data.digest,
        )


def device_of(name: str | None, project: Path | None) -> Device:
    """Return the device that was named, else the project's, else this machine."""
    if name is None and (project is not None or Path(FILE_NAME).exists()):
        name = Workspace.open(project).project.device
    return load_device(name or "local")


def note_fake(devices: Iterable[Device], quiet: bool) -> None:
    """Say which devices are none, so that nobody takes their numbers for measured ones."""
    for device in devices:
        if device.connection == "fake":
            report.note(f"{device.name} is a fake board: its numbers are made up, and true of no device.", quiet)


def has_nn() -> bool:
    """Whether torch, and what comes with it, is installed."""
    try:
        need_nn()
    except MissingExtra:
        return False
    return True


def need_nn() -> None:
    """Raise MissingExtra where torch, or what comes with it, is not installed."""
    for module, package in _NN_PACKAGES.items():
        try:
            found = importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):  # ValueError: something stands in its place
            found = False
        if not found:
            raise MissingExtra("nn", package)


def resolve(workspace: Workspace, untrained: bool = False) -> tuple[Teacher, SearchSpace]:
    """Load the teacher, resolve the space against it, and save the space.

    With `untrained`, for what needs shapes and no weights, a teacher that was not trained yet is a
    warning. One that was is still missed: its space must not give way to that of fresh weights.

    Raises MissingExtra, and what is wrong with the files of the project.
    """
    need_nn()
    from qaedge.nn.live import own_alive
    from qaedge.nn.teacher import load_teacher, resolve_space

    written = SpaceFile.read(workspace.space_file)  # before the teacher: a typing error shows at once
    untrained = untrained and not _was_trained(workspace)
    inputs = Inputs.of(workspace, untrained)
    teacher = load_teacher(workspace, untrained)
    if untrained:
        warn_untrained(workspace)
    space = resolve_space(teacher, written, workspace.project.data)
    space.save(workspace.space_json)
    write_json(workspace.activations_json, own_alive(teacher))
    write_json(_inputs_file(workspace), inputs)
    return teacher, space


def warn_untrained(workspace: Workspace) -> None:
    """Say that weights which the project names are not there yet."""
    try:
        workspace.weights_file  # noqa: B018 - asked for what it raises
    except MissingFile as problem:
        report.warn(f"{problem.message} Until then its weights are fresh ones.")


def current_space(workspace: Workspace) -> SearchSpace:
    """Return the resolved space, from its file where that still holds; a damaged one is made anew."""
    SpaceFile.read(workspace.space_file)
    try:
        # An older version did not look into the teacher's blocks; where torch is, that is made up for.
        is_whole = own_activations(workspace) is not None or not has_nn()
    except InvalidFile:
        is_whole = False
    if is_whole and workspace.space_json.exists() and not changed(workspace, untrained=not _was_trained(workspace)):
        with contextlib.suppress(InvalidFile):
            return SearchSpace.load(workspace.space_json)
    return resolve(workspace, untrained=True)[1]


def own_activations(workspace: Workspace) -> dict[str, int] | None:
    """Return what is known of the memory that the teacher's own blocks take; None where they were not looked at.

    Raises InvalidFile for a damaged file.
    """
    try:
        return decode_json(workspace.activations_json, dict[str, int], hint="Make it anew with: qaedge space")
    except MissingFile:
        return None


def saved_space(workspace: Workspace) -> SearchSpace:
    """Return the space as last resolved, with a warning where the project has changed since.

    Search has to work where neither torch nor the teacher's weights are.
    """
    space = SearchSpace.load(workspace.space_json)
    try:
        differing = changed(workspace)
    except QaedgeError:
        return space
    if differing:
        report.warn(
            f"{workspace.space_json} was made before {', '.join(differing)} changed; "
            "this works on the old space. Renew it with: qaedge space"
        )
    return space


def changed(workspace: Workspace, untrained: bool = False) -> list[str]:
    """Return what has changed since the space was resolved; empty where nothing has.

    With `untrained`, weights that are not there count as none.
    """
    file = _inputs_file(workspace)
    if not file.exists():
        return ["the project"]
    now = Inputs.of(workspace, untrained)
    try:
        before = decode_json(file, Inputs)
    except InvalidFile:
        return ["the project"]  # nobody knows what: it was cut short, or is of another version
    names = {
        "space": "the space file",
        "weights": "the teacher's weights",
        "teacher": "[teacher]",
        "height": "data.height",
        "width": "data.width",
        "code": "the teacher's code",
        "data": "[data]",
    }
    return [name for field, name in names.items() if getattr(before, field) != getattr(now, field)]


def _was_trained(workspace: Workspace) -> bool:
    """Whether the space was resolved against a teacher with weights of its own."""
    try:
        return bool(decode_json(_inputs_file(workspace), Inputs).weights)
    except (MissingFile, InvalidFile):
        return False


def _inputs_file(workspace: Workspace) -> Path:
    return workspace.space_json.with_name("space.inputs.json")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
