"""The script of a fake board: how long files take there, and everything that goes wrong, read from a TOML file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from qaedge.errors import InvalidFile
from qaedge.files import decode_toml

#: What a board does at an event, and where: see docs/boards.md.
ENDS = ("hang", "reboot", "cut", "killed", "error")
LIES = (
    "nan",
    "negative",
    "zero",
    "absurd",
    "text",
    "wrong id",
    "unknown doubt",
    "no samples",
    "twice",
    "not measured",
    "unknown type",
    "raw frame",
    "huge frame",
    "not json",
)
_AT = {
    **dict.fromkeys(ENDS, ("greeting", "begin", "upload", "turn", "end")),
    **dict.fromkeys(LIES, ("turn",)),
    "login text": ("greeting",),
    "other protocol": ("greeting",),
    "busy": ("begin",),
    "damaged": ("upload",),
    "no done": ("end",),
}


class Noise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How times shake.

    Attributes:
        sigma: the spread of a sample, as a share of it.
        drift, drift_period_s: the board is up to this share slower and faster, in turns that last so long [s].
        burst_every_s, burst_s, burst_factor: so often another process takes the core for so long [s], and
            what runs then takes so many times as long; 0: never.
    """

    sigma: float = 0.004
    drift: float = 0.0
    drift_period_s: float = 600.0
    burst_every_s: float = 0.0
    burst_s: float = 0.05
    burst_factor: float = 2.0


