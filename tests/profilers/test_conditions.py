"""Conditions, from trees of files laid out as Linux lays them out."""

import conditions
import pytest

FREQ = "sys/devices/system/cpu/cpufreq"
PI_BITS = "sys/devices/platform/soc/soc:firmware/get_throttled"


@pytest.fixture
def tree(tmp_path):
    def lay(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return str(tmp_path)

    return lay


PI4 = {
    f"{FREQ}/policy0/scaling_governor": "ondemand\n",
    f"{FREQ}/policy0/scaling_cur_freq": "1500000\n",
    f"{FREQ}/policy0/scaling_min_freq": "600000\n",
    f"{FREQ}/policy0/scaling_max_freq": "1500000\n",
    "sys/class/thermal/thermal_zone0/temp": "48199\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "proc/loadavg": "0.08 0.02 0.01 1/132 911\n",
    "proc/meminfo": "MemTotal:        3884000 kB\nMemFree:  1 kB\nMemAvailable:    3600000 kB\n",
    "proc/sys/kernel/random/boot_id": "1b0e5f8e-1111-2222-3333-444455556666\n",
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "proc/cpuinfo": "".join(f"processor\t: {i}\nFeatures\t: fp asimd evtstrm crc32 cpuid\n\n" for i in range(4)),
    PI_BITS: "0\n",
}


def test_a_pi_says_what_it_has(tree):
    root = tree(PI4)
    assert conditions.read(root) == {
        "boot_id": "1b0e5f8e-1111-2222-3333-444455556666",
        "governor": {"policy0": "ondemand"},
        "clock_khz": {"policy0": 1500000},
        "clock_limits_khz": {"policy0": "600000-1500000"},
        "temperature_c": {"thermal_zone0 cpu-thermal": 48.199},
        "load_1min": 0.08,
        "memory_available_bytes": 3600000 * 1024,
        "throttle_bits": 0,
    }
    facts = conditions.facts(root)
    assert facts["board"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert facts["cores"] == 4
    assert "asimd" in facts["cpu_flags"]
    assert facts["memory_bytes"] == 3884000 * 1024


def test_what_is_not_there_is_absent(tree):
    assert conditions.read(tree({})) == {}
    facts = conditions.facts(tree({}))
    assert not {"board", "boot_id", "memory_bytes", "cpu_model"} & set(facts)


def test_what_makes_no_sense_is_absent(tree):
    root = tree(
        {
            "sys/class/thermal/thermal_zone0/temp": "0\n",
            "sys/class/thermal/thermal_zone1/temp": "-274000\n",
            "sys/class/thermal/thermal_zone2/temp": "no\n",
            f"{FREQ}/policy0/scaling_cur_freq": "<unknown>\n",
        }
    )
    assert conditions.read(root) == {}


def test_this_machine_can_be_read():
    assert conditions.facts()["cores"] >= 1
    assert all(value is not None for value in conditions.read().values())


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {}, []),
        ({"throttle_bits": 0}, {"throttle_bits": 0}, []),
        ({"throttle_bits": 0}, {"throttle_bits": 0x4}, ["throttled"]),
        ({"throttle_bits": 0x50000}, {"throttle_bits": 0x50000}, []),
        ({"throttle_bits": 0}, {"throttle_bits": 0x40000}, ["throttled"]),
        ({"throttle_bits": 0x1}, {"throttle_bits": 0}, ["throttled"]),
        ({"throttle_counts": {"a": 3}}, {"throttle_counts": {"a": 3}}, []),
        ({"throttle_counts": {"a": 3}}, {"throttle_counts": {"a": 4}}, ["throttled"]),
        ({"boot_id": "a"}, {"boot_id": "b"}, ["changed"]),
        ({"governor": {"p": "performance"}}, {"governor": {"p": "powersave"}}, ["changed"]),
    ],
)
def test_doubts(before, after, expected):
    assert conditions.doubts(before, after) == expected


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
