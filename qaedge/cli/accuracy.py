"""What files are worth on a project's validation images: mIoU, and how often two of them agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qaedge import report
from qaedge.cli.resolve import need_nn
from qaedge.errors import DataError
from qaedge.progress import Step
from qaedge.project import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from qaedge.hil.campaign import Scores
    from qaedge.nn.sessions import Session


def scores(project: Path | None, files: Sequence[Path], pairs: Mapping[str, tuple[Path, Path]], quiet: bool) -> Scores:
    """Score files on this machine, on the validation images of a project; needs the extra `nn`.

    Args:
        project: the project file; None: the one of this folder.
        files: what is scored.
        pairs: by a name, two of them whose classes are held against each other, pixel by pixel.
        quiet: no progress.

    Raises MissingExtra, or what is wrong with the project, its images or a file.
    """
    need_nn()
    workspace = Workspace.open(project)
    for step in report.progress(_steps(workspace, files, pairs), "scoring", quiet):
        found: Scores = step.result
    return found


def _run(path: Path, session: Session, images: Any) -> np.ndarray[Any, Any]:
    """Run a file on images; raise DataError where it takes others."""
    try:
        return session.run(images)
    except Exception as error:  # each runtime raises types of its own
        shape = "x".join(map(str, images.shape))
        raise DataError(
            f"{path} does not take the project's images ({shape}): {str(error).splitlines()[0][:200]}",
            "Score files of the size that [data] names (height and width).",
        ) from error


def _steps(workspace: Workspace, files: Sequence[Path], pairs: Mapping[str, tuple[Path, Path]]) -> Iterator[Step]:
    from qaedge.hil.campaign import Scores
    from qaedge.nn.metrics import Confusion, class_map
    from qaedge.nn.sessions import load_file
    from qaedge.nn.student import open_splits

    split = open_splits(workspace)[1]
    classes = len(split.classes)
    sessions = {path: load_file(path) for path in dict.fromkeys(files)}
    counts = {path: Confusion(classes) for path in sessions}
    same, pixels = dict.fromkeys(pairs, 0), dict.fromkeys(pairs, 0)
    for number in range(len(split)):
        images, labels = split.batch(range(number, number + 1))
        called = {path: class_map(_run(path, session, images), classes) for path, session in sessions.items()}
        for path, count in counts.items():
            count.add(called[path], labels)
        for name, (one, other) in pairs.items():
            same[name] += int((called[one] == called[other]).sum())
            pixels[name] += called[one].size
        result = None
        if number + 1 == len(split):
            result = Scores(
                {path: count.miou for path, count in counts.items()},
                {name: same[name] / pixels[name] for name in pairs},
            )
        yield Step(number + 1, len(split), split.names[number], result)
