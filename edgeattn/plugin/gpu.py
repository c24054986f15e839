"""The GPUs of this machine, asked of the driver: no toolkit, no framework."""

from __future__ import annotations

import ctypes

from edgeattn.errors import PluginError

# CUDA_ERROR_STUB_LIBRARY, CUDA_ERROR_NO_DEVICE: a machine without a GPU, not a broken one.
_NOT_THERE = (34, 100)
# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, …_MINOR
_MAJOR, _MINOR = 75, 76


def local_architectures() -> tuple[int, ...]:
    """List the SM numbers of this machine's GPUs in the driver's order; empty without any.

    Raises:
        PluginError: If there is a driver, but it does not start.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:  # no driver on this machine
        return ()
    status = driver.cuInit(0)
    if status in _NOT_THERE:
        return ()
    if status:
        raise PluginError(
            f"the NVIDIA driver does not start: CUDA error {status}", "does nvidia-smi work?"
        )
    count = _integer(driver.cuDeviceGetCount)
    numbers = []
    for ordinal in range(count):
        device = _integer(driver.cuDeviceGet, ordinal)
        major = _integer(driver.cuDeviceGetAttribute, _MAJOR, device)
        numbers.append(10 * major + _integer(driver.cuDeviceGetAttribute, _MINOR, device))
    return tuple(numbers)


def _integer(function: ctypes._NamedFuncPointer, *arguments: int) -> int:
    """Call a function of the driver that writes an integer to its first argument."""
    value = ctypes.c_int()
    status = function(ctypes.byref(value), *arguments)
    if status:
        raise PluginError(f"the NVIDIA driver answers with CUDA error {status}")
    return value.value
