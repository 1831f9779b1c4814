"""The doctor's judgment: what is told of a board, and the verdict on it."""

from __future__ import annotations

import msgspec
import pytest

from qaedge.device import Device
from qaedge.hil import frames
from qaedge.hil.agent import owner
from qaedge.hil.doctor import HEADINGS, Seen, judge
from qaedge.hil.pins import PINS

PINNED = PINS[(3, 11)]["onnxruntime"]
PI = Device(
    name="pi4",
    description="a Pi",
    connection="ssh",
    arch="aarch64",
    cores=4,
    clock_mhz=1800,
    memory="4GiB",
    governor="performance",
    dot_product=False,
    fp16=False,
)
HELLO = frames.Hello(
    protocol=frames.PROTOCOL,
    python="3.11.2",
    executable="/home/pi/.qaedge/venv/bin/python",
    system="Linux",
    pid=1,
    folder="/tmp/x",
    arch="aarch64",
    cores=4,
    kernel="6.6",
    runtimes={"onnxruntime": PINNED},
    runtime_failures={},
    memory_bytes=3700 << 20,
)
BOARD = frames.Board(
    libc="glibc",
    libc_version="2.36",
    base_python="/usr/bin/python3",
    home="/home/pi",
    tmp="/tmp",
    route=True,
    installed={"key": "x", "onnxruntime": PINNED},
    holder={},
    lease={},
    home_free_bytes=1 << 33,
    tmp_free_bytes=1 << 30,
)
READINGS = {
    "governor": {"policy0": "performance"},
    "clock_khz": {"policy0": 1800000},
    "clock_limits_khz": {"policy0": "600000-1800000"},
    "temperature_c": {"thermal_zone0 cpu-thermal": 51.2},
    "chip_c": 51.2,
    "load_1min": 0.2,
    "memory_available_bytes": 3 << 30,
    "throttle_bits": 0,
}


def verdicts(device=PI, hello=None, board=None, readings=None):
    seen = Seen(
        msgspec.structs.replace(HELLO, **hello or {}),
        msgspec.structs.replace(BOARD, **board or {}),
        {**READINGS, **(readings or {})},
    )
    return {finding.what: finding for finding in judge(device, seen)}


def test_a_board_in_order_has_nothing_to_note():
    found = verdicts()
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert found["temperature"].found == "51.2 °C (thermal_zone0 cpu-thermal)"
    assert found["clock"].found == "at most 1800 MHz, now 1800 MHz"


@pytest.mark.parametrize(
    ("what", "verdict", "change"),
    [
        ("onnxruntime", "bad", {"hello": {"runtimes": {}, "runtime_failures": {"onnxruntime": "no such module"}}}),
        ("onnxruntime", "note", {"hello": {"runtimes": {"onnxruntime": "1.20.0"}}}),
        ("board", "bad", {"hello": {"arch": "armv7l"}}),
        ("cores", "note", {"hello": {"cores": 2}}),
        ("cores", "bad", {"device": msgspec.structs.replace(PI, threads=4, cores=None), "hello": {"cores": 2}}),
        ("memory", "note", {"hello": {"memory_bytes": 1 << 30}}),
        ("governor", "note", {"readings": {"governor": {"policy0": "ondemand"}}}),
        ("governor", "bad", {"readings": {"governor": {"policy0": "performance", "policy4": "powersave"}}}),
        ("clock", "bad", {"readings": {"clock_limits_khz": {"policy0": "600000-1500000"}}}),
        ("clock", "note", {"readings": {"clock_limits_khz": {"policy0": "600000-2000000"}}}),
        ("board", "bad", {"hello": {"board": "Raspberry Pi 5 Model B Rev 1.0"}}),
        ("dot product", "note", {"hello": {"cpu_flags": frozenset({"fp", "asimddp"})}}),
        ("fp16", "note", {"hello": {"cpu_flags": frozenset({"fp", "fphp", "asimdhp"})}}),
        ("temperature", "note", {"readings": {"temperature_c": {"z cpu": 66.0, "y pmic": 20.0}, "chip_c": 66.0}}),
        ("temperature", "bad", {"readings": {"temperature_c": {"z cpu": 75.0}, "chip_c": 75.0}}),
        ("throttling", "bad", {"readings": {"throttle_bits": 0x1}}),
        ("throttling", "bad", {"readings": {"throttle_bits": 0x50004}}),
        ("throttling", "note", {"readings": {"throttle_bits": 0x50000}}),
        ("throttling", "note", {"readings": {"throttle_counts": {"sys/class/hwmon/hwmon1/oc1_event_cnt": 3}}}),
        ("power mode", "note", {"readings": {"errors": {"nvpmodel": "Not Supported"}}}),
        ("free memory", "note", {"readings": {"memory_available_bytes": 100 << 20}}),
        ("free memory", "bad", {"readings": {"memory_available_bytes": 10 << 20}}),
        ("free disk, /tmp", "note", {"board": {"tmp_free_bytes": 100 << 20}}),
        ("free disk, /tmp", "bad", {"board": {"tmp_free_bytes": 10 << 20}}),
        ("load", "note", {"readings": {"load_1min": 1.5}}),
        ("load", "bad", {"readings": {"load_1min": 9.0}}),
        ("in use", "note", {"board": {"holder": {"user": "pi", "holder": "ann@desk"}}}),
        ("in use", "note", {"board": {"lease": {"owner": "ann@desk", "left_s": "60"}}}),
    ],
)
def test_what_is_wrong_is_one_row_with_its_way_out(what, verdict, change):
    found = verdicts(**change)
    assert found[what].verdict == verdict
    assert found[what].advice and found[what].see in HEADINGS
    assert [name for name, finding in found.items() if finding.verdict != "ok"] == [what]


