"""Sensors of a graphics card, through NVIDIA's management library (package nvidia-ml-py)."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, TypeVar

from edgeattn.errors import BoardError, MissingDependencyError
from edgeattn.profiling.board.rails import GPU_BOARD
from edgeattn.profiling.board.sample import BoardSample

_T = TypeVar("_T")

_REASONS = {
    "nvmlClocksEventReasonSwPowerCap": "power cap",
    "nvmlClocksEventReasonHwPowerBrakeSlowdown": "power cap",
    "nvmlClocksEventReasonSwThermalSlowdown": "thermal",
    "nvmlClocksEventReasonHwThermalSlowdown": "thermal",
    "nvmlClocksEventReasonHwSlowdown": "hardware slowdown",
}


class NvmlReader:
    """The sensors of the card that CUDA calls device 0.

    Raises:
        BoardError: If there is no driver or no card.
        MissingDependencyError: If nvidia-ml-py is not installed.

    References:
        nvml.h: `nvmlDeviceGetPowerUsage` is a mean of one second from Ampere on (GA100 apart); the
        field NVML_FI_DEV_POWER_INSTANT is the power now.
    """

    def __init__(self) -> None:
        try:
            nvml: Any = importlib.import_module("pynvml")
        except ImportError as err:
            raise MissingDependencyError(
                "nvidia-ml-py, which reads the sensors of a graphics card, is not installed",
                'pip install "edgeattn[board]"',
            ) from err
        self._nvml = nvml
        try:
            nvml.nvmlInit()
            self._device = _visible_device(nvml)
        except nvml.NVMLError as err:
            raise BoardError(
                f"NVIDIA's management library found no graphics card: {err}",
                "run nvidia-smi, which asks the same library",
            ) from err
        self._reasons = {
            getattr(nvml, name): reason for name, reason in _REASONS.items() if hasattr(nvml, name)
        }

    @property
    def name(self) -> str:
        """The card, such as `NVIDIA GeForce RTX 4090`."""
        return self._ask(self._nvml.nvmlDeviceGetName) or ""

    def sample(self, time_ns: int) -> BoardSample:
        """Read the sensors.

        Args:
            time_ns: The time now, of `time.perf_counter_ns`.
        """
        nvml = self._nvml
        clocks = {
            "gpu": self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_GRAPHICS),
            "emc": self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
        }
        celsius = self._ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU)
        load = self._ask(nvml.nvmlDeviceGetUtilizationRates)
        memory = self._memory()
        power = self._power_mw()
        return BoardSample(
            time_ns=time_ns,
            clocks_mhz={name: float(mhz) for name, mhz in clocks.items() if mhz is not None},
            temperatures_c={} if celsius is None else {"gpu": float(celsius)},
            power_mw={} if power is None else {GPU_BOARD: power},
            utilisation_percent=(
                {} if load is None else {"gpu": float(load.gpu), "emc": float(load.memory)}
            ),
            memory_used_bytes=None if memory is None else int(memory.used),
            throttled=self._throttled(),
        )

    def _memory(self) -> Any:
        """Ask in the form that does not count what the driver reserves for itself as used."""
        ask, form = self._nvml.nvmlDeviceGetMemoryInfo, getattr(self._nvml, "nvmlMemory_v2", None)
        memory = self._ask(ask, form) if form else None
        return self._ask(ask) if memory is None else memory  # drivers before 510 have no other

    def _power_mw(self) -> float | None:
        field = getattr(self._nvml, "NVML_FI_DEV_POWER_INSTANT", None)
        values = self._ask(self._nvml.nvmlDeviceGetFieldValues, [field]) if field else None
        if values and values[0].nvmlReturn == self._nvml.NVML_SUCCESS:
            return float(values[0].value.uiVal)
        mean = self._ask(self._nvml.nvmlDeviceGetPowerUsage)
        return None if mean is None else float(mean)

    def _throttled(self) -> tuple[str, ...]:
        bits = self._ask(self._nvml.nvmlDeviceGetCurrentClocksEventReasons)
        if bits is None:  # drivers before 535 know the older name alone
            bits = self._ask(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons) or 0
        return tuple(sorted({reason for bit, reason in self._reasons.items() if bits & bit}))

    def _ask(self, function: Callable[..., _T], *arguments: Any) -> _T | None:
        """Ask the library about the card; `None` if the card does not tell."""
        try:
            return function(self._device, *arguments)
        except self._nvml.NVMLError:
            return None


def _visible_device(nvml: Any) -> Any:
    """Find the card that CUDA calls device 0: the first that `CUDA_VISIBLE_DEVICES` names."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(first)
    return nvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdigit() else 0)
