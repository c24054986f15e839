"""CUDA's driver through ctypes: enough to run a kernel library on numpy arrays.

No toolkit, no framework: whatever has a GPU has `libcuda.so.1`.

References:
    `cuda.h` of CUDA 13.0: names, types and enumerators of the calls made here.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint64, c_void_p
from typing import Any

import numpy as np

from edgeattn.errors import PluginError

# CUDA_ERROR_STUB_LIBRARY, CUDA_ERROR_NO_DEVICE: a machine without a GPU, not a broken one.
_NOT_THERE = (34, 100)
# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, …_MINOR
_MAJOR, _MINOR = 75, 76
_NON_BLOCKING_STREAM = 1
_CAPTURE_THIS_THREAD = 1


class Driver:
    """The driver, started.

    Args:
        library: `libcuda.so.1`, loaded and initialised; `open_driver` gives it.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver.

        Raises:
            PluginError: If it answers with an error.
        """
        status = getattr(self._library, name)(*arguments)
        if status:
            text = c_char_p()
            self._library.cuGetErrorString(status, byref(text))
            said = (text.value or b"").decode() or "unknown error"
            raise PluginError(f"{name} failed: CUDA error {status}, {said}")

    def integer(self, name: str, *arguments: Any) -> int:
        """Call a function that writes an integer to its first argument."""
        value = c_int()
        self.call(name, byref(value), *arguments)
        return value.value

    def pointer(self, name: str, *arguments: Any) -> c_void_p:
        """Call a function that writes a handle to its first argument."""
        value = c_void_p()
        self.call(name, byref(value), *arguments)
        return value


def open_driver() -> Driver | None:
    """Start the driver; `None` on a machine without one or without a GPU.

    Raises:
        PluginError: If there is a driver, but it does not start.
    """
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:  # no driver on this machine
        return None
    status = library.cuInit(0)
    if status in _NOT_THERE:
        return None
    if status:
        raise PluginError(
            f"the NVIDIA driver does not start: CUDA error {status}", "does nvidia-smi work?"
        )
    return Driver(library)


def local_architectures() -> tuple[int, ...]:
    """List the SM numbers of this machine's GPUs in the driver's order; empty without any.

    Raises:
        PluginError: If there is a driver, but it does not start.
    """
    driver = open_driver()
    if driver is None:
        return ()
    numbers = []
    for ordinal in range(driver.integer("cuDeviceGetCount")):
        device = driver.integer("cuDeviceGet", ordinal)
        major, minor = (
            driver.integer("cuDeviceGetAttribute", attribute, device)
            for attribute in (_MAJOR, _MINOR)
        )
        numbers.append(10 * major + minor)
    return tuple(numbers)


class Device:
    """The first GPU with a stream of its own, in the primary context that frameworks use too.

    Args:
        driver: The driver; use `open_device`.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._addresses: list[int] = []
        self._device = driver.integer("cuDeviceGet", 0)
        self._context = driver.pointer("cuDevicePrimaryCtxRetain", self._device)
        self._context_before = driver.pointer("cuCtxGetCurrent")
        driver.call("cuCtxSetCurrent", self._context)
        self._stream = driver.pointer("cuStreamCreate", _NON_BLOCKING_STREAM)

    @property
    def stream(self) -> int:
        """The `CUstream`, as an integer."""
        return self._stream.value or 0

    def upload(self, array: np.ndarray) -> int:
        """Copy an array to memory of its own; returns the address. `close` frees it."""
        address = c_uint64()
        size = max(array.nbytes, 1)  # the driver gives no empty memory
        self._driver.call("cuMemAlloc_v2", byref(address), c_size_t(size))
        self._addresses.append(address.value)
        self.fill(address.value, array)
        return address.value

    def fill(self, address: int, array: np.ndarray) -> None:
        """Copy an array to an address that `upload` gave, and wait until it is there."""
        contiguous = np.ascontiguousarray(array)
        # Not the synchronous copy: of pageable memory it may return before the bytes are there, and
        # this stream, a non-blocking one, does not wait for the default stream's copies.
        self._driver.call(
            "cuMemcpyHtoDAsync_v2",
            c_uint64(address),
            contiguous.ctypes.data_as(c_void_p),
            c_size_t(contiguous.nbytes),
            self._stream,
        )
        self._driver.call("cuStreamSynchronize", self._stream)

    def download(self, address: int, array: np.ndarray) -> None:
        """Wait for the stream, then copy from an address into a contiguous array."""
        self._driver.call("cuStreamSynchronize", self._stream)
        self._driver.call(
            "cuMemcpyDtoH_v2",
            array.ctypes.data_as(c_void_p),
            c_uint64(address),
            c_size_t(array.nbytes),
        )

    def run_captured(self, enqueue: Callable[[], None]) -> None:
        """Record what a function enqueues on the stream as a graph, and launch the graph.

        Raises:
            PluginError: If the function does what cannot be recorded, such as waiting.
        """
        driver = self._driver
        driver.call("cuStreamBeginCapture_v2", self._stream, _CAPTURE_THIS_THREAD)
        graph = c_void_p()
        try:
            enqueue()
        except BaseException:
            # Ends the recording; its own failure would only hide the first one.
            with contextlib.suppress(PluginError):
                driver.call("cuStreamEndCapture", self._stream, byref(graph))
            raise
        driver.call("cuStreamEndCapture", self._stream, byref(graph))
        executable = driver.pointer("cuGraphInstantiateWithFlags", graph, c_uint64(0))
        driver.call("cuGraphLaunch", executable, self._stream)
        driver.call("cuStreamSynchronize", self._stream)
        driver.call("cuGraphExecDestroy", executable)
        driver.call("cuGraphDestroy", graph)

    def close(self) -> None:
        """Give memory, stream and context back; this thread's context is the one it was."""
        self._driver.call("cuStreamSynchronize", self._stream)
        for address in self._addresses:
            self._driver.call("cuMemFree_v2", c_uint64(address))
        self._addresses.clear()
        self._driver.call("cuStreamDestroy_v2", self._stream)
        # The last release ends the context, even one that is current: later calls would fail.
        self._driver.call("cuCtxSetCurrent", self._context_before)
        self._driver.call("cuDevicePrimaryCtxRelease_v2", self._device)


@contextlib.contextmanager
def open_device() -> Iterator[Device | None]:
    """Give the first GPU; `None` on a machine without one.

    Raises:
        PluginError: If the driver does not start, or answers with an error.
    """
    driver = open_driver()
    if driver is None:
        yield None
        return
    device = Device(driver)
    try:
        yield device
    finally:
        device.close()
