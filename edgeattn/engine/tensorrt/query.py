"""A query of a TensorRT engine that can be repeated and timed."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping

import numpy as np

from edgeattn.engine.base import QueryTimes
from edgeattn.engine.tensorrt.buffers import QueryBuffers
from edgeattn.engine.tensorrt.contexts import ContextPool
from edgeattn.engine.tensorrt.device import primary_context
from edgeattn.errors import EngineError


class TensorRtQuery:
    """A query whose inputs and outputs stay in page-locked memory of its own.

    A `BoundQuery` and a `TimedQuery`; `TensorRtEngine.bind` makes it. Each run borrows a context of
    the engine. Calls from several threads run one after the other.

    Args:
        engine: What it is a query of, kept alive.
        pool: The engine's contexts.
        buffers: Those of the query, which frees them.
        device: The GPU.
    """

    def __init__(
        self, engine: object, pool: ContextPool, buffers: QueryBuffers, device: int
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._buffers = buffers
        self._device = device
        self._lock = threading.Lock()
        # A query that is only dropped gives its memory back too, on whatever thread that happens.
        self._free = weakref.finalize(self, buffers.close)

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Set the inputs, which are checked already."""
        with self._lock, primary_context(self._device):
            self._buffers.fill(arrays)

    def __call__(self) -> None:
        """Run the query; its outputs are on the host when this returns.

        Raises:
            EngineError: If the engine is closed or fails.
        """
        with self._lock, self._pool.lend() as execution, primary_context(self._device):
            execution.run(self._buffers)

    def timed(self) -> QueryTimes:
        """Run the query as a call does; the times of its parts are the GPU's, see `event_clock`.

        Raises:
            EngineError: If the engine is closed or fails.
        """
        with self._lock, self._pool.lend() as execution, primary_context(self._device):
            return execution.run_timed(self._buffers)

    def outputs(self) -> dict[str, np.ndarray]:
        """Copy the outputs of the last run, so that they outlive query and engine.

        Raises:
            EngineError: If the engine is closed.
        """
        with self._lock:
            if not self._free.alive:
                raise EngineError("the engine is closed", "take the outputs before")
            with primary_context(self._device):
                return self._buffers.outputs()

    def close(self) -> None:
        """Free the memory. Closing twice is harmless."""
        with self._lock:
            self._free()
