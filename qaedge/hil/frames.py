"""Frames of the agent protocol, as the host sees them: every message from a board is checked before it is believed."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeAlias

import msgspec

from qaedge.errors import ProtocolError

PROTOCOL = 2
HEADER = struct.Struct(">IB")  # length of what follows, type
JSON, BYTES = ord("J"), ord("B")
LIMITS = {JSON: 1 << 20, BYTES: 1 << 16}

#: A time on the board [ns]: above 0, and below an hour.
Nanoseconds = Annotated[int, msgspec.Meta(gt=0, lt=3600 * 10**9)]
NanosecondsOrZero = Annotated[int, msgspec.Meta(ge=0, lt=24 * 3600 * 10**9)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=10**12)]
#: What is measured and is no time.
Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e18)]
PositiveOrZero = Annotated[float, msgspec.Meta(ge=0, lt=1e18)]
Size = Annotated[int, msgspec.Meta(ge=0, lt=2**50)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]
Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Reading = dict[Text, bool | int | float | Text | dict[Text, bool | int | float | Text]]


class Hello(msgspec.Struct, frozen=True, tag_field="type", tag="hello"):
    """Who is there: the agent, its Python, the board's facts, the runtimes and their versions."""

    protocol: int
    python: Text
    executable: Text
    system: Text
    pid: Count
    folder: Text
    arch: Text
    cores: Count
    kernel: Text
    runtimes: dict[Text, Text]
    runtime_failures: dict[Text, Text]
    cpu_flags: frozenset[Text] = frozenset()
    cpu_model: Text = ""
    board: Text = ""
    boot_id: Text = ""
    governor: dict[Text, Text] = {}
    clock_limits_khz: dict[Text, Text] = {}
    memory_bytes: Size | None = None
    libc: Text = ""
    bits: Count | None = None
    raspberry: Text = ""
    power_mode: Text = ""
    power_rails: Text = ""
    no_power: Text = ""


class Busy(msgspec.Struct, frozen=True, tag_field="type", tag="busy"):
    """Somebody else holds the board's lock."""

    holder: dict[Text, Text]


class Ready(msgspec.Struct, frozen=True, tag_field="type", tag="ready"):
    """The lock is ours."""


class Heartbeat(msgspec.Struct, frozen=True, tag_field="type", tag="heartbeat"):
    """The agent lives."""


class Missing(msgspec.Struct, frozen=True, tag_field="type", tag="missing"):
    """Files that are not on the board."""

    sha256: list[Hash]


class Stored(msgspec.Struct, frozen=True, tag_field="type", tag="stored"):
    """A file arrived, and its hash is right."""

    sha256: Hash


class Refused(msgspec.Struct, frozen=True, tag_field="type", tag="refused"):
    """A file was not taken: `reason` is hash or disk."""

    sha256: Hash
    reason: Text
    text: Text


class Samples(msgspec.Struct, frozen=True, tag_field="type", tag="samples"):
    """One round of one candidate; a sample is the time of `repeats` runs, a warm-up the time of one.

    Samples are raw; those of a disturbed moment, which do not count, are in `aside_ns`. `scale` is what they are
    multiplied by for the board's drift. A round that is `tainted` does not count, and comes again under its number.
    """

    id: Count
    number: Count
    repeats: Annotated[int, msgspec.Meta(ge=1, le=10**7)]
    warmup_ns: list[NanosecondsOrZero]
    samples_ns: Annotated[list[Nanoseconds], msgspec.Meta(min_length=1)]
    aside_ns: list[Nanoseconds] = []
    scale: Annotated[float, msgspec.Meta(gt=0.5, lt=2.0)] = 1.0
    tainted: list[Text] = []


class Measured(msgspec.Struct, frozen=True, tag_field="type", tag="measured"):
    """A candidate is final: what goes with its rounds.

    Rounds at the places `aside`, among those that are not tainted, do not count either.
    """

    id: Count
    load_ns: Nanoseconds
    first_ns: Nanoseconds
    overhead_ns: NanosecondsOrZero
    warm: bool
    retries: Count
    doubts: list[Text]
    before: Reading
    after: Reading
    cores: list[Count]
    switches: Count | None = None
    waited_ns: NanosecondsOrZero | None = None
    peak_bytes: Size | None = None
    during: Reading = {}
    reference_ns: Positive | None = None
    instructions: Positive | None = None
    cycles: Positive | None = None
    energy: dict[Text, PositiveOrZero] | None = None
    delegate: Text = ""
    aside: list[Count] = []


class Failed(msgspec.Struct, frozen=True, tag_field="type", tag="failed"):
    """A candidate has no measurement: `kind` is crashed, timeout, memory, inputs or failed."""

    id: Count
    kind: Text
    text: Text
    retries: Count


class Round(msgspec.Struct, frozen=True, tag_field="type", tag="round"):
    """A round is over; `left` candidates go on."""

    number: Count
    of: Count
    left: Count
    tainted: list[Text] = []


class Cooling(msgspec.Struct, frozen=True, tag_field="type", tag="cooling"):
    """Nothing is measured, until the board is fit for it; said at most once a second."""

    reasons: list[Text]
    waited_s: Annotated[float, msgspec.Meta(ge=0, lt=10**6)]
    temperature_c: Annotated[float, msgspec.Meta(gt=-100, lt=300)] | None = None


class Energy(msgspec.Struct, frozen=True, tag_field="type", tag="energy"):
    """A time whose power is of interest begins or ends: `phase` is idle, or busy with candidate `id`."""

    phase: Text
    begins: bool
    id: Count | None = None


