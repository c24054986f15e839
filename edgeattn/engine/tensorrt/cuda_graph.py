"""A computation recorded as a CUDA graph: one launch in place of one for each kernel.

Only the computation is recorded, as trtexec does it: the copies stay apart and can be timed apart.
A graph freezes shapes, addresses and the values of shape tensors; who launches it sees to it that
they are still the same.

References:
    trtexec's sampleDevice.h: capture of this thread alone, clearing of the error that a refused
    capture leaves. TensorRT's header: an engine that streams weights cannot be captured; one that
    cannot be captured refuses to enqueue.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

from edgeattn.engine.tensorrt.imports import import_cuda_runtime
from edgeattn.errors import MissingDependencyError, first_line

_log = logging.getLogger("edgeattn.tensorrt")

_WHY = {
    # What pip installs unasked is of the newest CUDA: on JetPack 6 one major version too new.
    "cudaErrorInsufficientDriver": (
        ": cuda-python is of a newer CUDA than the driver; install the one of its major version, "
        "such as 'cuda-python==12.*'"
    ),
}


class GraphError(Exception):
    """A computation that cannot be recorded or launched as a graph; says why."""


class GraphUse:
    """Whether an engine launches graphs, and if not, why; shared by its contexts.

    Args:
        wanted: Whether it shall.

    Attributes:
        is_on: Whether it does.
        reason: Why it does not although it should; empty otherwise.
        runtime: cuda-python's module; `None` where it is off.
    """

    def __init__(self, wanted: bool) -> None:
        self.is_on = wanted
        self.reason = ""
        self.runtime: Any = None
        if wanted:
            try:
                self.runtime = import_cuda_runtime()
            except MissingDependencyError as err:
                self.refuse(f"{err.message}; {err.hint}")

    def refuse(self, reason: str) -> None:
        """Go on without graphs, and say so once."""
        if self.is_on:
            self.is_on, self.reason = False, reason
            _log.warning("queries run without a CUDA graph: %s", reason)


class CudaGraph:
    """A recorded computation. To be used where the primary context is current.

    Args:
        runtime: cuda-python's bindings of the runtime.
        stream: Handle of the stream, which is not the default one.
        enqueue: Enqueues the computation on the stream; false if it refuses. It must have run
            once before: what a first run sets up cannot be recorded.

    Raises:
        GraphError: If it cannot be recorded. The stream is as it was before.
    """

    def __init__(self, runtime: Any, stream: int, enqueue: Callable[[], bool]) -> None:
        self._runtime = runtime
        self._executable: Any = None
        with _no_garbage_collection():
            graph = self._capture(stream, enqueue)
        try:
            # Not cudaGraphInstantiate: its parameters changed with CUDA 12.
            (self._executable,) = self._call("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def _capture(self, stream: int, enqueue: Callable[[], bool]) -> Any:
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            has_enqueued = enqueue()
        except BaseException:
            self._abandon(stream)
            raise
        if not has_enqueued:
            self._abandon(stream)
            raise GraphError("the engine holds operations that cannot be captured")
        (graph,) = self._call("cudaStreamEndCapture", stream)
        return graph

    def launch(self, stream: int) -> None:
        """Enqueue the computation on a stream.

        Raises:
            GraphError: If CUDA refuses.
        """
        self._call("cudaGraphLaunch", self._executable, stream)

    def close(self) -> None:
        """Free the graph; it is not running. Closing twice is harmless."""
        executable, self._executable = self._executable, None
        if executable is not None:
            self._call("cudaGraphExecDestroy", executable)

    def _abandon(self, stream: int) -> None:
        """End a recording that failed; the answer is the failure itself once more."""
        _, graph = self._runtime.cudaStreamEndCapture(stream)
        if graph is not None and int(graph):
            self._runtime.cudaGraphDestroy(graph)
        self._runtime.cudaGetLastError()

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """Call a function of the runtime; gives what it returns besides its status.

        Raises:
            GraphError: If it fails; the runtime's memory of the error is cleared.
        """
        try:
            status, *results = getattr(self._runtime, name)(*arguments)
        except RuntimeError as err:  # older ones raise where they find no driver
            raise GraphError(f"{name} failed: {first_line(err)}") from err
        if status != self._runtime.cudaError_t.cudaSuccess:
            self._runtime.cudaGetLastError()
            raise GraphError(f"{name} failed: {status.name}{_WHY.get(status.name, '')}")
        return tuple(results)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Let Python's collector free nothing on this thread: freeing would end a capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
