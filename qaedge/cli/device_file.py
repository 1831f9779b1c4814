"""A user's own description of a board: the table [ssh] written, everything else in it left as it is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from qaedge.device import Ssh, folders, load_device
from qaedge.errors import InvalidFile, QaedgeError, UsageError
from qaedge.files import decode_toml, decode_toml_bytes, read_bytes, write_atomic

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TABLE = re.compile(r"^\[ssh\][^\n]*\n(?:(?!\[).*(?:\n|\Z))*", re.MULTILINE)
_CONNECTION = re.compile(r"^connection\s*=.*$", re.MULTILINE)


def own_file(name: str) -> Path:
    """Return where a user's description of that name lies; raise UsageError where it is no name."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name for a device.", "Use letters, digits, dots, dashes and underscores, such as pi4."
        )
    return folders()[0] / f"{name}.toml"


def packaged() -> list[str]:
    """Return the descriptions that come with qaedge."""
    return sorted(path.stem for path in folders()[-1].glob("*.toml"))


def write(name: str, facts: dict[str, Any], ssh: Ssh) -> Path:
    """Write a description with its table [ssh], or lay both over the one that is there; return its file.

    Raises InvalidFile, and leaves the file as it was, where the result is no description.
    """
    path = own_file(name)
    before = read_bytes(path) if path.exists() else None
    values = {key: value for key, value in msgspec.to_builtins(ssh).items() if value}
    if before is None:
        text = f"# {name}, added by qaedge. Facts of the board may be added; docs/boards.md says which.\n"
        text += "".join(f"{key} = {quoted(value)}\n" for key, value in {**facts, "connection": "ssh"}.items())
    else:
        old = decode_toml(path, dict[str, Any])
        values = {**old.get("ssh", {}), **values}
        text = _without_ssh(before.decode(), old, path)
    text = f"{text.rstrip()}\n\n[ssh]\n" + "".join(f"{key} = {quoted(value)}\n" for key, value in values.items())
    if decode_toml_bytes(text.encode(), path, dict[str, Any]).get("ssh") != values:
        raise InvalidFile(path, "ssh", "one table [ssh] at its end", "another form", "Write it like that.")
    write_atomic(path, text.encode())
    try:
        load_device(name)
    except QaedgeError:
        if before is None:
            path.unlink()
        else:
            write_atomic(path, before)
        raise
    return path


def quoted(value: str | int | bool) -> str:
    """Write a value as TOML does."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower()


def _without_ssh(text: str, old: dict[str, Any], path: Path) -> str:
    """Return a description without its table [ssh], and with a connection by SSH."""
    found = _TABLE.search(text)
    if "ssh" in old and found is None:
        raise InvalidFile(path, "ssh", "a table [ssh]", "another form", "Write it as lines below [ssh].")
    if found is not None:
        if text[found.end() :].strip():
            raise InvalidFile(path, "ssh", "the table [ssh] at its end", "more below it", "Move that above [ssh].")
        text = text[: found.start()]
    if old.get("connection") == "ssh":
        return text
    if "connection" in old:
        return _CONNECTION.sub('connection = "ssh"', text, count=1)
    return f'{text.rstrip()}\nconnection = "ssh"\n'