class Conditions(msgspec.Struct, frozen=True, tag_field="type", tag="conditions"):
    """All that the agent can tell of its board."""

    facts: dict[Text, bool | int | float | Text | list[Text]]
    readings: Reading


class Done(msgspec.Struct, frozen=True, tag_field="type", tag="done"):
    """The end of a chunk's results."""

    measured: Count
    failed: Count
    measuring_ns: NanosecondsOrZero
    cancelled: bool


class Board(msgspec.Struct, frozen=True, tag_field="type", tag="board"):
    """What setting up has to know of a board, who measures there, and who has leased it."""

    libc: Text
    libc_version: Text
    base_python: Text
    home: Text
    tmp: Text
    route: bool
    installed: dict[Text, Text]
    holder: dict[Text, Text]
    lease: dict[Text, Text]
    home_free_bytes: Size | None = None
    tmp_free_bytes: Size | None = None


class Progress(msgspec.Struct, frozen=True, tag_field="type", tag="progress"):
    """A line of what is being done."""

    text: Text


class Installed(msgspec.Struct, frozen=True, tag_field="type", tag="installed"):
    """An environment was made, and its runtimes were imported there."""

    versions: dict[Text, Text]
    folder: Text


class NotInstalled(msgspec.Struct, frozen=True, tag_field="type", tag="not_installed"):
    """Nothing was installed: `stage` is disk, python, pip, import or busy."""

    stage: Text
    text: Text


class Output(msgspec.Struct, frozen=True, tag_field="type", tag="output"):
    """A piece of one output of an inference, in base64."""

    number: Count
    data: Annotated[str, msgspec.Meta(max_length=1 << 19)]


class Described(msgspec.Struct, frozen=True):
    """A tensor: its name, numpy's word for its type, its shape."""

    name: Text
    dtype: Text
    shape: tuple[Count, ...]


class Inferred(msgspec.Struct, frozen=True, tag_field="type", tag="inferred"):
    """The end of an inference's outputs, and what each of them is."""

    outputs: list[Described]


class NotInferred(msgspec.Struct, frozen=True, tag_field="type", tag="not_inferred"):
    """The runtime refused the file or its inputs, or the process that ran it died: `kind` as in Failed."""

    kind: Text
    text: Text


class Tuned(msgspec.Struct, frozen=True, tag_field="type", tag="tuned"):
    """The commands that bring a board where it should be, how many of them ran, and what stopped them."""

    commands: list[Text]
    ran: Count
    failed: Text
    needs_password: bool
    notes: list[Text]


class Leased(msgspec.Struct, frozen=True, tag_field="type", tag="leased"):
    """Who has the board now, and for how long yet; empty: nobody."""

    holder: dict[Text, Text]


class Error(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """The agent ends because of this."""

    text: Text


class Bye(msgspec.Struct, frozen=True, tag_field="type", tag="bye"):
    """The agent ends because it was told to."""


#: What is said while a chunk is measured, before `done`.
Result: TypeAlias = Samples | Measured | Failed | Round | Cooling | Energy
Message: TypeAlias = (
    Hello
    | Busy
    | Ready
    | Heartbeat
    | Missing
    | Stored
    | Refused
    | Samples
    | Measured
    | Failed
    | Round
    | Cooling
    | Energy
    | Conditions
    | Done
    | Board
    | Progress
    | Installed
    | NotInstalled
    | Output
    | Inferred
    | NotInferred
    | Tuned
    | Leased
    | Error
    | Bye
)
_DECODER = msgspec.json.Decoder(Message)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def clean(text: str) -> str:
    """Return text from a board without control characters: a terminal must not obey it."""
    return _CONTROL.sub(" ", text).strip()


def pack(message: dict[str, Any]) -> bytes:
    """Return a JSON frame."""
    payload = msgspec.json.encode(message)
    if len(payload) > LIMITS[JSON]:
        raise ProtocolError(f"A message of {len(payload)} bytes; at most {LIMITS[JSON]} are allowed.")
    return HEADER.pack(len(payload), JSON) + payload


def pack_bytes(data: bytes) -> Iterator[bytes]:
    """Yield the frames that carry a file."""
    for start in range(0, len(data), LIMITS[BYTES]):
        piece = data[start : start + LIMITS[BYTES]]
        yield HEADER.pack(len(piece), BYTES) + piece


class Splitter:
    """Cuts a stream of bytes, however it arrives, into checked messages."""

    def __init__(self) -> None:
        """Start with nothing received."""
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that `data` completes; raise ProtocolError where the stream is broken."""
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            length, kind = HEADER.unpack_from(self._buffer)
            if kind != JSON or length > LIMITS[JSON]:
                raise ProtocolError(
                    f"The device sent a frame of type {kind} and {length} bytes.",
                    "Something on the way, or a runtime that prints, has damaged the stream. Measure again.",
                )
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            try:
                message = _DECODER.decode(payload)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ProtocolError(
                    f"The device sent a message that the protocol does not allow: {clean(str(error))}.",
                    "Measure again; if it comes back, report it: the agent and this version do not fit.",
                ) from error
            yield message


def cleaned(reading: Mapping[str, Any]) -> dict[str, Any]:
    """Return a reading with its texts cleaned."""
    return {clean(key): _cleaned(value) for key, value in reading.items()}


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {clean(key): _cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_cleaned(inner) for inner in value]
    return clean(value) if isinstance(value, str) else value
