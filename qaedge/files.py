"""Typed files: TOML and JSON decoded into structs, with errors that name file and key."""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from qaedge.errors import CannotWrite, DiskFull, InvalidFile, MissingFile, QaedgeError

T = TypeVar("T")

#: How the names end of files and folders that are not finished yet.
PART = ".part"

# msgspec puts the path of the offending value at the end: "... - at `$.data.height`".
_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$?\.?(?P<key>.*)`)?$", re.DOTALL)
_EXPECTED = re.compile(r"^Expected (?P<expected>.*?)(?:, got (?P<found>.*?))?$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<key>.*)`$")
_ABSENT = re.compile(r"^Object missing required field `(?P<key>.*)`$")
#: The decoder's word for a type -> what people call it.
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the system says against writing, inside the block, into DiskFull or CannotWrite naming `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(
                f"No space left while writing {path}.",
                "Everything finished before is kept. Free some space and run the same command again.",
            ) from error
        raise CannotWrite(
            f"Cannot write {path}: {error.strerror or error}.",
            "Make that place writable, or name another, as `results` in the project file or by the flag for it.",
        ) from error


def read_bytes(path: Path, hint: str = "") -> bytes:
    """Return a file's bytes; raise MissingFile where there is none or it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingFile(f"No file {path}.", hint) from None
    except OSError as error:
        raise MissingFile(f"Cannot read {path}: {error.strerror}.", hint) from error


def _invalid(path: Path, error: msgspec.DecodeError, kind: type, hint: str = "") -> InvalidFile:
    if not isinstance(error, msgspec.ValidationError):  # not even TOML or JSON
        return InvalidFile(path, "", "a valid file", f"a mistake: {error}".rstrip("."), hint)
    match = _AT.match(str(error))
    what, key = (match.group("what"), match.group("key") or "") if match else (str(error), "")
    if unknown := _UNKNOWN.match(what):
        name = unknown.group("key")
        known = _known(kind, key)
        close = difflib.get_close_matches(name, known, 1)
        listed = f" ({', '.join(known)})" if known else ""
        advice = f"Did you mean {close[0]!r}?" if close else "Correct its name, or take it out."
        return InvalidFile(path, f"{key}.{name}".lstrip("."), f"a known key{listed}", f"{name!r}", advice)
    if absent := _ABSENT.match(what):
        name = absent.group("key")
        return InvalidFile(path, f"{key}.{name}".lstrip("."), "a value", "nothing")
    if expected := _EXPECTED.match(what):
        wanted, got = (_in_words(text) for text in expected.group("expected", "found"))
        return InvalidFile(path, key, wanted, got or "something else", hint)
    return InvalidFile(path, key, "a valid file", what[:1].lower() + what[1:], hint)


def _with_number(found: InvalidFile, data: bytes) -> InvalidFile:
    """Name the number that JSON, or its place, does not take, where it is one: NaN, 1e300, 1.5."""
    if found.key and found.found not in ("a number", "number out of range"):
        return found
    try:
        numbers = dict(_numbers(json.loads(data), ""))
    except (ValueError, RecursionError):  # a mistake of another kind
        return found
    key = found.key or next((key for key, number in numbers.items() if not math.isfinite(number)), "")
    if key not in numbers:
        return found
    wanted = "a number" if found.expected == "a valid file" else found.expected
    return InvalidFile(found.path, key, wanted, str(numbers[key]), found.hint)


def _numbers(value: object, key: str) -> Iterator[tuple[str, float]]:
    """Yield all numbers inside a value that was read from JSON, with their keys."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _numbers(part, f"{key}[{number}]")
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _numbers(part, f"{key}.{name}".lstrip("."))


def _in_words(text: str | None) -> str:
    """Say "a whole number or text" for "`int | str`"; leave other quoted words as they are."""

    def say(match: re.Match[str]) -> str:
        return " or ".join(_WORDS.get(word, word) for word in match.group(1).split(" | "))

    return re.sub(r"`([^`]*)`", say, text or "")


def _known(kind: type, key: str) -> list[str]:
    """List the keys known at `key` inside struct `kind`, as far as plain nesting tells."""
    for part in (p for p in re.split(r"[.\[\]]+", key) if p and not p.isdigit()):  # the list's elements, not the list
        info = {f.encode_name: f.type for f in msgspec.structs.fields(kind)}.get(part)
        arguments = getattr(info, "__args__", ())
        nested = [t for t in (info, *arguments) if isinstance(t, type) and issubclass(t, msgspec.Struct)]
        if not nested:
            return []
        kind = nested[0]
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return []
    return [f.encode_name for f in msgspec.structs.fields(kind)]


def decode_toml(path: Path, kind: type[T], hint: str = "") -> T:
    """Decode a TOML file into `kind`; raise MissingFile or InvalidFile (file, key, expected, found)."""
    return decode_toml_bytes(read_bytes(path, hint), path, kind)


def decode_toml_bytes(data: bytes, path: Path, kind: type[T]) -> T:
    """Decode TOML text that came from `path` into `kind`; raise InvalidFile."""
    try:
        return msgspec.toml.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise _invalid(path, error, kind) from error
    except UnicodeDecodeError as error:
        raise InvalidFile(path, "", "UTF-8 text", f"byte {error.start} that is none") from error


def convert_toml(value: object, path: Path, kind: type[T]) -> T:
    """Turn plain data that came from a TOML file into `kind`; raise InvalidFile (file, key, expected, found)."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _invalid(path, error, kind) from error


def decode_json(path: Path, kind: type[T], hint: str = "") -> T:
    """Decode a JSON file into `kind`; raise MissingFile or InvalidFile (file, key, expected, found)."""
    data = read_bytes(path, hint)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise _with_number(_invalid(path, error, kind, hint), data) from error
    except UnicodeDecodeError as error:
        raise InvalidFile(path, "", "UTF-8 text", f"byte {error.start} that is none") from error


@contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file while the block runs; raise QaedgeError where another process has it.

    The kernel lets go of it when its holder dies, however it dies.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+")
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise QaedgeError(
                f"Another process ({file.read().strip() or 'unknown'}) is {what} in {path.parent}.",
                "Wait until it has finished, or stop it; what it finished is kept.",
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: a temporary neighbor, flushed, then renamed.

    A neighbor that was left by a process that was killed is removed.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
        try:
            with os.fdopen(descriptor, "wb") as file:
                claim(descriptor)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def check_writable(path: Path) -> None:
    """Raise CannotWrite or DiskFull where a file could not be written there; nothing is left but its folder."""
    with disk_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=PART):
            pass


def claim(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed; return False where another process has it.

    The kernel lets go of it when its holder dies, however it dies: what nobody holds is nobody's.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # or a file system without locks: then nothing is anybody's to remove
        return False
    return True


def remove_abandoned(path: Path) -> None:
    """Remove what killed processes left beside a file that they were about to write."""
    left = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}{re.escape(PART)}")
    for found in list(path.parent.iterdir()):
        if not left.fullmatch(found.name):
            continue
        with contextlib.suppress(OSError):  # somebody else was quicker
            descriptor = os.open(found, os.O_RDONLY)
            try:
                if claim(descriptor):
                    _remove(found)
            finally:
                os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def write_json(path: Path, value: object) -> None:
    """Write a struct, or plain data, as indented JSON, whole or not at all."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
