"""Conditions, from trees of files laid out as Linux and the vendors lay them out, and from this machine."""

import boards
import conditions
import jetson
import pytest
import raspberry
from boards import FREQ, INA, OVER_CURRENT, PI4_BITS, PI5_BITS


@pytest.fixture
def tree(tmp_path):
    return lambda files: boards.lay(tmp_path, files)


class Clock:
    """Seconds that pass when told to."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    ("files", "model", "clock", "hottest", "at"),
    [(boards.pi4(), "Pi 4", 1500000, 48.199, PI4_BITS), (boards.pi5(), "Pi 5", 2400000, 51.5, PI5_BITS)],
)
def test_a_pi_says_what_it_has(tree, files, model, clock, hottest, at):
    root = tree(files)
    board = conditions.Board(root, root)
    found = board.read()
    assert found.pop("disk_free_bytes") > 0
    assert conditions.temperature(found) == hottest
    assert found["governor"] == {"policy0": "ondemand"} and found["clock_khz"] == {"policy0": clock}
    assert set(found["time_in_state_s"].values()) == {40.0, 1.0}
    assert found["throttle_bits"] == 0 and set(found["firmware_counts"].values()) == {0}
    assert not {"rails_w", "gpu_clock_khz", "power_mode", "throttle_counts", "errors"} & set(found)
    facts = board.facts()
    assert facts["raspberry"] == model and facts["board"].startswith(f"Raspberry {model}")
    assert facts["cores"] == 4 and "asimd" in facts["cpu_flags"]
    assert "power_mode" not in facts and "power_rails" not in facts
    assert "ina3221" in facts["no_power"]
    (boards.Path(root) / at).write_text("4\n")
    assert conditions.held_back(conditions.Board(root).read()) == ["throttled"]


def test_a_jetson_says_what_it_has(tree, tmp_path):
    boards.tool(tmp_path, "usr/sbin/nvpmodel", "NV Power Mode: 15W\n0")
    board = conditions.Board(tree(boards.orin_nano()))
    found = board.read()
    assert found["rails_w"] == pytest.approx({"VDD_IN": 6.269952, "VDD_CPU_GPU_CV": 1.044992, "VDD_SOC": 1.524864})
    assert found["gpu_clock_khz"] == 306000 and found["gpu_clock_limits_khz"] == "306000-624750"
    assert found["throttle_counts"] == {f"{OVER_CURRENT}/oc{i}_event_cnt": n for i, n in ((1, 0), (2, 0), (3, 27))}
    assert conditions.temperature(found) == 47.218 == board.read_all()["chip_c"]
    assert "throttle_bits" not in found and "raspberry" not in board.facts()
    assert board.facts()["power_mode"] == board.read_all()["power_mode"] == "15W (0)"
    assert board.facts()["power_rails"] == "VDD_IN"
    assert board.power().watts() == pytest.approx(6.269952)


@pytest.mark.parametrize(
    ("said", "mode"),
    [
        ("NV Power Mode: MAXN\n0", "MAXN (0)"),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_10W_DESKTOP\n5", "MODE_10W_DESKTOP (5)"),
        ("NVPM WARN: patching tpc_pg_mask\nNV Power Mode: 25W\n1\n", "25W (1)"),
        ("Not Supported", None),
        ("NV Power Mode: Not Supported\n0", None),
        ("NVPM ERROR: failed to read PARAM", None),
        ("", None),
    ],
)
def test_a_power_mode_is_a_value_or_an_error(tmp_path, said, mode):
    boards.tool(tmp_path, "usr/sbin/nvpmodel", said)
    board = conditions.Board(str(tmp_path))
    found = board.read_all()
    assert found.get("power_mode") == mode
    assert board.facts().get("power_mode") == mode
    if mode is None:
        assert found["errors"]["nvpmodel"] == (said or "it said nothing")


def test_a_program_that_cannot_run_is_an_error(tmp_path):
    boards.lay(tmp_path, {"usr/sbin/nvpmodel": "\x7fELF no"})
    (tmp_path / "usr/sbin/nvpmodel").chmod(0o755)
    assert "nvpmodel" in conditions.Board(str(tmp_path)).read_all()["errors"]


def test_what_a_board_takes_comes_through_one_rail_or_those_that_add_up(tree, tmp_path):
    files = boards.orin_nano()
    for number, name in enumerate(("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), start=1):
        files[f"{INA}/in{number}_label"] = name
    power = jetson.Power(tree(files))
    assert power.labels == jetson.SUMMED and power.watts() == pytest.approx(6.269952 + 1.044992 + 1.524864)
    (tmp_path / INA / "curr3_input").unlink()
    assert power.watts() is None
    with pytest.raises(jetson.NoPower, match="VDD_CPU_CV, VDD_GPU_SOC"):
        jetson.Power(str(tmp_path))


def test_a_channel_that_is_switched_off_is_absent(tree):
    root = tree({**boards.orin_nano(), f"{INA}/in3_enable": "0\n"})
    assert set(jetson.rails(root)) == {"VDD_IN", "VDD_CPU_GPU_CV"}


def test_what_is_not_there_is_absent(tree):
    assert conditions.Board(tree({})).read() == {}
    facts = conditions.Board(tree({})).facts()
    assert not {"board", "boot_id", "memory_bytes", "cpu_model", "raspberry", "power_mode"} & set(facts)
    assert "sensors there: none" in facts["no_power"]


def test_what_makes_no_sense_is_absent(tree):
    root = tree(
        {
            "sys/class/thermal/thermal_zone0/temp": "0\n",
            "sys/class/thermal/thermal_zone1/temp": "-274000\n",
            "sys/class/thermal/thermal_zone2/temp": "no\n",
            f"{FREQ}/policy0/scaling_cur_freq": "<unknown>\n",
            PI4_BITS: "what\n",
            f"{OVER_CURRENT}/oc1_event_cnt": "\n",
        }
    )
    assert conditions.Board(root).read() == {}


def test_this_machine_can_be_read():
    board = conditions.Board(folder="/")
    found, facts = board.read(), board.facts()
    assert facts["cores"] >= 1 and facts["bits"] in (32, 64) and facts["libc"].split()[0] in ("glibc", "musl")
    assert all(value is not None for value in {**found, **facts}.values())
    assert found["load_1min"] >= 0 and found["disk_free_bytes"] > 0 and found["memory_available_bytes"] > 0


def firmware(tmp_path, place=PI4_BITS):
    """Return a Pi's firmware whose clock stands, and a way to say bits and let time pass."""
    clock = Clock()
    found = raspberry.Firmware(str(tmp_path), clock)

    def say(bits, passes=1.0):
        clock.now += passes
        boards.lay(tmp_path, {place: f"{bits:x}\n"})
        return found.read()

    return found, clock, say


