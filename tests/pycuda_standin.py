"""A stand-in for the calls of pycuda's that the package makes: a ledger, checked at every call.

Its memory is the host's, so what a copy left behind can be read back through its address. It
refuses what CUDA refuses: work without a current context, copies beyond an allocation, freeing
twice, allocating or waiting while a stream is captured. Where CUDA would let a mistake pass, it is
stricter: what is enqueued happens only when it is waited for, memory must not be freed under work
that is pending on it, and what pycuda drops without a current context stays in the ledger. It
computes nothing, and its times are made up.

References:
    pycuda 2026.1, src/cpp/cuda.hpp and src/wrapper/wrap_cudadrv.cpp.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

# Where the GPU sees mapped memory of the host: not where the host sees it, so that a mistake shows.
MAPPED_AT = 1 << 60


class Error(Exception):
    """What `pycuda.driver.Error` is."""


class MemoryError(Error):  # noqa: A001
    """What `pycuda.driver.MemoryError` is."""


class LogicError(Error):
    """What `pycuda.driver.LogicError` is."""


@dataclass(frozen=True)
class Operation:
    """What is enqueued: what happens, what it lasts, and the memory that it works on."""

    happen: Callable[[], None]
    lasts_ms: float = 0.0
    memory: tuple[np.ndarray, ...] = ()


class Ledger:
    """What was done.

    Attributes:
        initialized: Whether `init` was called.
        retained: Primary contexts retained, by device.
        allocations: Live memory of the GPU by address.
        allocated: Allocations of it ever made.
        host: Live page-locked memory by address.
        mapped: Addresses of what of it is mapped.
        streams: Live streams by handle: what is enqueued on each and has not happened.
        stream_flags: What each stream was made with.
        events: How many are live.
        captures: Streams that are captured, by handle: what was recorded; `None` once it failed.
        graphs: Live graphs, executable or not, by handle: what they hold.
        capacity: Bytes that can be allocated at once.
        broken: Raise an error at the next copy and at the next wait.
        integrated: Whether the GPU is an integrated one.
        now_ms: The GPU's clock.
        copy_ms: What a copy lasts.
        log: Names of the calls that enqueue, wait or capture, in order.
    """

    def __init__(self) -> None:
        self.initialized = False
        self.retained: list[int] = []
        self.allocations: dict[int, np.ndarray] = {}
        self.allocated = 0
        self.host: dict[int, np.ndarray] = {}
        self.mapped: set[int] = set()
        self.streams: dict[int, list[Operation]] = {}
        self.stream_flags: dict[int, int] = {}
        self.events = 0
        self.captures: dict[int, list[Operation] | None] = {}
        self.graphs: dict[int, list[Operation]] = {}
        self.pending = False
        self.capacity = 1 << 30
        self.broken = False
        self.integrated = False
        self.now_ms = 0.0
        self.copy_ms = 0.25
        self.log: list[str] = []
        self._lock = threading.RLock()
        self._capturers: dict[int, int] = {}  # thread by stream
        self._threads = threading.local()
        self._handles = iter(range(0x5000, 1 << 40, 0x10))

    @property
    def current(self) -> list[int]:
        """Stack of devices whose context is current on this thread."""
        if not hasattr(self._threads, "stack"):
            self._threads.stack = []
        return self._threads.stack

    @property
    def is_empty(self) -> bool:
        """Whether everything was given back, and this thread is in no context."""
        kept = (self.allocations, self.host, self.streams, self.graphs, self.captures)
        return not any(kept) and self.events == 0 and not self.current

    def check_context(self, what: str) -> None:
        if not self.current:
            raise LogicError(f"{what} failed: invalid device context")

    def check_capture(self, what: str) -> None:
        """Fail, and end the capture as a failed one, if this thread is capturing."""
        for handle, thread in self._capturers.items():
            if thread == threading.get_ident():
                self.captures[handle] = None
                raise LogicError(f"{what} failed: operation not permitted when stream is capturing")

    def enqueue(self, handle: int, what: str, operation: Operation) -> None:
        """Put something on a stream, or into the graph that is recorded there."""
        with self._lock:
            if handle not in self.streams:
                raise LogicError(f"{what} failed: invalid resource handle")
            self.log.append(what)
            if handle in self.captures:
                recorded = self.captures[handle]
                if recorded is None:
                    raise LogicError(f"{what} failed: operation failed due to a previous error")
                recorded.append(operation)
            else:
                self.streams[handle].append(operation)

    def wait(self, handle: int) -> None:
        """Let happen what is on a stream."""
        with self._lock:
            self.check_capture("cuStreamSynchronize")
            if self.broken:
                raise Error("cuStreamSynchronize failed: an illegal memory access was encountered")
            self.log.append("wait")
            while self.streams[handle]:
                operation = self.streams[handle].pop(0)
                operation.happen()
                self.now_ms += operation.lasts_ms

    def begin_capture(self, handle: int) -> None:
        self.captures[handle] = []
        self._capturers[handle] = threading.get_ident()

    def end_capture(self, handle: int) -> list[Operation] | None:
        del self._capturers[handle]
        return self.captures.pop(handle)

    def new_handle(self) -> int:
        return next(self._handles)

    def memory(self, address: int, size: int) -> np.ndarray:
        """Find what the GPU sees at an address; an error if that is not so many bytes."""
        memory = self.allocations.get(address)
        if memory is None and address - MAPPED_AT in self.mapped:
            memory = self.host[address - MAPPED_AT]
        if memory is None or size > memory.size:
            raise LogicError(f"invalid argument: {size} bytes at {address:#x}")
        return memory[:size]

    def read(self, address: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """Copy what lies at an address, as TensorRT would find it."""
        assert not self.pending, "nothing waited for the copy"
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert size <= self.allocations[address].size
        data = (ctypes.c_char * size).from_address(address).raw
        return np.frombuffer(data, dtype).reshape(shape)

    def check_idle(self, memory: np.ndarray) -> None:
        """Fail if something that is enqueued works on memory that is about to be freed."""
        with self._lock:
            pending = [each for stream in self.streams.values() for each in stream]
        used = [used for operation in pending for used in operation.memory]
        assert not any(np.shares_memory(memory, each) for each in used), "freed under pending work"


class DeviceAllocation:
    def __init__(self, ledger: Ledger, size: int) -> None:
        self._ledger = ledger
        room = np.full(size + 256, 0xA5, np.uint8)
        start = -room.ctypes.data % 256  # as cuMemAlloc aligns
        memory = room[start : start + size]
        self._address = memory.ctypes.data
        ledger.allocations[self._address] = memory
        ledger.allocated += 1

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        self._ledger.check_context("cuMemFree")
        self._ledger.check_capture("cuMemFree")
        if self._address not in self._ledger.allocations:
            raise LogicError("cuMemFree failed: invalid argument")
        self._ledger.check_idle(self._ledger.allocations[self._address])
        self._ledger.allocations.pop(self._address)[:] = 0xDD


class PagelockedHostAllocation:
    def __init__(self, ledger: Ledger, size: int, is_mapped: bool) -> None:
        self._ledger = ledger
        room = np.full(size + 4096, 0x5A, np.uint8)
        start = -room.ctypes.data % 4096
        self._memory = room[start : start + size]  # stays, so that a mistake reads and does not end
        self._address = self._memory.ctypes.data
        self.__array_interface__ = self._memory.__array_interface__
        ledger.host[self._address] = self._memory
        if is_mapped:
            ledger.mapped.add(self._address)

    def get_device_pointer(self) -> int:
        self._ledger.check_context("cuMemHostGetDevicePointer")
        if self._address not in self._ledger.mapped:
            raise LogicError("cuMemHostGetDevicePointer failed: invalid argument")
        return self._address + MAPPED_AT

    def free(self) -> None:
        self._ledger.check_context("cuMemFreeHost")
        self._ledger.check_capture("cuMemFreeHost")
        if self._address not in self._ledger.host:
            raise LogicError("pagelocked_host_allocation::free failed: invalid handle")
        self._ledger.check_idle(self._memory)
        self._ledger.mapped.discard(self._address)
        self._ledger.host.pop(self._address)[:] = 0xDD


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
            ledger.check_capture("cuCtxSynchronize")
            for handle in ledger.streams:
                ledger.wait(handle)
            ledger.pending = False

    class Device:
        def __init__(self, number: int) -> None:
            if not ledger.initialized:
                raise Error("cuDeviceGet failed: initialization error")
            if number != 0:
                raise LogicError("cuDeviceGet failed: invalid device ordinal")
            self._number = number

        def retain_primary_context(self) -> Context:
            time.sleep(0.001)  # as long as it takes another thread to come by
            ledger.retained.append(self._number)
            return Context(self._number)

        def get_attribute(self, attribute: str) -> int:
            return {"INTEGRATED": int(ledger.integrated)}[attribute]

        def name(self) -> str:
            return "Stand-in"

        def compute_capability(self) -> tuple[int, int]:
            return (8, 7)

        def total_memory(self) -> int:
            return ledger.capacity

    class Stream:
        def __init__(self, flags: int = 0) -> None:
            ledger.check_context("cuStreamCreate")
            self.handle = ledger.new_handle()
            ledger.streams[self.handle] = []
            ledger.stream_flags[self.handle] = flags

        def synchronize(self) -> None:
            ledger.check_context("cuStreamSynchronize")
            ledger.wait(self.handle)

        def __del__(self) -> None:
            if ledger.current and hasattr(self, "handle"):  # else pycuda leaves it behind
                assert not ledger.streams[self.handle], "a stream was destroyed at work"
                del ledger.streams[self.handle]

    class Event:
        def __init__(self, flags: int = 0) -> None:
            ledger.check_context("cuEventCreate")
            self._time: float | None = None
            ledger.events += 1

        def record(self, stream: Stream | None = None) -> Event:
            def stamp() -> None:
                self._time = ledger.now_ms

            assert stream is not None, "the default stream is nobody's"
            ledger.check_context("cuEventRecord")
            self._time = None
            ledger.enqueue(stream.handle, "event", Operation(stamp))
            return self

        def time_till(self, end: Event) -> float:
            if self._time is None or end._time is None:
                raise Error("cuEventElapsedTime failed: not ready")
            return float(np.float32(end._time - self._time))

        def __del__(self) -> None:
            if ledger.current:
                ledger.events -= 1

    def init() -> None:
        ledger.initialized = True

    def get_driver_version() -> int:
        return 12060

    def mem_get_info() -> tuple[int, int]:
        ledger.check_context("cuMemGetInfo")
        used = sum(memory.size for memory in ledger.allocations.values())
        return ledger.capacity - used, ledger.capacity

    def mem_get_address_range(address: int) -> tuple[int, int]:
        ledger.check_context("cuMemGetAddressRange")
        if address not in ledger.allocations:
            raise LogicError("cuMemGetAddressRange failed: named symbol not found")
        return address, ledger.allocations[address].size

    def check_room(what: str, size: int) -> None:
        ledger.check_context(what)
        ledger.check_capture(what)
        if size <= 0:
            raise LogicError(f"{what} failed: invalid argument")
        memories = [*ledger.allocations.values(), *ledger.host.values()]
        if size + sum(memory.size for memory in memories) > ledger.capacity:
            raise MemoryError(f"{what} failed: out of memory")

    def mem_alloc(size: int) -> DeviceAllocation:
        check_room("cuMemAlloc", size)
        return DeviceAllocation(ledger, size)

    def pagelocked_empty(
        shape: int, dtype: Any, order: str = "C", mem_flags: int = 0
    ) -> np.ndarray:
        assert np.dtype(dtype) == np.uint8, "only bytes have the allocation as their base here"
        size = int(shape)
        check_room("cuMemHostAlloc", size)
        allocation = PagelockedHostAllocation(ledger, size, bool(mem_flags & 2))
        return np.asarray(allocation)

    def memcpy_htod(dest: DeviceAllocation | int, src: Any) -> None:
        ledger.check_context("cuMemcpyHtoD")
        data = np.frombuffer(memoryview(src).cast("B"), np.uint8)  # contiguous or an error
        memory = ledger.allocations[int(dest)]
        if ledger.broken or data.size > memory.size:
            raise LogicError("cuMemcpyHtoD failed: invalid argument")
        memory[: data.size] = data
        ledger.pending = True

    def memcpy_dtoh(dest: Any, src: DeviceAllocation | int) -> None:
        ledger.check_context("cuMemcpyDtoH")
        view = np.frombuffer(memoryview(dest).cast("B"), np.uint8)
        view[:] = ledger.memory(int(src), view.size)

    def memcpy_htod_async(dest: Any, src: Any, stream: Stream | None = None) -> None:
        ledger.check_context("cuMemcpyHtoDAsync")
        data = np.frombuffer(memoryview(src).cast("B"), np.uint8)
        memory = ledger.memory(int(dest), data.size)
        if ledger.broken:
            raise LogicError("cuMemcpyHtoDAsync failed: invalid argument")

        def copy() -> None:
            memory[:] = data

        assert stream is not None, "the default stream is nobody's"
        operation = Operation(copy, ledger.copy_ms, (memory, data))
        ledger.enqueue(stream.handle, "copy in", operation)

    def memcpy_dtoh_async(dest: Any, src: Any, stream: Stream | None = None) -> None:
        ledger.check_context("cuMemcpyDtoHAsync")
        data = np.frombuffer(memoryview(dest).cast("B"), np.uint8)
        assert data.size
        assert not memoryview(dest).readonly
        memory = ledger.memory(int(src), data.size)

        def copy() -> None:
            data[:] = memory

        assert stream is not None, "the default stream is nobody's"
        operation = Operation(copy, ledger.copy_ms, (memory, data))
        ledger.enqueue(stream.handle, "copy out", operation)

    package, driver = types.ModuleType("pycuda"), types.ModuleType("pycuda.driver")
    classes = (Context, Device, Error, MemoryError, LogicError, Stream, Event)
    memory = (mem_alloc, mem_get_info, mem_get_address_range, pagelocked_empty)
    copies = (memcpy_htod, memcpy_dtoh, memcpy_htod_async, memcpy_dtoh_async)
    for item in (*classes, *memory, *copies, init, get_driver_version):
        setattr(driver, item.__name__, item)
    attributes = types.SimpleNamespace(INTEGRATED="INTEGRATED")
    driver.device_attribute = attributes  # type: ignore[attr-defined]
    flags = types.SimpleNamespace(PORTABLE=1, DEVICEMAP=2, WRITECOMBINED=4)
    driver.host_alloc_flags = flags  # type: ignore[attr-defined]
    package.driver = driver  # type: ignore[attr-defined]
    return {"pycuda": package, "pycuda.driver": driver}


def use(ledger: Ledger) -> None:
    """Put the stand-in where imports find it, in a process that ends with the test."""
    sys.modules.update(install(ledger))
