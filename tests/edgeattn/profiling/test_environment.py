"""The record of the machine, from files as Linux writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeattn.errors import ArtifactError
from edgeattn.profiling import environment
from edgeattn.profiling.environment import Environment, collect_environment


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files as on a Jetson Orin with two of its processors in the affinity mask."""
    files = {
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "proc/meminfo": "MemTotal:       31895284 kB\nMemAvailable:   27000000 kB\nHugePages:  0\n",
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\nCPU part\t: 0xd42\n",
        "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.4 LTS"\n',
    }
    for cpu, clock in ((0, 729600), (1, 2201600)):
        folder = f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
        files[f"{folder}/scaling_governor"] = "schedutil\n"
        files[f"{folder}/scaling_cur_freq"] = f"{clock}\n"
        files[f"{folder}/scaling_max_freq"] = "2201600\n"
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(environment, "affinity", lambda: (0, 1))
    return tmp_path


def test_a_board_describes_itself(jetson: Path) -> None:
    found = collect_environment(jetson)
    assert found.machine == "NVIDIA Jetson AGX Orin Developer Kit"
    assert found.cpu_features == ("asimd", "asimdhp", "asimddp")
    assert (found.logical_cores, found.usable_cores) == (2, 2)
    assert found.governor == "schedutil"
    assert (found.clock_mhz, found.max_clock_mhz) == ((729.6, 2201.6), 2201.6)
    assert found.memory_total_bytes == 31895284 * 1024
    assert found.memory_available_bytes == 27000000 * 1024
    assert found.operating_system == "Ubuntu 22.04.4 LTS"


def test_clocks_of_a_laptop_come_from_cpuinfo(jetson: Path) -> None:
    (jetson / "proc/cpuinfo").write_text(
        "processor\t: 0\ncpu MHz\t\t: 800.5\n\nprocessor\t: 1\ncpu MHz\t\t: 3200\n\n"
        "processor\t: 2\ncpu MHz\t\t: 9999\n"
    )
    for path in jetson.glob("sys/devices/system/cpu/*/cpufreq/scaling_cur_freq"):
        path.unlink()
    assert collect_environment(jetson).clock_mhz == (800.5, 3200)


def test_what_the_system_does_not_tell_is_none(tmp_path: Path) -> None:
    found = collect_environment(tmp_path)
    for name in ("machine", "governor", "clock_mhz", "max_clock_mhz", "memory_total_bytes"):
        assert getattr(found, name) is None
    assert found.operating_system


def test_this_machine_is_described_and_survives_json() -> None:
    found = collect_environment()
    assert found.cpu_model
    assert found.logical_cores >= 1
    assert "onnxruntime" in found.tools
    assert Environment.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize("values", [None, {}, {"clock_mhz": None, "cpu_features": [], "new": 1}])
def test_malformed_records_are_refused(values: object) -> None:
    with pytest.raises(ArtifactError, match="environment record is malformed"):
        Environment.from_dict(values)
