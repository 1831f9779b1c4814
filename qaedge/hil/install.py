"""Setting a device up: the pinned runtimes, in a private environment there, from its own index or sent by us."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import msgspec

from qaedge.device import Device
from qaedge.errors import DeviceBusy, DiskFull, SetupFailed, UsageError
from qaedge.hil import frames, pins
from qaedge.hil.agent import AgentSession
from qaedge.hil.connect import target_for
from qaedge.hil.target import Target
from qaedge.hil.wheels import Wheel, fetch
from qaedge.progress import Step
from qaedge.runtime import RUNTIMES
from qaedge.units import format_bytes

#: What an environment may take where nobody has counted it yet [bytes].
_GUESS = 400 << 20
#: Compiled files come on top of what the wheels hold, and something should stay free.
_COMPILED, _SPARE = 1.4, 32 << 20
_STEPS = 5
#: How long a device that installs may be silent before it is lost [s].
_PATIENCE_S = 60.0


class SetUp(msgspec.Struct, frozen=True):
    """What a device has now: `done` is False where it was all there before."""

    device: str
    done: bool
    way: str
    python: str
    folder: str
    versions: dict[str, str]


def wanted_runtimes(device: Device, names: Sequence[str]) -> tuple[str, ...]:
    """Return the runtimes to install: those that were named, else those of the description; raise UsageError."""
    unknown = [name for name in names if name not in RUNTIMES]
    if unknown:
        raise UsageError(f"No runtime {unknown[0]!r}.", f"Known: {', '.join(RUNTIMES)}.")
    return tuple(dict.fromkeys(names)) or tuple(name for name in device.runtimes if name in RUNTIMES)


def set_up(
    device: Device,
    runtimes: Sequence[str] = (),
    offline: bool = False,
    wait_s: float = 0.0,
    target: Target | None = None,
) -> Iterator[Step]:
    """Install what is missing on a device; the last step's result is SetUp.

    Args:
        device: where.
        runtimes: which; empty: those of its description.
        offline: do not let the device ask its own index.
        wait_s: how long to wait where somebody measures there.
        target: how to get there; without it as the description says.

    Raises:
        SetupFailed: there is nothing for that device, or it did not work; what was there before still is.
        DiskFull, and what a session raises.
    """
    wanted = wanted_runtimes(device, runtimes)
    if device.python:
        raise UsageError(
            f"The description of {device.name} names a Python of its own, {device.python}.",
            f"Install the runtimes there yourself, or take that line out and run: qaedge device setup {device.name}",
        )
    yield Step(0, _STEPS, f"connecting to {device.name}")
    # An SD card that writes a thousand files keeps everybody waiting, the agent's beat, too.
    patient = msgspec.structs.replace(device, patience_s=max(device.patience_s, _PATIENCE_S))
    with AgentSession(patient, target or target_for(device), wait_s=wait_s, runtime=False) as session:
        hello = session.hello
        found = session.ask({"type": "board", "device": device.name}, frames.Board)
        board = pins.board_of(
            device.name, hello.python, hello.arch, frames.clean(found.libc), frames.clean(found.libc_version)
        )
        needed = pins.requirements(wanted, board)
        key = _key(needed, wanted, board)
        if found.installed.get("key") == key and all(name in hello.runtimes for name in wanted):
            versions = {frames.clean(k): frames.clean(v) for k, v in found.installed.items() if k != "key"}
            folder = f"{frames.clean(found.home)}/.qaedge/venv"
            yield Step(_STEPS, _STEPS, "all there", SetUp(device.name, False, "", hello.python, folder, versions))
            return
        order: dict[str, Any] = {
            "type": "install",
            "key": key,
            "requirements": needed,
            "imports": pins.imports(wanted),
            "system_site_packages": "tensorrt" in wanted,
        }
        yield Step(1, _STEPS, "fetching pip for it")
        pip = fetch((pins.pip_requirement(board.python),), board)[0]
        done: frames.Installed | None = None
        way = "from its own index"
        if needed and not offline and found.route:
            done = yield from _try_online(session, order, pip)
        if done is None:
            way = "from this machine"
            yield Step(2, _STEPS, f"fetching {', '.join(needed) or 'nothing'} for {hello.arch}, Python {hello.python}")
            wheels = fetch(needed, board) if needed else []
            yield from _send(session, [pip, *wheels])
            order |= _files(pip, wheels) | {"needed_bytes": _needed([pip, *wheels])}
            done = yield from _install(session, order)
    versions = {frames.clean(name): frames.clean(text) for name, text in done.versions.items()}
    result = SetUp(device.name, True, way, hello.python, frames.clean(done.folder), versions)
    yield Step(_STEPS, _STEPS, "installed", result)


def _try_online(
    session: AgentSession, order: dict[str, Any], pip: Wheel
) -> Generator[Step, None, frames.Installed | None]:
    """Let the device's pip ask its own index; None where it gets nothing from there."""
    yield from _send(session, [pip])
    try:
        return (yield from _install(session, order | _files(pip, []) | {"needed_bytes": _GUESS}))
    except SetupFailed as error:
        why = error.hint.splitlines()[-1] if error.hint else error.message
        yield Step(2, _STEPS, f"it got nothing from its own index ({why[:200]}), so this machine sends it")
        return None


