"""Sensors that are files, on folders laid out as boards have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeattn.profiling.board.rails import total_rail
from edgeattn.profiling.board.sysfs import SensorFile, SysfsReader
from tests.edgeattn.profiling.board.boards import orin_nano, thor, write

LATER = 10**9


def test_an_orin_nano_is_read_whole(tmp_path: Path) -> None:
    reader = SysfsReader(orin_nano(tmp_path))
    sample = reader.sample(5)
    assert (sample.time_ns, reader.source, reader.has_rails) == (5, "sysfs", True)
    assert sample.power_mw == pytest.approx(
        {"VDD_IN": 4984 * 1856 / 1000, "VDD_CPU_GPU_CV": 4976 * 424 / 1000}
    )
    assert sample.clocks_mhz == {"gpu": 306, "emc": 2133, "cpu0": 1510.4, "cpu4": 729.6}
    assert sample.temperatures_c == {"cpu": 63.625, "tj": 64.031}
    assert sample.utilisation_percent == {"gpu": 63.7}
    assert sample.memory_used_bytes == 4000000 * 1024
    assert sample.throttled == ()
    assert reader.gpu_is_locked() is False


def test_a_thor_is_read_with_its_input(tmp_path: Path) -> None:
    reader = SysfsReader(thor(tmp_path))
    sample = reader.sample(0)
    assert sample.power_mw == pytest.approx(
        {"VIN": 87426, "VDD_GPU": 37524, "VDD_CPU_SOC_MSS": 18960.632, "VIN_SYS_5V0": 18330}
    )
    assert total_rail(sample.power_mw) == "VIN"
    assert sample.clocks_mhz == {"gpu": 1575, "emc": 4266}
    assert sample.temperatures_c == {"gpu": 62.906, "soc012": 58.468}
    assert reader.gpu_is_locked() is True


def test_old_names_of_gpu_and_zones_are_known(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "sys/class/devfreq/17000000.ga10b/cur_freq": 612000000,
            "sys/class/thermal/thermal_zone0/type": "GPU-therm",
            "sys/class/thermal/thermal_zone0/temp": 51000,
            "sys/class/thermal/thermal_zone1/type": "Tdiode_tegra",
            "sys/class/thermal/thermal_zone1/temp": 40000,
        },
    )
    sample = SysfsReader(root).sample(0)
    assert sample.clocks_mhz == {"gpu": 612}
    assert sample.temperatures_c == {"gpu": 51, "tdiode_tegra": 40}


def test_events_count_from_the_beginning_of_the_trace(tmp_path: Path) -> None:
    root = orin_nano(tmp_path)
    counters = root / "sys/class/hwmon/hwmon3"
    reader = SysfsReader(root)
    assert reader.sample(0).throttled == ()  # 37 events before it are of no concern
    write(counters, {"oc3_event_cnt": 39, "oc1_event_cnt": 2})
    assert reader.sample(LATER).throttled == ("over-current", "under-voltage")
    assert reader.sample(2 * LATER).throttled == ()


def test_a_thermal_alert_holds_as_long_as_it_is_raised(tmp_path: Path) -> None:
    root = orin_nano(tmp_path)
    reader = SysfsReader(root)
    write(root, {"sys/class/thermal/cooling_device1/cur_state": 1})
    assert reader.sample(0).throttled == ("thermal",)
    assert reader.sample(LATER).throttled == ("thermal",)
    write(root, {"sys/class/thermal/cooling_device1/cur_state": 0})
    assert reader.sample(2 * LATER).throttled == ()


def test_alarms_of_the_rails_count_where_no_events_are_counted(tmp_path: Path) -> None:
    root = orin_nano(tmp_path)
    write(root, {"sys/class/hwmon/hwmon3/name": "other"})
    assert SysfsReader(root).sample(0).throttled == ("over-current",)


def test_throttling_of_a_desktop_processor_is_counted_once_a_package(tmp_path: Path) -> None:
    cpus = tmp_path / "sys/devices/system/cpu"
    for cpu in (0, 1):
        write(
            cpus,
            {
                f"cpu{cpu}/thermal_throttle/package_throttle_count": 4,
                f"cpu{cpu}/topology/physical_package_id": 0,
            },
        )
    reader = SysfsReader(tmp_path)
    reader.sample(0)
    write(cpus, {"cpu0/thermal_throttle/package_throttle_count": 5})
    assert reader.sample(LATER).throttled == ("thermal",)


def test_slow_sensors_are_read_seldom_and_watts_always(tmp_path: Path) -> None:
    reader = SysfsReader(orin_nano(tmp_path))
    reader.sample(0)
    quick = reader.sample(50_000_000)
    assert set(quick.power_mw) == {"VDD_IN", "VDD_CPU_GPU_CV"}
    assert quick.clocks_mhz == {"gpu": 306}
    assert (quick.temperatures_c, quick.memory_used_bytes) == ({}, None)
    assert reader.sample(60_000_000, complete=True).temperatures_c
    assert reader.sample(160_000_000).temperatures_c


def test_processor_time_is_that_since_the_last_look(tmp_path: Path) -> None:
    reader = SysfsReader(orin_nano(tmp_path))
    # 40 of 100 ticks idle or waiting for a disk; guests' time is in the first number already.
    write(tmp_path, {"proc/stat": "cpu  150 0 110 730 110 0 0 0 30 0"})
    assert reader.sample(LATER).utilisation_percent["cpu"] == pytest.approx(60)
    assert "cpu" not in reader.sample(2 * LATER).utilisation_percent


def test_a_sensor_that_goes_away_is_left_out_and_comes_back(tmp_path: Path) -> None:
    root = orin_nano(tmp_path)
    current = root / "sys/class/hwmon/hwmon1/curr1_input"
    reader = SysfsReader(root)
    assert "VDD_IN" in reader.sample(0).power_mw
    current.write_text("busy\n")
    assert set(reader.sample(LATER).power_mw) == {"VDD_CPU_GPU_CV"}
    current.write_text("2000\n")
    assert reader.sample(2 * LATER).power_mw["VDD_IN"] == pytest.approx(4984 * 2)


def test_a_file_whose_descriptor_fails_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "temp"
    path.write_text("1\n")
    sensor = SensorFile(path)
    assert sensor.number() == 1
    (descriptor,) = [
        int(fd.name)
        for fd in Path("/proc/self/fd").iterdir()
        if fd.is_symlink() and os.path.realpath(fd) == str(path)
    ]
    os.close(descriptor)  # as a device that was unbound: reads fail from now on
    assert sensor.number() is None
    path.write_text("2\n")
    assert sensor.number() == 2
    path.unlink()
    assert sensor.number() == 2  # an open file stays
    sensor.close()
    assert sensor.number() is None
    sensor.close()


def test_a_machine_without_a_board_is_read_as_a_processor(tmp_path: Path) -> None:
    write(tmp_path, {"sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": 3200000})
    reader = SysfsReader(tmp_path)
    assert (reader.source, reader.has_rails, reader.gpu_is_locked()) == ("cpu", False, None)
    assert reader.sample(0).clocks_mhz == {"cpu0": 3200}


def test_a_machine_without_anything_says_so(tmp_path: Path) -> None:
    reader = SysfsReader(tmp_path)
    assert reader.source == "none"
    assert reader.sample(3).clocks_mhz == {}


def test_this_machine_is_read_without_an_error() -> None:
    reader = SysfsReader()
    first = reader.sample(0, complete=True)
    assert reader.source in ("cpu", "sysfs")
    assert first.memory_used_bytes is not None


@pytest.mark.jetson
def test_a_jetson_has_rails_a_total_and_a_gpu_clock() -> None:
    reader = SysfsReader()
    sample = reader.sample(0, complete=True)
    assert total_rail(sample.power_mw)
    assert sample.clocks_mhz["gpu"] >= 0
    assert {"cpu", "tj"} & sample.temperatures_c.keys()
