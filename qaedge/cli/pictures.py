"""The files of a report: which one was built of each network, and what they make of validation images."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from qaedge import report
from qaedge.architecture import Architecture
from qaedge.cli.resolve import need_nn
from qaedge.errors import InvalidFile, MissingFile, QaedgeError
from qaedge.files import decode_json
from qaedge.page.content import Built, ClassColor, Panel, Picture
from qaedge.project import Workspace
from qaedge.runtime import FORMATS
from qaedge.space import SearchSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qaedge.progress import Step

#: Images that are shown.
IMAGES = 4
TEACHER = "teacher"


class Released(msgspec.Struct, frozen=True):
    """A file that was built, where it lies, and what is known of it."""

    path: Path
    built: Built


class _Manifest(msgspec.Struct):
    """What of a manifest tells whether it is this network's."""

    file: str
    size_bytes: int
    space_hash: str
    architecture: dict[str, str]
    miou: float


def released(
    workspace: Workspace, space: SearchSpace, name: str, architecture: Architecture, folders: tuple[Path, ...]
) -> dict[str, Released]:
    """Return the files of a network by their format: those that were exported into a folder, or else those built.

    A file counts only where its manifest tells this very network. The format that the network was
    chosen for comes first.
    """
    found: dict[str, Released] = {}
    for suffix in sorted(FORMATS, key=lambda each: each != architecture.file_format):
        paths = (folder / f"{name}.{suffix}" for folder in folders)
        exported = (Released(path, built) for path in paths if (built := _exported(path, architecture)))
        file = next(exported, None) or _built(workspace, space, name, architecture, suffix)
        if file is not None:
            found[suffix] = file
    return found


def _exported(path: Path, architecture: Architecture) -> Built | None:
    manifest = path.with_name(f"{path.name}.json")
    if not (path.is_file() and manifest.is_file()):
        return None
    try:
        told = decode_json(manifest, _Manifest)
    except (InvalidFile, MissingFile):
        return None
    network = {choice.block: f"{choice.spec} {choice.scheme}" for choice in architecture.choices}
    if told.architecture != network or told.space_hash != architecture.space_hash:
        return None
    return Built(path.name, told.size_bytes, told.miou)


def _built(
    workspace: Workspace, space: SearchSpace, name: str, architecture: Architecture, suffix: str
) -> Released | None:
    if not (workspace.results / space.origin / "students" / name).is_dir():
        return None  # and torch need not be loaded to learn that
    try:
        need_nn()
        from qaedge.nn.student import load_report, student_folder

        folder = student_folder(workspace, space, name)
        kept = Architecture.read(folder / "architecture.json")
        told = load_report(folder)
    except QaedgeError:  # torch is not installed, nothing was built, or what is there is damaged
        return None
    if kept.choices != architecture.choices or kept.space_hash != architecture.space_hash:
        return None
    file = told.file_of(suffix)
    if file is None or not (folder / file.file).is_file():
        return None
    return Released(folder / file.file, Built(f"{name}.{suffix}", file.size_bytes, file.miou))


def pictures_of(
    workspace: Workspace, files: Mapping[str, Path], quiet: bool
) -> tuple[tuple[Picture, ...], tuple[ClassColor, ...], str]:
    """Return validation images as each file sees them, the classes' colors, and why there are none, if so.

    Without a file of the teacher, the teacher itself is run, in float.
    """
    try:
        need_nn()
        steps, classes = _prepare(workspace, files)
        seen = [step.result for step in report.progress(steps, "running networks on images", quiet)]
    except QaedgeError as error:
        return (), (), f"No pictures: {error.message} {error.hint}".strip()
    return tuple(map(_picture, seen)), classes, ""


def _prepare(workspace: Workspace, files: Mapping[str, Path]) -> tuple[Iterator[Step], tuple[ClassColor, ...]]:
    from qaedge.nn.pictures import VOID_COLOR, palette, pictures
    from qaedge.nn.sessions import load_file
    from qaedge.nn.student import open_splits

    _, val = open_splits(workspace)
    networks: dict[str, Callable[..., Any]] = {name: load_file(path).run for name, path in files.items()}
    if not any(name.partition(" (")[0] == TEACHER for name in files):
        from qaedge.nn.teacher import load_teacher

        networks = {f"{TEACHER}, in float": load_teacher(workspace).module, **networks}
    colors = tuple(
        ClassColor(name, "#" + bytes(color).hex())
        for name, color in zip(val.classes, palette(val.classes), strict=True)
    )
    return pictures(val, networks, IMAGES), (*colors, ClassColor("no class", "#" + bytes(VOID_COLOR).hex()))


def _picture(seen: object) -> Picture:
    from qaedge.nn.pictures import Seen

    assert isinstance(seen, Seen)
    panels = []
    for title, data in seen.pictures.items():
        kind = "jpeg" if title == "image" else "png"
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        panels.append(Panel(title, source, seen.miou.get(title)))
    return Picture(seen.name, tuple(panels))
