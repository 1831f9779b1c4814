"""The sources of a teacher: the files of a project's folder that its function is written in."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path


def teacher_sources(folder: Path, function: str) -> dict[str, bytes]:
    """Read the module of a function, and the modules it imports, as far as they lie in a folder.

    Nothing is imported, so this works where torch is not installed. Installed packages do not
    count: a network is also known by its structure and its weights.

    Args:
        folder: that of the project file.
        function: `module:function`.

    Returns:
        Path relative to the folder -> content; empty where the function is an installed one.
    """
    found: dict[str, bytes] = {}
    waiting = [function.partition(":")[0]]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        # This package is not the project's, even where its own folder is.
        if name in seen or name.partition(".")[0] == __package__:
            continue
        seen.add(name)
        for package, path in _files(folder, name):
            place = path.relative_to(folder).as_posix()
            if place not in found:
                found[place] = path.read_bytes()
                waiting += _imported(found[place], package)
    return dict(sorted(found.items()))


def sources_digest(folder: Path, function: str) -> str:
    """Return the sha256 of a function's sources; "" where it has none in the folder."""
    sources = teacher_sources(folder, function)
    digest = hashlib.sha256()
    for place, data in sources.items():
        digest.update(f"{place} {len(data)}\n".encode() + data)
    return digest.hexdigest() if sources else ""


def _files(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """Yield (package, file) of a module and of the packages around it, as far as they are there."""
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        return
    for count in range(1, len(parts) + 1):
        place = folder.joinpath(*parts[:count])
        if (place / "__init__.py").is_file():
            yield ".".join(parts[:count]), place / "__init__.py"
    if (path := folder.joinpath(*parts).with_suffix(".py")).is_file():
        yield ".".join(parts[:-1]), path


def _imported(data: bytes, package: str) -> Iterator[str]:
    """Yield names that may be modules; a name in `from module import name` may be one, too."""
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError):
        return  # importing it will say what is wrong
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            around = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*around, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
