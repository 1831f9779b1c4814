"""A device: a board's facts, read from `devices/NAME.toml`; an address only in a user's own file, a secret never."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from qaedge.errors import InvalidFile, UnknownDevice, UsageError
from qaedge.files import convert_toml, decode_toml
from qaedge.runtime import BOTH, FORMATS, RUNTIMES, chosen
from qaedge.units import parse_bytes

#: How a device is reached: this machine, a board over SSH, or one that follows a script.
CONNECTIONS = ("local", "ssh", "fake")
#: How INT8 activations and weights are stored in ONNX; the integers mean the same in each.
FORMS = ("auto", "u8s8", "s8s8", "u8u8")


class Ssh(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a board is, in a user's own file; what is empty, `~/.ssh/config` may say.

    Attributes:
        host: name or address.
        user: empty: ssh's own choice.
        port: 0: ssh's own choice.
        host_key: the pinned fingerprint, "SHA256:..."; empty: `known_hosts` must hold the key.
        identity_file: the private key's file; only a path, never the key.
        jump: [user@]host[:port] to go through.
        agent: whether keys of a running ssh-agent are offered, too.
    """

    host: str = ""
    user: str = ""
    port: int = 0
    host_key: str = ""
    identity_file: str = ""
    jump: str = ""
    agent: bool = False


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a board before anyone connects to it.

    Attributes:
        base: the description that this one changes; of the same name is the package's own.
        connection: one of CONNECTIONS.
        arch: as the machine says; "any" means whatever it says. Held against it in each session.
        cpu, clock_mhz, dot_product, fp16: the processor's name, highest clock, whether it
            multiplies INT8 by dot product, and computes in half precision; None: not known.
        runtimes: what makes sense there, the preferred one first.
        providers: ONNX Runtime's execution providers, the preferred one first; empty: the processor.
        tensorrt_fp16: whether TensorRT may compute layers in half precision where that is faster.
        tflite_xnnpack: whether TFLite leaves to XNNPACK what that can run, as it does of its own.
        threads, pin: how many, and whether they are kept on cores of their own.
        form: how INT8 files for it are written; "auto" asks its processor (see `choose_form`).
        governor: what measuring wants, such as "performance"; empty: no wish.
        temperature_start_c, temperature_pause_c: a chunk starts at or below the one, and is left
            for cooling at the other (R14).
        temperature_limit_c: where its firmware cuts the clocks.
        python: the Python there that has the runtimes; empty: the one that `device setup` makes.
        patience_s: how long it may be silent before it is lost [s]; 0: three missed beats, 6 s. An
            emulated board, whose clock lags behind, needs more.
        script: for a fake board, the file that it follows.
        sources: where the facts are from.
        ssh: where it is.
    """

    name: str
    description: str
    base: str = ""
    connection: str = "local"
    arch: str = "any"
    cpu: str = ""
    cores: int | None = None
    clock_mhz: int | None = None
    memory: str | None = None
    dot_product: bool | None = None
    fp16: bool | None = None
    runtimes: tuple[str, ...] = ("onnxruntime",)
    providers: tuple[str, ...] = ()
    tensorrt_fp16: bool = True
    tflite_xnnpack: bool = True
    threads: int = 1
    pin: bool = True
    form: str = "auto"
    governor: str = ""
    temperature_start_c: float = 65.0
    temperature_pause_c: float = 75.0
    temperature_limit_c: float | None = None
    python: str = ""
    patience_s: float = 0.0
    script: str = ""
    sources: tuple[str, ...] = ()
    ssh: Ssh | None = None


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
    """Return where descriptions are looked for: the user's own folder first, then the package's.

    The user's is `./devices`, or in a clone of qaedge itself `~/.config/qaedge/devices`.
    """
    package = Path(str(files("qaedge"))) / "devices"
    if not package.is_dir():  # a checkout: the folder stands beside the package
        package = package.parent.parent / "devices"
    own = Path("devices")
    if own.is_dir() and own.resolve() == package.resolve():  # in a clone: what comes with qaedge is not the user's
        own = Path.home() / ".config" / "qaedge" / "devices"
    return [own, package]


def known_devices() -> dict[str, Path]:
    """Return the file of each known device, by name; a user's file hides the package's."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.toml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def load_device(name: str) -> Device:
    """Read a device's description, over the one that it is based on; raise UnknownDevice, UsageError or InvalidFile."""
    known = known_devices()
    if name not in known and "," in name:
        raise UsageError(
            f"{name!r} names several devices, and this works on one at a time.",
            "Name one of them. Only `qaedge profile` lets several boards share the work.",
        )
    if name not in known:
        raise UnknownDevice(
            f"No device {name!r}.",
            f"Known: {', '.join(known)} (from ./devices and the package).\n"
            f"Add devices/{name}.toml (qaedge device add {name} USER@HOST).",
        )
    path = known[name]
    device = convert_toml(_merged(path, name), path, Device)
    _check(path, device, name)
    return device


