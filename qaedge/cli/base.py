"""The base: a suite's files as another branch or commit has them, so that they can be measured in turn with ours."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from qaedge.artifact import check_content
from qaedge.errors import QaedgeError, UsageError
from qaedge.files import disk_errors, read_bytes, write_atomic

if TYPE_CHECKING:
    from qaedge.regression.suite import Model, Suite


class Taken(msgspec.Struct, frozen=True):
    """A suite with files of the base as baselines.

    Attributes:
        suite: each model that differs from the base's has that as its baseline; those that name one keep it.
        differing, equal, new: the names of models whose file differs, is the same, or is not there in the base.
    """

    suite: Suite
    differing: tuple[str, ...]
    equal: tuple[str, ...]
    new: tuple[str, ...]


@contextmanager
def with_base(suite: Suite, base: str) -> Iterator[Taken]:
    """Give the suite with the files of a branch or commit as baselines; they are gone when the block ends.

    Raises UsageError for what git does not know, and InvalidFile where it has a pointer of Git LFS and not the file.
    """
    commit = _commit(suite.path.parent, base)
    place = suite.path.parent / "results" / "suites"
    with disk_errors(place):
        place.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[str]] = {"differing": [], "equal": [], "new": []}
    with tempfile.TemporaryDirectory(prefix="base-", dir=place) as folder:
        models = []
        for number, model in enumerate(suite.models):
            if model.baseline is None:
                state, model = _of_base(model, base, commit, Path(folder) / str(number))
                found[state].append(model.name)
            models.append(model)
        taken = {state: tuple(names) for state, names in found.items()}
        yield Taken(msgspec.structs.replace(suite, models=tuple(models)), **taken)


def _of_base(model: Model, base: str, commit: str, folder: Path) -> tuple[str, Model]:
    """Return how a model's file is beside the base's, and the model with that as its baseline where it differs."""
    where = f"{commit}:./{model.path.name}"
    if _git(model.path.parent, "cat-file", "-e", where).returncode:
        return "new", model
    # With filters, as a checkout has it: Git LFS puts the file itself in the place of its pointer.
    ran = _git(model.path.parent, "cat-file", "--filters", where)
    if ran.returncode:
        raise QaedgeError(
            f"git cannot give {model.path} of {base}: {' '.join(ran.stderr.decode(errors='replace').split())[:300]}",
            "Where it lies in Git LFS, install git-lfs here: git lfs install",
        )
    check_content(f"{model.path} of {base}", ran.stdout, "Install git-lfs here (git lfs install), so that git gets it.")
    if ran.stdout == read_bytes(model.path):
        return "equal", model
    path = folder / model.path.name
    write_atomic(path, ran.stdout)
    return "differing", msgspec.structs.replace(model, baseline=path)


def _commit(folder: Path, base: str) -> str:
    ran = _git(folder, "rev-parse", "--verify", "--quiet", f"{base}^{{commit}}") if base[:1] != "-" else None
    if ran is None or ran.returncode:
        raise UsageError(
            f"git knows no {base} here, in {folder.resolve()}.",
            "Fetch it first (actions/checkout: fetch-depth: 0), or name another branch or commit.",
        )
    return ran.stdout.decode().strip()


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, check=False)
    except OSError as error:
        raise QaedgeError(f"Cannot run git: {error.strerror}.", "Install it, or leave out --base.") from error
