"""Frames: what one side packs the other unpacks, however the bytes are cut; what is broken is refused."""

import contextlib
import importlib.util
import itertools
import json
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaedge.errors import ProtocolError
from qaedge.hil import frames
from qaedge.hil.bootstrap import profilers_folder


def _board_frames():
    """Return the agent's own frames module, under a name that hides nothing."""
    name = "board_frames"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, profilers_folder() / "frames.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


board = _board_frames()
TEXT = st.text(max_size=50)
FROM_BOARD = st.one_of(
    st.builds(frames.Refused, st.just("a" * 64), TEXT, TEXT),
    st.builds(frames.Busy, st.dictionaries(TEXT, TEXT, max_size=3)),
    st.builds(frames.Round, *[st.integers(0, 1000)] * 3),
    st.builds(
        frames.Samples,
        st.integers(0, 20),
        st.integers(1, 9),
        st.integers(1, 1000),
        st.lists(st.integers(0, 10**10), max_size=20),
        st.lists(st.integers(1, 10**10), min_size=1, max_size=20),
    ),
    st.builds(frames.Failed, st.integers(0, 20), TEXT, TEXT, st.integers(0, 3)),
    st.builds(frames.Cooling, st.lists(TEXT, max_size=3), st.floats(0, 1000), st.none() | st.floats(-50, 200)),
    st.builds(frames.Energy, TEXT, st.booleans(), st.none() | st.integers(0, 20)),
    st.just(frames.Heartbeat()),
    st.just(frames.Bye()),
)


def cut(data, cuts):
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(FROM_BOARD, max_size=5), st.lists(st.integers(0, 10**6), max_size=8))
def test_from_the_board_to_the_host(messages, cuts):
    data = b"".join(board.pack_json(msgspec.to_builtins(message)) for message in messages)
    splitter = frames.Splitter()
    assert [message for piece in cut(data, cuts) for message in splitter.feed(piece)] == messages


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


@given(
    st.dictionaries(TEXT.filter(lambda key: key != "type"), JSON, max_size=4),
    st.binary(max_size=200_000),
    st.lists(st.integers(0, 10**6), max_size=8),
)
def test_from_the_host_to_the_board(values, content, cuts):
    message = {"type": "x", **values}
    data = frames.pack(message) + b"".join(frames.pack_bytes(content))
    splitter = board.Splitter()
    found = [frame for piece in cut(data, cuts) for frame in splitter.feed(piece)]
    assert board.unpack_json(found[0]) == message
    assert b"".join(payload for _, payload in found[1:]) == content
    assert all(kind == board.BYTES for kind, _ in found[1:])


@given(st.binary(max_size=400))
def test_any_bytes_are_messages_or_an_error(data):
    with contextlib.suppress(ProtocolError):
        list(frames.Splitter().feed(data))
    try:
        for frame in board.Splitter().feed(data):
            board.unpack_json(frame)
    except board.FrameError:
        pass


def test_limits_hold_on_both_sides():
    with pytest.raises(ProtocolError):
        frames.pack({"type": "x", "text": "y" * (1 << 20)})
    with pytest.raises(board.FrameError):
        board.pack_json({"type": "x", "text": "y" * (1 << 20)})
    with pytest.raises(board.FrameError):
        board.pack(board.BYTES, bytes((1 << 16) + 1))
    for side, error in ((frames, ProtocolError), (board, board.FrameError)):
        with pytest.raises(error):
            list(side.Splitter().feed(side.HEADER.pack((1 << 20) + 1, side.JSON)))


def test_both_sides_agree_on_numbers():
    for name in ("JSON", "BYTES", "LIMITS"):
        assert getattr(frames, name) == getattr(board, name)
    assert f"PROTOCOL = {frames.PROTOCOL}\n" in (profilers_folder() / "agent.py").read_text()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_not_sent(value):
    with pytest.raises(ValueError, match="JSON"):
        board.pack_json({"type": "x", "value": value})


@pytest.mark.parametrize(
    "message",
    [
        {"type": "samples", "id": 0, "number": 1, "repeats": 1, "warmup_ns": [], "samples_ns": []},
        {"type": "samples", "id": 0, "number": 1, "repeats": 0, "warmup_ns": [], "samples_ns": [1]},
        {"type": "samples", "id": 0, "number": 1, "repeats": 1, "warmup_ns": [], "samples_ns": [-1]},
        {"type": "samples", "id": -1, "number": 1, "repeats": 1, "warmup_ns": [], "samples_ns": [1]},
        {"type": "samples", "id": 0, "number": 1, "repeats": 1, "warmup_ns": [], "samples_ns": [3600 * 10**9]},
        {"type": "samples", "id": 0, "number": 1, "repeats": 1, "warmup_ns": [], "samples_ns": [1], "scale": 0},
        {"type": "samples", "id": 0, "number": 1, "repeats": 1, "warmup_ns": [], "samples_ns": [1], "scale": 1e9},
        {"type": "cooling", "reasons": [], "waited_s": -1},
        {"type": "cooling", "reasons": [], "waited_s": 1, "temperature_c": 1e6},
        {"type": "conditions", "facts": {"cores": {}}, "readings": {}},
        {"type": "stored", "sha256": "../../etc/passwd"},
        {"type": "new"},
        {"no": "type"},
        [],
        None,
    ],
)
def test_what_a_board_may_not_say(message):
    payload = json.dumps(message).encode()
    with pytest.raises(ProtocolError):
        list(frames.Splitter().feed(frames.HEADER.pack(len(payload), frames.JSON) + payload))


def test_a_terminal_is_told_nothing():
    assert frames.clean("a\x1b[31m\r\nb\x9bc\x00") == "a [31m b c"
    assert frames.cleaned({"a\x07": {"b\n": "c\x1b"}, "n": 1}) == {"a": {"b": "c"}, "n": 1}
