"""The doctor: looks at a device, and says of each thing whether measurements there would be true, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from qaedge.device import Device
from qaedge.errors import (
    DeviceLost,
    HostKeyChanged,
    HostKeyUnknown,
    LoginRefused,
    MissingFile,
    QaedgeError,
    Unreachable,
)
from qaedge.hil import frames, pins
from qaedge.hil.agent import AgentSession, left, owner
from qaedge.hil.board_model import DOT_PRODUCT, FP16, MODELS, computes, description_of
from qaedge.hil.connect import target_for
from qaedge.hil.target import Target
from qaedge.runtime import RUNTIMES
from qaedge.units import format_bytes, parse_bytes

OK, NOTE, BAD = "ok", "note", "bad"
#: Where each warning is explained; each name is a heading there.
PAGE = "docs/boards.md"
#: Disk and memory below which there is a note, and below which nothing can be measured [bytes].
_DISK, _MEMORY = (200 << 20, 32 << 20), (256 << 20, 64 << 20)
_PI_BITS = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: what was found, the verdict, what to do, and the heading that explains it."""

    what: str
    found: str
    verdict: str = OK
    advice: str = ""
    see: str = ""


class Seen(msgspec.Struct, frozen=True):
    """Everything that a device tells of itself."""

    hello: frames.Hello
    board: frames.Board
    readings: Mapping[str, Any]


def examine(device: Device, target: Target | None = None) -> list[Finding]:
    """Look at a device, as far as one gets; where one gets no further, the last finding says why."""
    findings: list[Finding] = []
    try:
        reached = target or target_for(device)
    except QaedgeError as error:
        return [_refusal(error)]
    if device.connection == "ssh":
        findings.append(Finding("connection", f"to {_where(device)}, by its key"))
        findings.append(_key(device))
    else:
        fake = device.connection == "fake"
        findings.append(Finding("connection", "none, it is a fake board" if fake else "this machine"))
    # What the description says of it is judged here, row by row, and not by the session.
    stranger = msgspec.structs.replace(device, arch="any", threads=1)
    try:
        with AgentSession(stranger, reached, lock=False, runtime=False) as session:
            board = session.ask({"type": "board", "device": device.name}, frames.Board)
            told = session.ask({"type": "conditions"}, frames.Conditions)
            seen = Seen(session.hello, board, frames.cleaned(told.readings))
    except QaedgeError as error:
        lost = isinstance(error, DeviceLost | Unreachable)
        see = "Not reachable" if lost else "The agent does not start"
        return [*findings, Finding("agent", error.message, BAD, error.hint, see)]
    return [*findings, *judge(device, seen)]


def judge(device: Device, seen: Seen) -> Iterator[Finding]:
    """Yield a finding for each thing that a device told."""
    yield from _software(device, seen)
    yield from _description(device, seen)
    yield _governor(device, seen.readings)
    yield _clock(device, seen.readings)
    yield _temperature(device, seen.readings)
    yield _throttling(seen.readings)
    if "power_mode" in seen.readings or "nvpmodel" in seen.readings.get("errors", {}):
        yield _power_mode(seen.readings)
    memory = seen.readings.get("memory_available_bytes")
    yield _space("free memory", memory, _MEMORY, "End what else runs there.", "Little memory")
    disk = "Free some, or let TMPDIR there name a folder on a larger disk."
    yield _space(f"free disk, {frames.clean(seen.board.tmp)}", seen.board.tmp_free_bytes, _DISK, disk, "Little disk")
    yield _load(seen)
    yield _others(device, seen.board)


def _refusal(error: QaedgeError) -> Finding:
    kinds = {
        HostKeyUnknown: "Key not known",
        HostKeyChanged: "Key changed",
        LoginRefused: "Login refused",
        MissingFile: "Login refused",
    }
    see = next((heading for kind, heading in kinds.items() if isinstance(error, kind)), "Not reachable")
    return Finding("connection", error.message, BAD, error.hint, see)


def _where(device: Device) -> str:
    from qaedge.hil.address import address_of

    return str(address_of(device))


def _key(device: Device) -> Finding:
    pinned = device.ssh.host_key if device.ssh is not None else ""
    return Finding("host key", f"pinned, {pinned}" if pinned else "as known_hosts has it")


def _software(device: Device, seen: Seen) -> Iterator[Finding]:
    hello, installed = seen.hello, seen.board.installed
    yield Finding("Python", f"{hello.python}, {hello.executable}")
    wanted = [name for name in device.runtimes if name in RUNTIMES]
    setup = f"qaedge device setup {device.name}"
    by_hand = device.connection != "ssh" or bool(device.python)
    there = [name for name in wanted if name in hello.runtimes]
    for name in wanted:
        if name in hello.runtimes:
            yield _version(name, hello, installed, setup, by_hand)
            continue
        reason = frames.clean(hello.runtime_failures.get(name, "unknown here"))
        advice = f"Install it for {hello.executable}." if by_hand else f"Run: {setup}"
        yield Finding(name, f"not there: {reason[:200]}", NOTE if there else BAD, advice, "No runtime")
    if there[:1] == ["tensorrt"]:
        found = "those that qaedge exports have zero points, and do not run with tensorrt"
        advice = "Measure float files with it, and INT8 files with --runtime onnxruntime."
        yield Finding("INT8 files", found, NOTE, advice, "INT8 files and TensorRT")


