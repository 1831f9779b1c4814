"""A device: a board's facts, read from `devices/NAME.toml`; never an address or a secret."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import msgspec

from qaedge.errors import InvalidFile, UnknownDevice, UsageError
from qaedge.files import decode_toml
from qaedge.units import parse_bytes

#: What this version measures with.
RUNTIMES = ("onnxruntime",)
#: How INT8 activations and weights are stored in ONNX; the integers mean the same in each.
FORMS = ("auto", "u8s8", "s8s8", "u8u8")


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a board before anyone connects to it.

    `arch` "any" means: whatever the machine says. `form` is how INT8 files for it are written;
    "auto" asks the device's processor (see `choose_form`). `arch` and `threads` are held against
    what the machine says when a session is opened.
    """

    name: str
    description: str
    connection: str = "local"
    arch: str = "any"
    cores: int | None = None
    memory: str | None = None
    runtimes: tuple[str, ...] = ("onnxruntime",)
    threads: int = 1
    pin: bool = True
    form: str = "auto"
    temperature_limit_c: float | None = None
    source: str = ""


def choose_form(device: Device, weight_bits: int, cpu_flags: frozenset[str], arch: str) -> tuple[str, str]:
    """Return the ONNX INT8 form for a device, and the reason.

    ONNX Runtime multiplies u8 by s8 with `vpmaddubsw` on x86 without VNNI; its 16-bit sums saturate
    where weights use all 8 bits, and the result is silently wrong. There, 7-bit weights (`w7a8`)
    are safe as u8s8, and 8-bit weights are written as u8u8, which takes a wider and slower path.
    """
    if device.form != "auto":
        return device.form, f"devices/{device.name}.toml says so"
    if arch not in ("x86_64", "AMD64"):
        return "s8s8", f"{arch} multiplies s8 by s8 natively"
    if cpu_flags & {"avx512_vnni", "avx_vnni"}:
        return "u8s8", "x86 with VNNI multiplies u8 by s8 without saturation"
    if weight_bits <= 7:
        return "u8s8", "x86 without VNNI: u8 by 7-bit s8 cannot saturate"
    return "u8u8", "x86 without VNNI would saturate u8 by 8-bit s8; w7a8 is the faster scheme here"


def folders() -> list[Path]:
    """Return where descriptions are looked for: the user's own folder first, then the package's."""
    package = Path(str(files("qaedge"))) / "devices"
    if not package.is_dir():  # a checkout: the folder stands beside the package
        package = package.parent.parent / "devices"
    return [Path("devices"), package]


def known_devices() -> dict[str, Path]:
    """Return the file of each known device, by name; a user's file hides the package's."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.toml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def load_device(name: str) -> Device:
    """Read a device's description; raise UnknownDevice or InvalidFile."""
    known = known_devices()
    if name not in known:
        raise UnknownDevice(
            f"No device {name!r}.",
            f"Known: {', '.join(known)} (from ./devices and the package).\nAdd devices/{name}.toml.",
        )
    device = decode_toml(known[name], Device)
    if device.form not in FORMS:
        raise InvalidFile(known[name], "form", f"one of {', '.join(FORMS)}", repr(device.form))
    if device.name != name:
        raise InvalidFile(known[name], "name", repr(name), repr(device.name), "A device is named like its file.")
    if device.threads < 1:
        raise InvalidFile(known[name], "threads", "a number from 1", str(device.threads))
    if not set(device.runtimes) & set(RUNTIMES):
        found = ", ".join(map(repr, device.runtimes)) or "none"
        raise InvalidFile(known[name], "runtimes", f"at least one that this version has ({', '.join(RUNTIMES)})", found)
    if device.cores is not None and device.cores < 1:
        raise InvalidFile(known[name], "cores", "a number from 1", str(device.cores))
    if device.cores is not None and device.threads > device.cores:
        raise InvalidFile(known[name], "threads", f"no more than its {device.cores} cores", str(device.threads))
    if device.memory is not None:
        _check_memory(known[name], device.memory)
    return device


def _check_memory(path: Path, text: str) -> None:
    try:
        size = parse_bytes(text)
    except UsageError as error:
        raise InvalidFile(path, "memory", "a quantity with a unit", repr(text), error.hint) from error
    if size <= 0:
        raise InvalidFile(path, "memory", "more than 0", repr(text))