def load_devices(names: str) -> tuple[Device, ...]:
    """Read the descriptions that "NAME,NAME..." names; raise UsageError for a name given twice."""
    split = [name.strip() for name in names.split(",")]
    twice = sorted({name for name in split if split.count(name) > 1})
    if twice:
        raise UsageError(f"{', '.join(twice)} {'is' if len(twice) == 1 else 'are'} named twice.")
    return tuple(load_device(name) for name in split)


def table_name(devices: tuple[Device, ...]) -> str:
    """Return whose latency table boards share: a single one's own, several ones' common base.

    Raises UsageError where several have no base in common.
    """
    if len(devices) == 1:
        return devices[0].name
    bases = {device.base or device.name for device in devices}
    if len(bases) > 1:
        raise UsageError(
            f"{', '.join(device.name for device in devices)} are based on different descriptions: "
            f"{', '.join(sorted(bases))}.",
            "Boards that share a table are of one kind: give each the same `base` in its file.",
        )
    return bases.pop()


def with_runtime(device: Device, name: str) -> Device:
    """Return a device that measures with this runtime alone, or with those of a format, or of both formats.

    It is unchanged for an empty name. Raises UsageError for one that is not known.
    """
    if not name:
        return device
    runtimes = chosen(name, device.runtimes)
    if not runtimes:
        raise UsageError(
            f"No runtime {name!r}.", f"Known: {', '.join(RUNTIMES)}; or a format: {', '.join(FORMATS)}, {BOTH}."
        )
    return msgspec.structs.replace(device, runtimes=runtimes)


def is_own(path: Path) -> bool:
    """Whether a description is the user's own, and not one that comes with qaedge."""
    return path.parent == folders()[0]


def _merged(path: Path, name: str) -> dict[str, Any]:
    """Return what a description holds, laid over what its base holds."""
    own = decode_toml(path, dict[str, Any])
    base = own.get("base", "")
    if not base:
        return own
    below = folders()[-1] / f"{base}.toml"
    if not isinstance(base, str) or not below.exists():
        known = ", ".join(sorted(file.stem for file in folders()[-1].glob("*.toml")))
        raise InvalidFile(path, "base", f"a description that comes with qaedge ({known})", repr(base))
    return {**decode_toml(below, dict[str, Any]), "name": name, **own}


def _check(path: Path, device: Device, name: str) -> None:
    if device.form not in FORMS:
        raise InvalidFile(path, "form", f"one of {', '.join(FORMS)}", repr(device.form))
    if device.connection not in CONNECTIONS:
        raise InvalidFile(path, "connection", f"one of {', '.join(CONNECTIONS)}", repr(device.connection))
    if device.name != name:
        raise InvalidFile(path, "name", repr(name), repr(device.name), "A device is named like its file.")
    if device.threads < 1:
        raise InvalidFile(path, "threads", "a number from 1", str(device.threads))
    unknown = [name for name in device.runtimes if name not in RUNTIMES]
    if unknown or not device.runtimes:  # one that is misspelled would never be used, and nobody would know why
        found = ", ".join(map(repr, unknown)) or "none"
        raise InvalidFile(path, "runtimes", f"only what this version has ({', '.join(RUNTIMES)})", found)
    if device.cores is not None and device.cores < 1:
        raise InvalidFile(path, "cores", "a number from 1", str(device.cores))
    if device.clock_mhz is not None and device.clock_mhz < 1:
        raise InvalidFile(path, "clock_mhz", "a number from 1", str(device.clock_mhz))
    if device.cores is not None and device.threads > device.cores:
        raise InvalidFile(path, "threads", f"no more than its {device.cores} cores", str(device.threads))
    if device.memory is not None:
        _check_memory(path, device.memory)
    if not 0 < device.temperature_start_c <= device.temperature_pause_c:
        found = f"{device.temperature_start_c:g} and {device.temperature_pause_c:g}"
        raise InvalidFile(path, "temperature_start_c", "more than 0 and at most temperature_pause_c", found)
    if not 0 <= device.patience_s < 3600:
        raise InvalidFile(path, "patience_s", "a number of seconds, below an hour", str(device.patience_s))
    if device.ssh is not None and device.connection != "ssh":
        raise InvalidFile(path, "connection", "'ssh' where there is a table [ssh]", repr(device.connection))
    if device.ssh is not None and not 0 <= device.ssh.port < 65536:
        raise InvalidFile(path, "ssh.port", "a number from 1 to 65535", str(device.ssh.port))
    key = device.ssh.host_key if device.ssh is not None else ""
    if key and not key.startswith("SHA256:"):
        raise InvalidFile(
            path, "ssh.host_key", "a fingerprint such as 'SHA256:...'", repr(key), "ssh-keygen -lf shows it."
        )


def _check_memory(path: Path, text: str) -> None:
    try:
        size = parse_bytes(text)
    except UsageError as error:
        raise InvalidFile(path, "memory", "a quantity with a unit", repr(text), error.hint) from error
    if size <= 0:
        raise InvalidFile(path, "memory", "more than 0", repr(text))