def _version(name: str, hello: frames.Hello, installed: Mapping[str, str], setup: str, by_hand: bool) -> Finding:
    version = hello.runtimes[name]
    found = tuple(int(part) for part in hello.python.split(".")[:2] if part.isdigit())
    pinned = pins.pinned(name, found)
    if by_hand or pinned in (None, version):
        return Finding(name, version)
    whose = "" if installed else ", not installed by qaedge"
    return Finding(name, f"{version}{whose}; {pinned} is pinned", NOTE, f"Run: {setup}", "Another version")


def _description(device: Device, seen: Seen) -> Iterator[Finding]:
    hello = seen.hello
    correct = "Is it the right machine? If so, correct the device's description."
    model = f"{hello.arch}, {hello.board or hello.cpu_model or 'model not told'}"
    own, said = device.base or device.name, description_of(hello.board)
    if device.arch not in ("any", hello.arch):
        yield Finding("board", f"{model}; described as {device.arch}", BAD, correct, _ANOTHER)
    elif said and own in MODELS.values() and own != said:
        yield Finding("board", f"{model}, which is {said}; described as {own}", BAD, correct, _ANOTHER)
    else:
        yield Finding("board", model)
    for what, described, wanted in (("dot product", device.dot_product, DOT_PRODUCT), ("fp16", device.fp16, FP16)):
        has = computes(wanted, hello.arch, hello.cpu_flags)
        if has is None or described is None:
            continue
        if has == described:
            yield Finding(what, "yes" if has else "no")
        else:
            found = f"the processor has {'it' if has else 'none'}; described with {'it' if described else 'none'}"
            yield Finding(what, found, NOTE, correct, _ANOTHER)
    if device.threads > hello.cores:
        found = f"{hello.cores}; described with {device.threads} threads"
        yield Finding("cores", found, BAD, f"Set threads to at most {hello.cores}.", _ANOTHER)
    elif device.cores not in (None, hello.cores):
        found = f"{hello.cores}; described with {device.cores}"
        yield Finding("cores", found, NOTE, correct, _ANOTHER)
    else:
        yield Finding("cores", str(hello.cores))
    if hello.memory_bytes is None:
        return
    # Firmware and GPU keep some for themselves.
    if device.memory is not None and not 0.6 < hello.memory_bytes / parse_bytes(device.memory) < 1.1:
        found = f"{format_bytes(hello.memory_bytes)}; described with {device.memory}"
        yield Finding("memory", found, NOTE, correct, _ANOTHER)
    else:
        yield Finding("memory", format_bytes(hello.memory_bytes))


def _governor(device: Device, readings: Mapping[str, Any]) -> Finding:
    governors = {str(name): str(value) for name, value in readings.get("governor", {}).items()}
    if not governors:
        return Finding("governor", "the kernel offers no choice")
    values = sorted(set(governors.values()))
    found = ", ".join(values)
    tune = f"Run: qaedge device tune {device.name}"
    wanted = device.governor or "performance"
    if values == [wanted]:
        return Finding("governor", found)
    if device.governor and "powersave" in values:
        return Finding("governor", f"{found}; {wanted} is wanted", BAD, tune, "Governor")
    return Finding("governor", f"{found}; {wanted} is steadier", NOTE, tune, "Governor")


