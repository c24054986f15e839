"""Memory on a GPU, always in its primary context: the one that TensorRT works in."""

from __future__ import annotations

import contextlib
import functools
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.engine.tensorrt.imports import import_cuda
from edgeattn.errors import EngineError, first_line

# Reentrant: what the garbage collector drops in this very moment frees its memory here too.
_retaining = threading.RLock()


@contextlib.contextmanager
def primary_context(device: int = 0) -> Iterator[Any]:
    """Make a GPU's primary context current on this thread.

    pycuda frees memory, streams and events of a thread in another one only where their context is
    current, and leaves them behind otherwise: whoever frees does it in such a block.

    Args:
        device: The GPU, as CUDA numbers them.

    Yields:
        `pycuda.driver`.

    Raises:
        EngineError: If there is no such GPU, or CUDA fails in the block.
        MissingDependencyError: If pycuda cannot be imported.
    """
    cuda = import_cuda()
    try:
        with _retaining:
            context = _retained(device)
        context.push()
        try:
            yield cuda
        finally:
            context.pop()
    except cuda.Error as err:
        hint = "nvidia-smi lists the GPUs"
        if isinstance(err, cuda.MemoryError):
            hint = "smaller batches and fewer contexts take less memory; so does closing engines"
        raise EngineError(f"CUDA failed on GPU {device}: {first_line(err)}", hint) from err


@functools.cache
def _retained(device: int) -> Any:
    """Keep a primary context alive until the process ends, as TensorRT's own runtime does.

    pycuda leaves a context that it lets go of on the thread's stack. There must be one object for
    all threads: pycuda takes a second one for another context.
    """
    cuda = import_cuda()
    cuda.init()
    return cuda.Device(device).retain_primary_context()


def is_integrated(device: int = 0) -> bool:
    """Tell whether a GPU works in the processor's own memory, as on a Jetson.

    Raises:
        EngineError: If there is no such GPU.
        MissingDependencyError: If pycuda cannot be imported.
    """
    with primary_context(device) as cuda:
        attribute = cuda.device_attribute.INTEGRATED
        return bool(cuda.Device(device).get_attribute(attribute))


def forget_locals(error: BaseException) -> None:
    """Clear the local variables of an error's traceback, and of those that it was raised from.

    They would keep engines and contexts, gigabytes of the GPU's memory, for as long as somebody
    holds the error; and let them end where their context is not current.
    """
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__


class DeviceMemory:
    """Named allocations on a GPU that grow where more is asked for and never shrink.

    Args:
        device: The GPU.
    """

    def __init__(self, device: int = 0) -> None:
        self._device = device
        self._allocations: dict[str, tuple[Any, int]] = {}

    def __getitem__(self, name: str) -> int:
        """Address of an allocation on the GPU."""
        return int(self._allocations[name][0])

    def reserve(self, name: str, size: int) -> int:
        """Make an allocation at least so large; what was in a smaller one is lost.

        Nothing may be at work on it. To be called where the primary context is current.

        Args:
            name: Of the allocation.
            size: Bytes.

        Returns:
            Its address, aligned as `cuMemAlloc` aligns: to 256 bytes at least.
        """
        memory, reserved = self._allocations.get(name, (None, 0))
        if reserved < size or memory is None:
            if memory is not None:
                del self._allocations[name]
                memory.free()
            size = max(size, 1)  # CUDA gives no empty memory
            self._allocations[name] = (import_cuda().mem_alloc(size), size)
        return self[name]

    def close(self) -> None:
        """Free everything. Closing twice is harmless."""
        if self._allocations:
            with primary_context(self._device):
                while self._allocations:
                    self._allocations.popitem()[1][0].free()


class DeviceBuffers:
    """Named buffers on a GPU, filled from the host.

    Args:
        sizes: Bytes of each buffer by name.
        device: The GPU.

    Raises:
        EngineError: If there is no such GPU or its memory does not suffice.
        MissingDependencyError: If pycuda cannot be imported.
    """

    def __init__(self, sizes: Mapping[str, int], device: int = 0) -> None:
        self._device = device
        self._memory = DeviceMemory(device)
        try:
            with primary_context(device):
                for name, size in sizes.items():
                    self._memory.reserve(name, size)
        except EngineError:
            self.close()
            raise

    def __getitem__(self, name: str) -> int:
        """Address of a buffer on the GPU."""
        return self._memory[name]

    def fill(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy arrays to the buffers of their names; they are there when this returns.

        Raises:
            EngineError: If CUDA fails.
        """
        with primary_context(self._device) as cuda:
            for name, array in arrays.items():
                # Bytes: Python's buffers, which pycuda takes, know no bfloat16.
                content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                cuda.memcpy_htod(self._memory[name], content)
            # The copy of pageable memory returns before its last part is on the GPU.
            cuda.Context.synchronize()

    def close(self) -> None:
        """Free the buffers. Closing twice is harmless."""
        self._memory.close()
