"""NVML: what a card says and what it does not; here played by an object, on GPUs by the card.

The object drives control flow: a card that refuses some questions, or answers as recorded cards
did. It measures nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeattn.errors import BoardError, MissingDependencyError
from edgeattn.profiling.board.nvml import NvmlReader

READINGS = Path(__file__).parents[3] / "fixtures/boards/nvml/readings.json"
CASES = json.loads(READINGS.read_text())

# By the names that nvidia-smi gives them; bits of nvml.h.
REASONS = {
    "Idle": 0x1,
    "Applications Clocks Setting": 0x2,
    "SW Power Cap": 0x4,
    "HW Slowdown": 0x8,
    "Sync Boost": 0x10,
    "SW Thermal Slowdown": 0x20,
    "HW Thermal Slowdown": 0x40,
    "HW Power Brake Slowdown": 0x80,
    "Display Clock Setting": 0x100,
}
NOT_SUPPORTED = 3


class NVMLError(Exception):
    pass


def played(**answers: Any) -> SimpleNamespace:
    """Make a library whose card answers what is given and refuses all other questions."""

    def refuse(*_: Any) -> Any:
        raise NVMLError("Not Supported")

    asked = (
        "nvmlInit",
        *("nvmlDeviceGetHandleByIndex", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetName"),
        *("nvmlDeviceGetClockInfo", "nvmlDeviceGetTemperature", "nvmlDeviceGetUtilizationRates"),
        *("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetFieldValues", "nvmlDeviceGetPowerUsage"),
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
    )
    real = pytest.importorskip("pynvml")
    library = {name: value for name, value in vars(real).items() if isinstance(value, int)}
    library |= dict.fromkeys(asked, refuse)
    assert all(hasattr(real, name) for name in asked)
    begin = {"nvmlInit": lambda: None, "nvmlDeviceGetHandleByIndex": lambda index: f"card {index}"}
    return SimpleNamespace(NVMLError=NVMLError, **(library | begin | answers))


def reader(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> NvmlReader:
    monkeypatch.setitem(sys.modules, "pynvml", played(**answers))
    return NvmlReader()


def power_now(milliwatts: int, status: int = 0) -> list[SimpleNamespace]:
    return [SimpleNamespace(nvmlReturn=status, value=SimpleNamespace(uiVal=milliwatts))]


def test_a_card_that_tells_all_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    card = reader(
        monkeypatch,
        nvmlDeviceGetName=lambda device: "NVIDIA H200",
        nvmlDeviceGetClockInfo=lambda device, kind: {0: 1980, 2: 3201}[kind],
        nvmlDeviceGetTemperature=lambda device, sensor: 41,
        nvmlDeviceGetUtilizationRates=lambda device: SimpleNamespace(gpu=97, memory=55),
        nvmlDeviceGetMemoryInfo=lambda device, version=1: SimpleNamespace(
            used=1 << (31 if version == 0x02000028 else 32)
        ),
        nvmlDeviceGetFieldValues=lambda device, fields: power_now(612345),
        nvmlDeviceGetPowerUsage=lambda device: 500000,
        nvmlDeviceGetCurrentClocksEventReasons=lambda device: 0x4 | 0x40 | 0x1,
    )
    sample = card.sample(9)
    assert card.name == "NVIDIA H200"
    assert sample.time_ns == 9
    assert sample.clocks_mhz == {"gpu": 1980, "emc": 3201}
    assert sample.temperatures_c == {"gpu": 41}
    assert sample.utilisation_percent == {"gpu": 97, "emc": 55}
    assert sample.power_mw == {"GPU_BOARD": 612345}  # now, not the mean of a second
    assert sample.memory_used_bytes == 1 << 31
    assert sample.throttled == ("power cap", "thermal")


def test_a_card_that_tells_nothing_gives_an_empty_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    card = reader(monkeypatch)
    sample = card.sample(0)
    assert card.name == ""
    assert (sample.clocks_mhz, sample.power_mw, sample.throttled) == ({}, {}, ())
    assert sample.memory_used_bytes is None


def recorded(case: dict[str, Any]) -> dict[str, Any]:
    """Let the library answer what nvidia-smi printed of a card."""
    printed: dict[tuple[str, str], str] = {}
    section = ""
    for line in case["lines"]:
        name, colon, value = line.partition(" : ")
        section = section if colon else line
        printed.setdefault(("" if name == "Product Name" else section, name), value)

    def number(section: str, *names: str, unit: int = 1) -> int:
        told = [printed.get((section, name), "N/A") for name in names]
        known = [float(text.split()[0]) for text in told if text != "N/A"]
        if not known:
            raise NVMLError("Not Supported")
        return round(known[0] * unit)

    def clock(device: str, kind: int) -> int:
        return number("Clocks", {0: "Graphics", 2: "Memory"}[kind])

    def power_of_now(device: str, fields: list[int]) -> list[SimpleNamespace]:
        try:
            return power_now(number("GPU Power Readings", "Instantaneous Power Draw", unit=1000))
        except NVMLError:
            return power_now(0, NOT_SUPPORTED)

    def mean_power(device: str) -> int:
        section = "Power Readings" if ("Power Readings", "Power Draw") in printed else ""
        section = section or "GPU Power Readings"
        return number(section, "Power Draw", "Average Power Draw", unit=1000)

    def memory(device: str, version: int = 1) -> SimpleNamespace:
        used = number("FB Memory Usage", "Used")
        reserved = 0 if version != 1 else number("FB Memory Usage", "Reserved")
        return SimpleNamespace(used=(used + reserved) << 20)

    def temperature(device: str, sensor: int) -> int:
        return number("Temperature", "GPU Current Temp")

    def load(device: str) -> SimpleNamespace:
        gpu = number("Utilization", "GPU", "Gpu")
        told = printed.get(("Utilization", "Memory"), "0 %")
        return SimpleNamespace(gpu=gpu, memory=int(told.split()[0]))

    def reasons(device: str) -> int:
        found = [bit for name, bit in REASONS.items() if ("Clocks Event Reasons", name) in printed]
        if not found:
            raise NVMLError("Function Not Found")
        return bits("Clocks Event Reasons")

    def bits(section: str) -> int:
        active = {name for name in REASONS if printed.get((section, name)) == "Active"}
        return sum(REASONS[name] for name in active)

    return {
        "nvmlDeviceGetName": lambda device: printed["", "Product Name"],
        "nvmlDeviceGetClockInfo": clock,
        "nvmlDeviceGetTemperature": lambda device, sensor: number(
            "Temperature", "GPU Current Temp"
        ),
        "nvmlDeviceGetUtilizationRates": load,
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetFieldValues": power_of_now,
        "nvmlDeviceGetPowerUsage": mean_power,
        "nvmlDeviceGetCurrentClocksEventReasons": reasons,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda device: bits("Clocks Throttle Reasons"),
    }


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_recorded_answers_are_read_as_a_person_reads_them(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = reader(monkeypatch, **recorded(case))
    sample, expected = card.sample(7), case["expected"]
    assert card.name == expected["name"]
    assert sample.clocks_mhz.get("gpu") == expected["gpu_mhz"]
    assert sample.clocks_mhz.get("emc") == expected["memory_mhz"]
    assert sample.temperatures_c.get("gpu") == expected["gpu_c"]
    assert sample.power_mw.get("GPU_BOARD") == expected["power_mw"]
    assert sample.utilisation_percent["gpu"] == expected["gpu_percent"]
    if "memory_percent" in expected:
        assert sample.utilisation_percent["emc"] == expected["memory_percent"]
    used = expected["used_mib"]
    assert sample.memory_used_bytes == (None if used is None else used << 20)
    assert list(sample.throttled) == expected["throttled"]


def test_there_are_answers_of_four_cards_and_of_old_and_new_drivers() -> None:
    assert len({case["gpu"] for case in CASES}) >= 4
    assert {int(case["driver"].split(".")[0]) >= 535 for case in CASES} == {True, False}
    assert all(case["source"] for case in CASES)


def test_older_drivers_give_the_mean_power_and_the_older_reasons(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = reader(
        monkeypatch,
        nvmlDeviceGetFieldValues=lambda device, fields: power_now(0, status=3),
        nvmlDeviceGetPowerUsage=lambda device: 70000,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda device: 0x8,
    )
    sample = card.sample(0)
    assert sample.power_mw == {"GPU_BOARD": 70000}
    assert sample.throttled == ("hardware slowdown",)


@pytest.mark.parametrize(
    ("visible", "device"),
    [("", "card 0"), ("3,1", "card 3"), ("GPU-8a1b", "GPU-8a1b"), ("MIG-7f", "MIG-7f")],
)
def test_the_card_is_the_one_that_cuda_uses(
    monkeypatch: pytest.MonkeyPatch, visible: str, device: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    card = reader(
        monkeypatch,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetName=lambda asked: asked,
    )
    assert card.name == device


def test_no_driver_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise NVMLError("Driver Not Loaded")

    with pytest.raises(BoardError, match="found no graphics card: Driver Not Loaded"):
        reader(monkeypatch, nvmlInit=fail)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MissingDependencyError, match="nvidia-ml-py") as caught:
        NvmlReader()
    assert "edgeattn[board]" in caught.value.hint


@pytest.mark.gpu
def test_a_real_card_tells_its_clock_watts_and_temperature() -> None:
    pytest.importorskip("pynvml")
    card = NvmlReader()
    sample = card.sample(0)
    assert card.name
    assert sample.clocks_mhz["gpu"] > 0
    assert 0 < sample.power_mw["GPU_BOARD"] < 2e6
    assert 0 < sample.temperatures_c["gpu"] < 120
