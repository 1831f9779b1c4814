"""Trees of files as boards have them, each with the place where its vendor, or its kernel, describes it."""

from __future__ import annotations

from pathlib import Path

FREQ = "sys/devices/system/cpu/cpufreq"
#: Raspberry Pi's Linux, drivers/firmware/raspberrypi.c; the device's name is that of its node in the device tree.
PI4_BITS = "sys/devices/platform/soc/soc:firmware/get_throttled"
PI5_BITS = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
#: NVIDIA's drivers/hwmon of Jetson Linux: the chips "ina3221" and "soctherm_oc".
INA, OVER_CURRENT = "sys/class/hwmon/hwmon1", "sys/class/hwmon/hwmon3"


def lay(root: Path, files: dict[str, str]) -> str:
    """Write files below a root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def tool(root: Path, name: str, prints: str, status: int = 0) -> None:
    """Put a program there that prints a text."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{prints}\nEND\nexit {status}\n")
    path.chmod(0o755)


def _clocks(policy: str, governor: str, now: int, low: int, high: int) -> dict[str, str]:
    """https://docs.kernel.org/admin-guide/pm/cpufreq.html and cpu-freq/cpufreq-stats.html"""
    return {
        f"{FREQ}/{policy}/scaling_governor": f"{governor}\n",
        f"{FREQ}/{policy}/scaling_cur_freq": f"{now}\n",
        f"{FREQ}/{policy}/scaling_min_freq": f"{low}\n",
        f"{FREQ}/{policy}/scaling_max_freq": f"{high}\n",
        f"{FREQ}/{policy}/stats/time_in_state": f"{low} 4000\n{high} 100\n",
    }


def _arm(count: int, memory_kb: int, model: str) -> dict[str, str]:
    """Arm has no model name in cpuinfo; the device tree's texts end with a NUL."""
    return {
        "proc/loadavg": "0.08 0.02 0.01 1/132 911\n",
        "proc/meminfo": f"MemTotal:  {memory_kb} kB\nMemFree:  1 kB\nMemAvailable:    {memory_kb - 284000} kB\n",
        "proc/sys/kernel/random/boot_id": "1b0e5f8e-1111-2222-3333-444455556666\n",
        "proc/device-tree/model": f"{model}\0",
        "proc/cpuinfo": "".join(f"processor\t: {i}\nFeatures\t: fp asimd crc32 cpuid\n\n" for i in range(count)),
    }


def pi4() -> dict[str, str]:
    """https://www.raspberrypi.com/documentation/computers/processors.html#bcm2711"""
    return {
        **_arm(4, 3884000, "Raspberry Pi 4 Model B Rev 1.4"),
        **_clocks("policy0", "ondemand", 1500000, 600000, 1500000),
        "sys/class/thermal/thermal_zone0/temp": "48199\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        PI4_BITS: "0\n",
    }


def pi5() -> dict[str, str]:
    """https://www.raspberrypi.com/documentation/computers/processors.html#bcm2712"""
    return {
        **_arm(4, 8245000, "Raspberry Pi 5 Model B Rev 1.0"),
        **_clocks("policy0", "ondemand", 2400000, 1500000, 2400000),
        "sys/class/thermal/thermal_zone0/temp": "51500\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
        "sys/class/hwmon/hwmon2/name": "rpi_volt\n",
        "sys/class/hwmon/hwmon2/in0_lcrit_alarm": "0\n",
        PI5_BITS: "0\n",
    }


def orin_nano() -> dict[str, str]:
    """Jetson Linux 36, https://docs.nvidia.com/jetson/archives/r36.4/DeveloperGuide (platform power and performance).

    Rails of the INA3221 at 1-0040; the seventh is the sum of the shunts and has no current.
    """
    rails = {"VDD_IN": (5024, 1248), "VDD_CPU_GPU_CV": (5024, 208), "VDD_SOC": (5016, 304)}
    files = {
        **_arm(6, 7620000, "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit"),
        **_clocks("policy0", "schedutil", 729600, 115200, 1510400),
        **_clocks("policy4", "schedutil", 729600, 115200, 1510400),
        f"{INA}/name": "ina3221\n",
        f"{INA}/in7_input": "96\n",
        f"{INA}/in7_label": "sum of shunt voltages\n",
        f"{OVER_CURRENT}/name": "soctherm_oc\n",
        **{f"{OVER_CURRENT}/oc{i}_event_cnt": f"{events}\n" for i, events in ((1, 0), (2, 0), (3, 27))},
        **{f"{OVER_CURRENT}/oc{i}_throt_en": "1\n" for i in (1, 2, 3)},
        "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
        "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
        "sys/class/devfreq/17000000.gpu/max_freq": "624750000\n",
    }
    zones = {
        "cpu-thermal": 47218,
        "gpu-thermal": 45937,
        "cv0-thermal": -256000,
        "soc0-thermal": 46187,
        "tj-thermal": 47218,
    }
    for number, (name, value) in enumerate(zones.items()):
        files[f"sys/class/thermal/thermal_zone{number}/type"] = f"{name}\n"
        files[f"sys/class/thermal/thermal_zone{number}/temp"] = f"{value}\n"
    for number, (name, (millivolts, milliamperes)) in enumerate(rails.items(), start=1):
        files[f"{INA}/in{number}_label"] = f"{name}\n"
        files[f"{INA}/in{number}_input"] = f"{millivolts}\n"
        files[f"{INA}/in{number}_enable"] = "1\n"
        files[f"{INA}/curr{number}_input"] = f"{milliamperes}\n"
    return files
