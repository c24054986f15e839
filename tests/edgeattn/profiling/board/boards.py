"""Folders of files as boards have them under `/sys` and `/proc`: see fixtures/boards/tegrastats."""

from __future__ import annotations

from pathlib import Path


def write(root: Path, files: dict[str, str | int]) -> Path:
    """Write files by their path below a root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def orin_nano(root: Path) -> Path:
    """Make an Orin Nano with JetPack 6: one INA3221, the counters of `soctherm_oc`."""
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/device-tree/model").write_bytes(
        b"NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0"
    )
    hwmon, thermal = "sys/class/hwmon", "sys/class/thermal"
    return write(
        root,
        {
            f"{hwmon}/hwmon0/name": "pwmfan",
            f"{hwmon}/hwmon1/name": "ina3221",
            f"{hwmon}/hwmon1/in1_label": "VDD_IN",
            f"{hwmon}/hwmon1/in1_input": 4984,
            f"{hwmon}/hwmon1/curr1_input": 1856,
            f"{hwmon}/hwmon1/curr1_crit_alarm": 1,
            f"{hwmon}/hwmon1/in2_label": "VDD_CPU_GPU_CV",
            f"{hwmon}/hwmon1/in2_input": 4976,
            f"{hwmon}/hwmon1/curr2_input": 424,
            f"{hwmon}/hwmon1/in3_label": "NC",
            f"{hwmon}/hwmon1/in3_input": 0,
            f"{hwmon}/hwmon1/curr3_input": 0,
            f"{hwmon}/hwmon1/in7_label": "sum of shunt voltages",
            f"{hwmon}/hwmon1/in7_input": 9,
            f"{hwmon}/hwmon3/name": "soctherm_oc",
            f"{hwmon}/hwmon3/oc1_event_cnt": 1,
            f"{hwmon}/hwmon3/oc2_event_cnt": 0,
            f"{hwmon}/hwmon3/oc3_event_cnt": 37,
            f"{thermal}/thermal_zone0/type": "cpu-thermal",
            f"{thermal}/thermal_zone0/temp": 63625,
            f"{thermal}/thermal_zone8/type": "tj-thermal",
            f"{thermal}/thermal_zone8/temp": 64031,
            f"{thermal}/cooling_device0/type": "pwm-fan",
            f"{thermal}/cooling_device0/cur_state": 2,
            f"{thermal}/cooling_device1/type": "gpu-throttle-alert",
            f"{thermal}/cooling_device1/cur_state": 0,
            "sys/class/devfreq/15340000.vic/cur_freq": 115200000,
            "sys/class/devfreq/17000000.gpu/cur_freq": 306000000,
            "sys/class/devfreq/17000000.gpu/min_freq": 306000000,
            "sys/class/devfreq/17000000.gpu/max_freq": 1020000000,
            "sys/class/devfreq/17000000.gpu/device/load": 637,
            "sys/kernel/debug/bpmp/debug/clk/emc/rate": 2133000000,
            "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": 1510400,
            "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": 729600,
            "proc/meminfo": "MemTotal:        7803000 kB\nMemAvailable:    3803000 kB",
            "proc/stat": "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 1 1 1",
        },
    )


def thor(root: Path) -> Path:
    """Make a Thor developer kit: INA3221 for rails, INA238 for the input, two GPU clocks."""
    hwmon, thermal = "sys/class/hwmon", "sys/class/thermal"
    rails = {
        "VDD_GPU": (12000, 3127),
        "VDD_CPU_SOC_MSS": (12008, 1579),
        "VIN_SYS_5V0": (5000, 3666),
    }
    files: dict[str, str | int] = {
        f"{hwmon}/hwmon2/name": "ina238",
        f"{hwmon}/hwmon2/label": "VIN",
        f"{hwmon}/hwmon2/power1_input": 87426000,
        f"{hwmon}/hwmon2/curr1_input": 4371,
        f"{hwmon}/hwmon4/name": "ina3221",
        f"{thermal}/thermal_zone0/type": "gpu-thermal",
        f"{thermal}/thermal_zone0/temp": 62906,
        f"{thermal}/thermal_zone1/type": "soc012-thermal",
        f"{thermal}/thermal_zone1/temp": 58468,
        "sys/class/devfreq/bwmgr/cur_freq": 4266000000,
        "sys/class/devfreq/gpu-gpc-0/cur_freq": 1575000000,
        "sys/class/devfreq/gpu-gpc-0/min_freq": 1575000000,
        "sys/class/devfreq/gpu-gpc-0/max_freq": 1575000000,
        "sys/class/devfreq/gpu-nvd-0/cur_freq": 1691000000,
    }
    for i, (label, (millivolts, milliamperes)) in enumerate(rails.items(), 1):
        files[f"{hwmon}/hwmon4/in{i}_label"] = label
        files[f"{hwmon}/hwmon4/in{i}_input"] = millivolts
        files[f"{hwmon}/hwmon4/curr{i}_input"] = milliamperes
    return write(root, files)


def program(folder: Path, name: str, script: str) -> Path:
    """Write a shell script that plays a tool of the board: it measures nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path