def test_firmware_is_not_asked_more_often_than_it_answers(tmp_path):
    found, clock, say = firmware(tmp_path)
    assert say(0)["throttle_bits"] == 0
    assert say(0x4, passes=0.19)["throttle_bits"] == 0
    assert found.wait_s == pytest.approx(0.01)
    clock.now += found.wait_s + 1e-9
    assert found.read()["throttle_bits"] == 0x4
    assert raspberry.Firmware(str(tmp_path / "none"), clock).wait_s == 0


def test_what_the_kernel_forgets_is_remembered(tmp_path):
    _, _, say = firmware(tmp_path)
    first = say(0x50000)  # before this session
    assert first["throttle_seen"] == 0 and set(first["firmware_counts"].values()) == {0}
    second = say(0x50000)  # the kernel has cleared them: this is new
    assert second["firmware_counts"] == {
        "under-voltage": 1,
        "clock capped": 0,
        "throttled": 1,
        "soft temperature limit": 0,
    }
    third = say(0)
    assert third["throttle_bits"] == 0 and third["throttle_seen"] == 0x50000
    assert conditions.taints(first, second) == ["throttled", "under-voltage"]
    assert conditions.taints(second, third) == []
    assert conditions.taints(third, say(0x8)) == ["throttled"]
    assert say(0)["throttle_seen"] == 0xD0008


def test_where_there_is_only_the_tool_nothing_is_cleared(tmp_path):
    clock = Clock()
    found = raspberry.Firmware(str(tmp_path), clock)
    for bits, throttled in ((0x50000, 0), (0x50000, 0), (0xD0000, 0), (0xF0000, 0)):
        boards.tool(tmp_path, "usr/bin/vcgencmd", f"throttled={bits:#x}")
        clock.now += 1
        counts = found.read()["firmware_counts"]
        assert counts["throttled"] == throttled
    assert counts == {"under-voltage": 0, "clock capped": 1, "throttled": 0, "soft temperature limit": 1}


@pytest.mark.parametrize("said", ["VCHI initialization failed", 'error=1 error_msg="Command not registered"', ""])
def test_a_tool_that_gives_no_answer_is_an_error_and_no_zero(tmp_path, said):
    boards.tool(tmp_path, "usr/bin/vcgencmd", said, status=255)
    found = conditions.Board(str(tmp_path)).read()
    assert "throttle_bits" not in found
    assert found["errors"]["vcgencmd"] == (said or "it said nothing")