def _send(session: AgentSession, wheels: Sequence[Wheel]) -> Generator[Step, None, None]:
    missing = session.missing(wheel.sha256 for wheel in wheels)
    for wheel in wheels:
        if wheel.sha256 in missing:
            size = wheel.path.stat().st_size
            yield Step(3, _STEPS, f"sending {wheel.name} ({format_bytes(size)})")
            session.put({wheel.sha256: wheel.path.read_bytes()})


def _install(session: AgentSession, order: dict[str, Any]) -> Generator[Step, None, frames.Installed]:
    name = session.device.name
    yield Step(4, _STEPS, "installing")
    for message in session.follow(order, frames.Progress, frames.Installed, frames.NotInstalled):
        if isinstance(message, frames.Progress):
            text = frames.clean(message.text)
            # What went wrong comes again with the answer; a first try without internet is no error.
            if not text.startswith(("ERROR", "WARNING")):
                yield Step(4, _STEPS, text[:200])
        elif isinstance(message, frames.Installed):
            return message
        elif isinstance(message, frames.NotInstalled):
            raise _failure(name, message)
    raise AssertionError("follow ends with an answer")


def _failure(name: str, message: frames.NotInstalled) -> Exception:
    lines = [f"It says: {frames.clean(line)[:300]}" for line in message.text.splitlines()[-5:]]
    if message.stage == "disk":
        return DiskFull(f"No space on {name}: {frames.clean(message.text)}.", "Free some there; nothing was changed.")
    if message.stage == "busy":
        return DeviceBusy(f"Somebody else is setting {name} up.", "Wait until that has ended.")
    what, advice = _STAGES.get(message.stage, ("The installation", ""))
    return SetupFailed(f"{what} failed on {name}; what was there before still is.", "\n".join([advice, *lines]).strip())


def _files(pip: Wheel, wheels: Sequence[Wheel]) -> dict[str, Any]:
    return {
        "pip": {"name": pip.name, "sha256": pip.sha256},
        "wheels": [{"name": wheel.name, "sha256": wheel.sha256} for wheel in wheels],
    }


def _needed(wheels: Sequence[Wheel]) -> int:
    return round(_COMPILED * sum(wheel.unpacked_bytes for wheel in wheels)) + _SPARE


def _key(needed: Sequence[str], wanted: Sequence[str], board: pins.Board) -> str:
    return hashlib.sha256(msgspec.json.encode((needed, sorted(wanted), board))).hexdigest()[:32]


#: Where an installation stopped -> what to call that, and what to do.
_STAGES = {
    "python": (
        "Making an environment",
        "Its Python needs the module venv: on Debian and Ubuntu, sudo apt install python3-venv there.",
    ),
    "pip": ("pip", ""),
    "import": (
        "Importing the runtimes",
        "TensorRT comes with JetPack (sudo apt install python3-libnvinfer there); --runtime onnxruntime leaves it out.",
    ),
}
