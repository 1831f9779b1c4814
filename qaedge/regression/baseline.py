"""A baseline: results that later ones are held against, as JSON files fit for git.

`baselines/NAME/DEVICE-STATE.json`: one file for each device in each of its states, STATE being a hash of the
fingerprint less what a baseline outlives. Boards, and people with boards, never write into each other's file.

Format history: version 1, the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from qaedge.errors import InvalidFile, MissingFile, NotComparable, UsageError
from qaedge.files import decode_json, write_atomic
from qaedge.fingerprint import Difference, differences
from qaedge.regression.result import PASSING, Result, absurd, fingerprint_key

FORMAT, VERSION = "qaedge baseline", 1
FOLDER = "baselines"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: A list of numbers that the JSON writer has spread over lines.
_NUMBERS = re.compile(rb"\[\s*((?:-?[\d.eE+-]+,?\s*)+)\]")


class _Header(msgspec.Struct):
    format: str = ""
    version: int = 0


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Results of one device in one state, one for each model and runtime."""

    device: str
    state: str
    results: tuple[Result, ...]
    format: str = FORMAT
    version: int = VERSION


def check_name(name: str) -> None:
    """Raise UsageError for a name that is no file's."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a baseline.", "Take letters, digits, dots and dashes, such as main.")


def save_baseline(folder: Path, name: str, results: Iterable[Result]) -> tuple[Path, ...]:
    """Write results under a name; return the files.

    Each device in each state has a file, and what is saved now takes the place of all that was in it: a model that
    the suite has no more is gone. Files of other devices and states stay.
    """
    check_name(name)
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.device, fingerprint_key(_of_the_device(result))), []).append(result)
    written = []
    for (device, state), found in sorted(groups.items()):
        path = folder / name / f"{device}-{state}.json"
        lasting = (msgspec.structs.replace(one, fingerprint=_without_boot(one.fingerprint)) for one in found)
        merged = {_key(result): result for result in lasting}
        kept = tuple(merged[key] for key in sorted(merged))
        data = msgspec.json.format(msgspec.json.encode(Baseline(device, state, kept), order="deterministic"), indent=1)
        write_atomic(path, _NUMBERS.sub(lambda match: b"[" + b" ".join(match[1].split()) + b"]", data) + b"\n")
        written.append(path)
    return tuple(written)


def read_baseline(path: Path) -> Baseline:
    """Read one file; raise MissingFile, or InvalidFile where it is another format's or another version's."""
    hint = "Save it anew: qaedge bench --suite FILE --save-baseline NAME"
    header = decode_json(path, _Header, hint)
    if header.format != FORMAT:
        raise InvalidFile(path, "format", repr(FORMAT), repr(header.format), hint)
    if header.version != VERSION:
        age = "an older" if header.version < VERSION else "a newer"
        raise InvalidFile(path, "version", str(VERSION), f"{header.version}, {age} format", hint)
    found = decode_json(path, Baseline, hint)
    for number, result in enumerate(found.results):
        for key, expected, value in absurd(result):
            raise InvalidFile(path, f"results[{number}].{key}", expected, str(value), hint)
    return found


def read_results(path: Path) -> tuple[Result, ...]:
    """Read saved results; raise as `read_baseline`, or InvalidFile where there are none."""
    found = read_baseline(path).results
    if not found:
        raise InvalidFile(path, "results", "at least one", "none")
    return found


def read_saved(folder: Path, name: str) -> Saved:
    """Read all files of a baseline; raise MissingFile, UsageError or InvalidFile."""
    check_name(name)
    paths = sorted((folder / name).glob("*.json"))
    if not paths:
        known = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        listed = f"There are: {', '.join(known)}.\n" if known else ""
        raise MissingFile(
            f"No baseline {name!r} in {folder}.",
            f"{listed}Save one with: qaedge bench --suite FILE --save-baseline {name}",
        )
    return Saved(name, tuple(result for path in paths for result in read_baseline(path).results))


class Saved(msgspec.Struct, frozen=True):
    """All results of a baseline of one name."""

    name: str
    results: tuple[Result, ...]

    def check_devices(self, devices: Iterable[str]) -> None:
        """Raise NotComparable where there is nothing of one of these devices: before anything is measured there."""
        known = sorted({result.device for result in self.results})
        strange = [device for device in dict.fromkeys(devices) if device not in known]
        if strange:
            raise NotComparable(
                f"The baseline {self.name!r} is of {', '.join(known) or 'nothing'}, and this is {', '.join(strange)}.",
                "Times of two devices do not compare. Save one of "
                f"{', '.join(strange)}: qaedge bench --suite FILE --save-baseline NAME",
            )

    def for_model(self, result: Result) -> Result | None:
        """Return what a result is held against; None where the baseline does not know the model on this device.

        Raises NotComparable where the device is not in it, or the model only in another state of it, or with another
        runtime; the message names the field and both values.
        """
        self.check_devices([result.device])
        mine = [known for known in self.results if known.device == result.device and known.model == result.model]
        if not mine:
            return None
        fitting = [known for known in mine if _lasting(known) == _lasting(result)]
        if not fitting:
            nearest = min(mine, key=lambda known: len(_differing(known, result)))
            found = _differing(nearest, result)[0]
            raise NotComparable(
                f"The baseline {self.name!r} has {result.model} on {result.device} in another state: {found.field} was "
                f"{Difference.word(found.wanted)} and is {Difference.word(found.found)}.",
                f"Bring the device back into that state, or save one of this state, too: --save-baseline {self.name}",
            )
        return max(fitting, key=lambda known: known.measured_at)

    def vanished(self, devices: Iterable[str], models: Iterable[str]) -> tuple[str, ...]:
        """Return the models that the baseline has of these devices, and that are no more."""
        asked = set(devices)
        return tuple(sorted({known.model for known in self.results if known.device in asked} - set(models)))


def _of_the_device(result: Result) -> dict[str, Any]:
    """What of a fingerprint is the device's: files of two runtimes, or thread counts, lie in one file."""
    own = {"runtime", "threads", "providers", "fp16", "xnnpack", "cores"}
    return {key: value for key, value in result.fingerprint.items() if key not in own}


def _without_boot(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """A baseline outlives many starts of a board, and its file should not change with each."""
    return {key: value for key, value in fingerprint.items() if key != "boot_id"}


def _key(result: Result) -> tuple[str, str, int, str]:
    return result.model, result.runtime, result.threads, fingerprint_key(result.fingerprint)


def _lasting(result: Result) -> Mapping[str, Any]:
    found = msgspec.to_builtins(result.fingerprint)
    return {key: value for key, value in found.items() if key not in PASSING and value not in ("", [], {}, None)}


def _differing(known: Result, result: Result) -> tuple[Difference, ...]:
    fields = {*known.fingerprint, *result.fingerprint} - PASSING
    return differences(result.fingerprint, known.fingerprint, fields)
