"""NVML: what a card says and what it does not; here played by an object, on GPUs by the card.

The object drives control flow: a card that refuses some questions. It measures nothing.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from edgeattn.errors import BoardError, MissingDependencyError
from edgeattn.profiling.board.nvml import NvmlReader


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
        nvmlDeviceGetMemoryInfo=lambda device: SimpleNamespace(used=1 << 31),
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
