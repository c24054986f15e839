"""The host's side of a query: page-locked memory, which the GPU reads and writes by itself.

A copy to or from it runs beside the processor and at the full speed of the bus. On an integrated
GPU it can also be mapped: the GPU then works in it directly, and nothing is copied at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.engine.tensorrt.device import primary_context
from edgeattn.engine.tensorrt.imports import import_cuda
from edgeattn.engine.tensorrt.io_tensors import IoTensor


class PageLockedMemory:
    """Named page-locked arrays that grow where more is asked for and never shrink.

    Their memory ends with `close`, so no array of it may leave the package uncopied. Everything
    but `close` is to be called where the primary context is current.

    Args:
        device: The GPU whose primary context owns the memory.
        mapped: Let the GPU address it.

    References:
        pycuda 2026.1: an array's `base` is the allocation, with `free` and `get_device_pointer`.
    """

    def __init__(self, device: int = 0, *, mapped: bool = False) -> None:
        self._device = device
        self._mapped = mapped
        self._arrays: dict[str, NDArray[np.uint8]] = {}

    def array(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Give an array, reserving what it takes; its content is that of the bytes that are there.

        Args:
            name: Of the array.
            dtype: Element type; those of `ml_dtypes` too.
            shape: May hold a 0.
        """
        size = dtype.itemsize * math.prod(shape)
        return self.content(name, size).view(dtype).reshape(shape)

    def content(self, name: str, size: int) -> NDArray[np.uint8]:
        """Give the first bytes of an array, reserving them; pycuda copies no other type of them."""
        array = self._arrays.get(name)
        if array is None or array.size < size:
            if array is not None:
                del self._arrays[name]
                _free(array)
            cuda = import_cuda()
            flags = cuda.host_alloc_flags.DEVICEMAP if self._mapped else 0
            # CUDA gives no empty memory.
            array = cuda.pagelocked_empty(max(size, 1), np.uint8, mem_flags=flags)
            self._arrays[name] = array
        return array[:size]

    def reserve(self, name: str, size: int) -> int:
        """Reserve bytes of mapped memory; gives their address for the GPU, aligned to a page."""
        self.content(name, size)
        allocation: Any = self._arrays[name].base
        return int(allocation.get_device_pointer())

    def reserve_on_host(self, name: str, size: int) -> int:
        """Reserve bytes; gives their address for the processor, aligned to a page."""
        self.content(name, size)
        return int(self._arrays[name].ctypes.data)

    def close(self) -> None:
        """Free everything. Closing twice is harmless."""
        if self._arrays:
            with primary_context(self._device):
                while self._arrays:
                    _free(self._arrays.popitem()[1])


class QueryBuffers:
    """The inputs and outputs of one query on the host.

    Args:
        tensors: Those of the engine.
        device: The GPU.
        mapped: Let it address them.

    Attributes:
        memory: Where they lie, by name.
        shapes: Of the inputs since `fill`, of the outputs since the query ran.
    """

    def __init__(self, tensors: Sequence[IoTensor], device: int = 0, *, mapped: bool) -> None:
        self.memory = PageLockedMemory(device, mapped=mapped)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._tensors = tuple(tensors)

    def size(self, tensor: IoTensor) -> int:
        """Tell the bytes of a tensor."""
        return tensor.dtype.itemsize * math.prod(self.shapes[tensor.name])

    def content(self, tensor: IoTensor) -> NDArray[np.uint8]:
        """Give a tensor's bytes; to be called where the primary context is current."""
        return self.memory.content(tensor.name, self.size(tensor))

    def array(self, tensor: IoTensor) -> NDArray[Any]:
        """Give a tensor's array; to be called where the primary context is current."""
        return self.memory.array(tensor.name, tensor.dtype, self.shapes[tensor.name])

    def fill(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy the inputs in; to be called where the primary context is current."""
        for tensor in self._tensors:
            if tensor.is_input:
                self.shapes[tensor.name] = arrays[tensor.name].shape
                self.array(tensor)[...] = arrays[tensor.name]

    def outputs(self) -> dict[str, NDArray[Any]]:
        """Copy the outputs out; to be called where the primary context is current."""
        return {t.name: self.array(t).copy() for t in self._tensors if not t.is_input}

    def close(self) -> None:
        """Free the memory. Closing twice is harmless."""
        self.memory.close()


def _free(array: NDArray[np.uint8]) -> None:
    allocation: Any = array.base
    allocation.free()
