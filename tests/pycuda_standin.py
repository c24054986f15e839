"""A stand-in for the calls of pycuda's that fill a GPU's memory: a ledger, checked at every call.

Its memory is the host's, so what a copy left behind can be read back through its address. It
refuses what CUDA refuses: work without a current context, copies beyond an allocation, freeing
twice. It computes nothing.
"""

from __future__ import annotations

import ctypes
import sys
import types
from typing import Any

import numpy as np


class Error(Exception):
    """What `pycuda.driver.Error` is."""


class MemoryError(Error):  # noqa: A001
    """What `pycuda.driver.MemoryError` is."""


class Ledger:
    """What was done.

    Attributes:
        initialized: Whether `init` was called.
        retained: Primary contexts retained, by device.
        current: Stack of devices whose context is current.
        allocations: Live memory by address.
        allocated: Allocations ever made.
        pending: Whether a copy may still be on its way.
        capacity: Bytes that can be allocated at once.
        broken: Raise an error at the next copy.
    """

    def __init__(self) -> None:
        self.initialized = False
        self.retained: list[int] = []
        self.current: list[int] = []
        self.allocations: dict[int, np.ndarray] = {}
        self.allocated = 0
        self.pending = False
        self.capacity = 1 << 30
        self.broken = False

    def check_context(self, what: str) -> None:
        if not self.current:
            raise Error(f"{what} failed: invalid device context")

    def read(self, address: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """Copy what lies at an address, as TensorRT would find it."""
        assert not self.pending, "nothing waited for the copy"
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert size <= self.allocations[address].size
        data = (ctypes.c_char * size).from_address(address).raw
        return np.frombuffer(data, dtype).reshape(shape)


class DeviceAllocation:
    def __init__(self, ledger: Ledger, size: int) -> None:
        self._ledger = ledger
        self._address = 0
        memory = np.zeros(size, np.uint8)
        self._address = memory.ctypes.data
        ledger.allocations[self._address] = memory
        ledger.allocated += 1

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._ledger.check_context("cuMemFree")
        if self._address not in self._ledger.allocations:
            raise Error("cuMemFree failed: invalid argument")
        del self._ledger.allocations[self._address]


def install(ledger: Ledger) -> dict[str, types.ModuleType]:
    """Make the modules `pycuda` and `pycuda.driver`, for `sys.modules`."""

    class Context:
        def __init__(self, device: int) -> None:
            self._device = device

        def push(self) -> None:
            ledger.current.append(self._device)

        @staticmethod
        def pop() -> None:
            ledger.check_context("cuCtxPopCurrent")
            ledger.current.pop()

        @staticmethod
        def synchronize() -> None:
            ledger.check_context("cuCtxSynchronize")
            ledger.pending = False

    class Device:
        def __init__(self, number: int) -> None:
            if not ledger.initialized:
                raise Error("cuDeviceGet failed: initialization error")
            if number != 0:
                raise Error("cuDeviceGet failed: invalid device ordinal")
            self._number = number

        def retain_primary_context(self) -> Context:
            ledger.retained.append(self._number)
            return Context(self._number)

    def init() -> None:
        ledger.initialized = True

    def mem_alloc(size: int) -> DeviceAllocation:
        ledger.check_context("cuMemAlloc")
        if size + sum(memory.size for memory in ledger.allocations.values()) > ledger.capacity:
            raise MemoryError("cuMemAlloc failed: out of memory")
        return DeviceAllocation(ledger, size)

    def memcpy_htod(dest: DeviceAllocation | int, src: Any) -> None:
        ledger.check_context("cuMemcpyHtoD")
        data = np.frombuffer(memoryview(src).cast("B"), np.uint8)  # contiguous or an error
        memory = ledger.allocations[int(dest)]
        if ledger.broken or data.size > memory.size:
            raise Error("cuMemcpyHtoD failed: invalid argument")
        memory[: data.size] = data
        ledger.pending = True

    package, driver = types.ModuleType("pycuda"), types.ModuleType("pycuda.driver")
    for item in (Context, Device, Error, MemoryError, init, mem_alloc, memcpy_htod):
        setattr(driver, item.__name__, item)
    package.driver = driver  # type: ignore[attr-defined]
    return {"pycuda": package, "pycuda.driver": driver}


def use(ledger: Ledger) -> None:
    """Put the stand-in where imports find it, in a process that ends with the test."""
    sys.modules.update(install(ledger))