def test_a_kernel_that_tells_of_the_supply_alone(tmp_path):
    alarm = "sys/class/hwmon/hwmon2/in0_lcrit_alarm"
    boards.lay(tmp_path, {"sys/class/hwmon/hwmon2/name": "rpi_volt\n", alarm: "0\n"})
    clock = Clock()
    found = raspberry.Firmware(str(tmp_path), clock)
    before = found.read()
    boards.lay(tmp_path, {alarm: "1\n"})
    clock.now += 1
    assert conditions.taints(before, found.read()) == ["under-voltage"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {}, []),
        ({"throttle_bits": 0}, {"throttle_bits": 0}, []),
        ({"throttle_bits": 0}, {"throttle_bits": 0x4}, ["throttled"]),
        ({"throttle_bits": 0}, {"throttle_bits": 0x2}, ["throttled"]),
        ({"throttle_bits": 0x50000}, {"throttle_bits": 0x50000}, []),
        ({"throttle_bits": 0x1}, {"throttle_bits": 0}, ["under-voltage"]),
        ({"throttle_bits": 0x9}, {"throttle_bits": 0}, ["throttled", "under-voltage"]),
        ({"throttle_counts": {"a": 3}}, {"throttle_counts": {"a": 3}}, []),
        ({"throttle_counts": {"a": 3}}, {"throttle_counts": {"a": 4}}, ["throttled"]),
        ({"throttle_counts": {"a": 3}}, {}, []),
    ],
)
def test_taints(before, after, expected):
    assert conditions.taints(before, after) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {}, []),
        ({"boot_id": "a"}, {"boot_id": "b"}, ["changed"]),
        ({"governor": {"p": "performance"}}, {"governor": {"p": "powersave"}}, ["changed"]),
        ({"gpu_clock_limits_khz": "1-2"}, {"gpu_clock_limits_khz": "1-3"}, ["changed"]),
        ({"clock_khz": {"p": 1}}, {"clock_khz": {"p": 2}}, []),
    ],
)
def test_doubts(before, after, expected):
    assert conditions.doubts(before, after) == expected


def test_an_over_current_event_on_a_jetson_taints(tree, tmp_path):
    board = conditions.Board(tree(boards.orin_nano()))
    before = board.read()
    boards.lay(tmp_path, {f"{OVER_CURRENT}/oc3_event_cnt": "28\n"})
    after = board.read()
    assert conditions.taints(before, after) == ["throttled"]
    assert conditions.between(before, after) == {"throttle_counts": {f"{OVER_CURRENT}/oc3_event_cnt": 1}}


def test_time_at_each_clock_is_a_difference(tree, tmp_path):
    board = conditions.Board(tree(boards.pi4()))
    before = board.read()
    boards.lay(tmp_path, {f"{FREQ}/policy0/stats/time_in_state": "600000 4000\n1500000 350\n"})
    assert conditions.between(before, board.read()) == {"time_in_state_s": {"policy0 1500000 kHz": 2.5}}
    assert "time_in_state_s" not in conditions.told(before)


def test_the_chip_is_what_counts_where_it_is_named():
    reading = {"temperature_c": {"thermal_zone0 iwlwifi_1": 90.0, "thermal_zone1 x86_pkg_temp": 50.0}}
    assert conditions.temperature(reading) == 50.0
    assert conditions.temperature({"temperature_c": {"thermal_zone0 acpitz": 30.0}}) == 30.0
    assert conditions.temperature({}) is None


def test_cores_are_the_strong_ones_and_not_the_first(tree):
    root = tree({f"sys/devices/system/cpu/cpu{i}/cpu_capacity": "1024" if i >= 4 else "446" for i in range(6)})
    assert conditions.choose_cores(1, list(range(6)), root) == [5]
    assert conditions.choose_cores(3, list(range(6)), root) == [3, 4, 5]
    assert conditions.choose_cores(2, [0, 1], root) == [0, 1]
    assert conditions.choose_cores(8, [0, 1], root) == [0, 1]


def test_two_threads_do_not_share_a_physical_core(tree):
    siblings = "sys/devices/system/cpu/cpu%d/topology/thread_siblings_list"
    root = tree({siblings % i: f"{i // 2 * 2}-{i // 2 * 2 + 1}" for i in range(4)})
    assert conditions.choose_cores(2, [0, 1, 2, 3], root) == [1, 3]
    root = tree({siblings % i: f"{i % 2},{i % 2 + 2}" for i in range(4)})
    assert conditions.choose_cores(2, [0, 1, 2, 3], root) == [2, 3]


def test_a_root_with_odd_letters(tmp_path):
    root = tmp_path / "a[1]*"
    boards.lay(root, boards.pi4())
    assert conditions.Board(str(root)).read()["governor"] == {"policy0": "ondemand"}