class Heat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How warm the board is: it goes towards `ambient_c`, and `rise_c` above that while it works.

    Attributes:
        ambient_c, rise_c: in degrees Celsius.
        time_s: how long it takes for two thirds of the way [s].
        limit_c: from here on it throttles; None: never.
        factor: how many times as long everything takes then.
    """

    ambient_c: float = 40.0
    rise_c: float = 15.0
    time_s: float = 120.0
    limit_c: float | None = None
    factor: float = 2.0


class Throttle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A time of the board's clock in which everything takes `factor` times as long [s].

    Attributes:
        from_s, to_s: from when to when, since the board was made.
        factor: how many times as long.
        bits: what the firmware says meanwhile, as a Raspberry Pi's: 1 under-voltage, 4 throttled; 0: nothing.
        temperature_c: what the sensor says meanwhile; None: what the heat makes.
    """

    from_s: float
    to_s: float
    factor: float = 2.0
    bits: int = 4
    temperature_c: float | None = None


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file, by the start of its hash, or by when the board first heard of it (0 is the first).

    Attributes:
        sha256, order: which one.
        latency_s: how long a run of it takes; None: as its size says.
        does: run, crash, hang, refuse (the runtime does not know it), or memory (there is too little).
        times: how often it does that before it runs; 0: always.
    """

    sha256: str = ""
    order: int | None = None
    latency_s: float | None = None
    does: Literal["run", "crash", "hang", "refuse", "memory"] = "run"
    times: int = 0


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that happens once, as soon as all that is said here holds.

    Attributes:
        what: one of ENDS or LIES; or busy, damaged (a file arrives so), no done (the agent ends in its place),
            login text, other protocol.
        at: where: at a greeting, a begin, an upload, a candidate's turn in a round, or the end of a chunk.
        after: how many of those come before it.
        at_s: not before this time of the board's clock.
        chunk, round, turn: only there; the first chunk is 0, the first round 1, the first turn in a round 0.
        sha256: only at this file, by the start of its hash.
        away: how many connections are refused afterwards: a board that starts needs a while.
        held: how many begins find the lock taken afterwards, by the agent that was cut off.
        text: what an error or a login says, or who is busy there.
    """

    what: str
    at: Literal["greeting", "begin", "upload", "turn", "end"] = "turn"
    after: int = 0
    at_s: float = 0.0
    chunk: int | None = None
    round: int | None = None
    turn: int | None = None
    sha256: str = ""
    away: int = 0
    held: int = 0
    text: str = "as the script says"


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a fake board is like; the default is a calm one.

    Attributes:
        seed: of all that is random.
        base_s, per_byte_s: a run of a file takes the one, and the other for each byte of it [s].
        load_s, overhead_s, reference_s: loading a file, a call that does nothing, a run of the reference model [s].
        cores, memory_bytes, disk_bytes: what it has.
        speed: how many times faster its clock goes than ours; 0: nobody waits for it.
        noise, heat: see there.
        throttle, file, event: see there; of several that fit, the first counts.
    """

    seed: int = 0
    base_s: float = 2e-4
    per_byte_s: float = 2e-8
    load_s: float = 5e-3
    overhead_s: float = 1e-5
    reference_s: float = 1e-3
    cores: int = 4
    memory_bytes: int = 4 << 30
    disk_bytes: int = 8 << 30
    speed: float = 0.0
    noise: Noise = Noise()
    heat: Heat = Heat()
    throttle: tuple[Throttle, ...] = ()
    file: tuple[File, ...] = ()
    event: tuple[Event, ...] = ()


def read_script(path: Path) -> Script:
    """Read a script; raise MissingFile or InvalidFile."""
    script = decode_toml(path, Script, "It is what `script` in the fake board's description names.")
    for key, expected, found in _problems(script):
        raise InvalidFile(path, key, expected, found)
    return script


def _problems(script: Script) -> Iterator[tuple[str, str, str]]:
    """Yield key, what is expected there and what was found, for each value that makes no board."""
    for key in ("base_s", "load_s", "overhead_s", "reference_s", "cores"):
        yield from _wrong(key, getattr(script, key), above=True)
    for key in ("per_byte_s", "memory_bytes", "disk_bytes", "speed"):
        yield from _wrong(key, getattr(script, key))
    noise, heat = script.noise, script.heat
    for key in ("sigma", "drift", "burst_every_s", "burst_s"):
        yield from _wrong(f"noise.{key}", getattr(noise, key))
    for key in ("drift_period_s", "burst_factor"):
        yield from _wrong(f"noise.{key}", getattr(noise, key), above=True)
    if noise.sigma > 0.5 or noise.drift > 0.5:
        yield "noise", "a sigma and a drift of at most 0.5", f"{noise.sigma:g} and {noise.drift:g}"
    yield from _wrong("heat.time_s", heat.time_s, above=True)
    yield from _wrong("heat.factor", heat.factor, above=True)
    if heat.limit_c is not None and heat.ambient_c >= heat.limit_c:
        yield "heat.limit_c", "more than ambient_c, or it never cools", f"{heat.limit_c:g}"
    for number, window in enumerate(script.throttle):
        yield from _wrong(f"throttle[{number}].factor", window.factor, above=True)
        if not 0 <= window.from_s < window.to_s:
            yield f"throttle[{number}].to_s", "more than from_s, and both from 0", f"{window.to_s:g}"
        if not 0 <= window.bits < 16:
            yield f"throttle[{number}].bits", "bits below 16: what holds now", str(window.bits)
    for number, file in enumerate(script.file):
        if not file.sha256 and file.order is None:
            yield f"file[{number}]", "a sha256 or an order", "neither"
        if file.latency_s is not None:
            yield from _wrong(f"file[{number}].latency_s", file.latency_s, above=True)
    for number, event in enumerate(script.event):
        if event.what not in _AT:
            yield f"event[{number}].what", f"one of {', '.join(_AT)}", repr(event.what)
        elif event.at not in _AT[event.what]:
            yield f"event[{number}].at", f"one of {', '.join(_AT[event.what])} for {event.what!r}", repr(event.at)


def _wrong(key: str, value: float, above: bool = False) -> Iterator[tuple[str, str, str]]:
    if not math.isfinite(value) or value < 0 or (above and value == 0):
        yield key, "a number above 0" if above else "a number from 0", f"{value:g}"
