"""Memory on a GPU, always in its primary context: the one that TensorRT works in."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.engine.tensorrt.imports import import_cuda
from edgeattn.errors import EngineError, first_line


@contextlib.contextmanager
def primary_context(device: int = 0) -> Iterator[Any]:
    """Make a GPU's primary context current on this thread.

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
        context = _retained(device)
        context.push()
        try:
            yield cuda
        finally:
            context.pop()
    except cuda.Error as err:
        raise EngineError(
            f"CUDA failed on GPU {device}: {first_line(err)}", "nvidia-smi lists the GPUs"
        ) from err


@functools.cache
def _retained(device: int) -> Any:
    """Keep a primary context alive until the process ends, as TensorRT's own runtime does.

    pycuda leaves a context that it lets go of on the thread's stack.
    """
    cuda = import_cuda()
    cuda.init()
    return cuda.Device(device).retain_primary_context()


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
        self._buffers: dict[str, Any] = {}
        try:
            with primary_context(device) as cuda:
                for name, size in sizes.items():
                    self._buffers[name] = cuda.mem_alloc(size)
        except EngineError:
            self.close()
            raise

    def __getitem__(self, name: str) -> int:
        """Address of a buffer on the GPU."""
        return int(self._buffers[name])

    def fill(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Copy arrays to the buffers of their names; they are there when this returns.

        Raises:
            EngineError: If CUDA fails.
        """
        with primary_context(self._device) as cuda:
            for name, array in arrays.items():
                cuda.memcpy_htod(self._buffers[name], np.ascontiguousarray(array))
            # The copy of pageable memory returns before its last part is on the GPU.
            cuda.Context.synchronize()

    def close(self) -> None:
        """Free the buffers. Closing twice is harmless."""
        if self._buffers:
            with primary_context(self._device):
                while self._buffers:
                    self._buffers.popitem()[1].free()