def _clock(device: Device, readings: Mapping[str, Any]) -> Finding:
    limits = [str(text).partition("-")[2] for text in readings.get("clock_limits_khz", {}).values()]
    highest = max((int(text) // 1000 for text in limits if text.isdigit()), default=None)
    now = max((int(value) // 1000 for value in readings.get("clock_khz", {}).values()), default=None)
    if highest is None:
        return Finding("clock", "not told")
    found = f"at most {highest} MHz" + (f", now {now} MHz" if now is not None else "")
    if device.clock_mhz is not None and highest < 0.97 * device.clock_mhz:
        advice = f"Something keeps it low: look at scaling_max_freq and at the power mode there. {_SLOWER}"
        return Finding("clock", f"{found}; described with {device.clock_mhz} MHz", BAD, advice, "Clock held down")
    if device.clock_mhz is not None and highest > 1.03 * device.clock_mhz:
        advice = f"Is it overclocked, or another board? If it stays so, correct the description. {_SLOWER}"
        above = f"{found}; described with {device.clock_mhz} MHz"
        return Finding("clock", above, NOTE, advice, "Clock above the description")
    return Finding("clock", found)


def _temperature(device: Device, readings: Mapping[str, Any]) -> Finding:
    # The agent says by which one it cools: a battery's or a radio's, too, may be the hottest of all.
    if "chip_c" not in readings:
        return Finding("temperature", "not told")
    highest = float(readings["chip_c"])
    names = [str(name) for name, value in readings.get("temperature_c", {}).items() if float(value) == highest]
    found = f"{highest:.1f} °C" + (f" ({names[0]})" if names else "")
    if highest >= device.temperature_pause_c:
        limit = f"; measuring stops at {device.temperature_pause_c:g} °C"
        return Finding("temperature", found + limit, BAD, "Let it cool, and give it a heat sink or a fan.", "Too hot")
    if highest > device.temperature_start_c:
        limit = f"; measuring starts at {device.temperature_start_c:g} °C"
        return Finding("temperature", found + limit, NOTE, "Measuring waits until it has cooled.", "Too hot")
    return Finding("temperature", found)


def _throttling(readings: Mapping[str, Any]) -> Finding:
    bits = int(readings.get("throttle_bits", 0))
    now = [name for bit, name in _PI_BITS.items() if bits >> bit & 1]
    since = [name for bit, name in _PI_BITS.items() if bits >> (bit + 16) & 1]
    supply = "Use the supply made for that board, and a short cable." if "under-voltage" in (*now, *since) else ""
    cool = "Cool it." if set(now + since) - {"under-voltage"} else ""
    advice = " ".join(filter(None, (supply, cool)))
    if now:
        return Finding("throttling", f"now: {', '.join(now)}", BAD, advice, "Throttled")
    if since:
        return Finding("throttling", f"since its start: {', '.join(since)}", NOTE, advice, "Throttled")
    events = {
        name: int(n) for name, n in readings.get("throttle_counts", {}).items() if "oc" in name.rpartition("/")[2]
    }
    if any(events.values()):
        return Finding(
            "throttling",
            f"{sum(events.values())} over-current events since its start",
            NOTE,
            "Take a lower power mode, or a stronger supply.",
            "Throttled",
        )
    told = "throttle_bits" in readings or "throttle_counts" in readings
    return Finding("throttling", "none now" if told else "not told")


def _power_mode(readings: Mapping[str, Any]) -> Finding:
    if "power_mode" in readings:
        return Finding("power mode", str(readings["power_mode"]))
    why = str(readings["errors"]["nvpmodel"])
    return Finding("power mode", f"nvpmodel: {why}", NOTE, "Run there: sudo nvpmodel -q", "Power mode not told")


def _space(what: str, free: int | None, limits: tuple[int, int], advice: str, see: str) -> Finding:
    if free is None:
        return Finding(what, "not told")
    verdict = BAD if free < limits[1] else NOTE if free < limits[0] else OK
    return (
        Finding(what, format_bytes(free)) if verdict == OK else Finding(what, format_bytes(free), verdict, advice, see)
    )


def _load(seen: Seen) -> Finding:
    load = seen.readings.get("load_1min")
    if load is None:
        return Finding("load", "not told")
    found = f"{load:.2f} on {seen.hello.cores} core{'s' if seen.hello.cores > 1 else ''}"
    advice = "End what else runs there (top shows it), or wait."
    # Our own coming has its share in that minute.
    if load > 1.0 + seen.hello.cores:
        return Finding("load", found, BAD, advice, "Busy board")
    return (
        Finding("load", found, NOTE, advice, "Busy board")
        if load > max(1.0, seen.hello.cores / 4)
        else Finding("load", found)
    )


def _others(device: Device, board: frames.Board) -> Finding:
    holder = {frames.clean(key): frames.clean(text) for key, text in board.holder.items()}
    lease = {frames.clean(key): frames.clean(text) for key, text in board.lease.items()}
    mine = bool(lease) and lease.get("owner") == owner()
    if holder:
        who = holder.get("holder") or holder.get("user", "somebody")
        return Finding("in use", f"{who} is measuring", NOTE, "Wait, with --wait.", "In use")
    if mine:
        return Finding("in use", f"locked by you{left(lease)}")
    if lease:
        return Finding(
            "in use",
            f"{lease.get('owner', 'somebody')} has it for himself{left(lease)}",
            NOTE,
            f"Ask, or run: qaedge device unlock {device.name} --force",
            "In use",
        )
    return Finding("in use", "no")


_ANOTHER = "Another board than described"
_SLOWER = "Figures would be true of this clock only."
#: Every heading that a finding may point to.
HEADINGS = (
    "Not reachable",
    "Key not known",
    "Key changed",
    "Login refused",
    "The agent does not start",
    "No runtime",
    "Another version",
    "INT8 files and TensorRT",
    "Another board than described",
    "Governor",
    "Clock held down",
    "Clock above the description",
    "Too hot",
    "Throttled",
    "Power mode not told",
    "Little memory",
    "Little disk",
    "Busy board",
    "In use",
)