def test_what_a_board_does_not_tell_is_no_fault():
    seen = Seen(HELLO, BOARD, {})
    found = {finding.what: finding for finding in judge(PI, seen)}
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert found["temperature"].found == found["clock"].found == found["throttling"].found == "not told"


def test_a_power_mode_is_told():
    assert verdicts(readings={"power_mode": "15W (0)"})["power mode"].found == "15W (0)"


def test_one_of_two_runtimes_is_enough():
    both = msgspec.structs.replace(PI, runtimes=("tensorrt", "onnxruntime"))
    found = verdicts(device=both)
    assert (found["tensorrt"].verdict, found["onnxruntime"].verdict) == ("note", "ok")


def test_a_boards_words_carry_no_control_characters():
    found = verdicts(board={"holder": {"user": "\x1b[31mred"}})
    assert "\x1b" not in found["in use"].found


def test_the_processor_is_held_against_the_description_where_both_say_something():
    plain = {"cpu_flags": frozenset({"fp", "asimd"})}
    found = verdicts(hello=plain)
    assert (found["dot product"].found, found["fp16"].found) == ("no", "no")
    assert "dot product" not in verdicts(), "it told no flags"
    assert "fp16" not in verdicts(device=msgspec.structs.replace(PI, fp16=None), hello=plain)
    pi5 = msgspec.structs.replace(PI, name="mine", base="pi5", dot_product=True, fp16=True)
    found = verdicts(device=pi5, hello=plain)["dot product"]
    assert (found.verdict, found.found) == ("note", "the processor has none; described with it")


@pytest.mark.parametrize(
    ("name", "base", "model", "verdict"),
    [
        ("pi4", "", "Raspberry Pi 4 Model B Rev 1.4", "ok"),
        ("mine", "pi4", "Raspberry Pi 400 Rev 1.0", "ok"),
        ("mine", "pi5", "Raspberry Pi 4 Model B Rev 1.4", "bad"),
        ("mine", "generic_aarch64", "Raspberry Pi 4 Model B Rev 1.4", "ok"),
        ("pi4", "", "a board that nobody knows", "ok"),
    ],
)
def test_the_model_is_held_against_the_description_that_it_is_based_on(name, base, model, verdict):
    device = msgspec.structs.replace(PI, name=name, base=base)
    assert verdicts(device=device, hello={"board": model})["board"].verdict == verdict


def test_the_temperature_is_the_one_that_cooling_goes_by():
    zones = {"thermal_zone0 cpu-thermal": 50.0, "thermal_zone1 battery": 80.0}
    found = verdicts(readings={"temperature_c": zones, "chip_c": 50.0})
    assert found["temperature"].found == "50.0 °C (thermal_zone0 cpu-thermal)"
    assert found["temperature"].verdict == "ok"


def test_a_lease_of_ones_own_is_no_hindrance():
    found = verdicts(board={"lease": {"owner": owner(), "left_s": "600"}})["in use"]
    assert (found.verdict, found.found) == ("ok", "locked by you, for another 10 min")
    found = verdicts(board={"lease": {"owner": "eve@there", "left_s": "600"}})["in use"]
    assert (found.verdict, found.found) == ("note", "eve@there has it for himself, for another 10 min")


def test_where_tensorrt_comes_first_it_is_told_that_int8_files_do_not_run():
    both = msgspec.structs.replace(PI, runtimes=("tensorrt", "onnxruntime"))
    runtimes = {"tensorrt": "10.3", "onnxruntime": PINNED}
    found = verdicts(device=both, hello={"runtimes": runtimes})["INT8 files"]
    assert found.verdict == "note" and found.see in HEADINGS and "--runtime onnxruntime" in found.advice
    first = msgspec.structs.replace(PI, runtimes=("onnxruntime", "tensorrt"))
    assert "INT8 files" not in verdicts(device=first, hello={"runtimes": runtimes})
