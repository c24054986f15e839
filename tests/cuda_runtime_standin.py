"""A stand-in for cuda-python's bindings of the runtime: graphs of what the ledger's streams hold.

Beside `tests.pycuda_standin`, whose ledger it writes. Every function returns a tuple that begins
with its status, as in cuda-bindings 12 and 13.
"""
# ruff: noqa: N801, N802, N803, N815 the names are CUDA's

from __future__ import annotations

import enum
import types
from typing import Any

from tests.pycuda_standin import Ledger, Operation


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorInsufficientDriver = 35
    cudaErrorInvalidResourceHandle = 400
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyDefault = 4


class Graph:
    """A `cudaGraph_t` or a `cudaGraphExec_t`."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __int__(self) -> int:
        return self._handle


def install(ledger: Ledger, *, refuses: str = "") -> dict[str, types.ModuleType]:
    """Make the modules `cuda`, `cuda.bindings` and `cuda.bindings.runtime`, for `sys.modules`.

    Args:
        ledger: Whose streams are captured.
        refuses: A function that fails.
    """
    state = types.SimpleNamespace(last=cudaError_t.cudaSuccess)

    def failure(status: cudaError_t) -> cudaError_t:
        state.last = status
        return status

    def hold(operations: list[Operation]) -> Graph:
        handle = ledger.new_handle()
        ledger.graphs[handle] = operations
        return Graph(handle)

    def is_refused(name: str) -> bool:
        assert ledger.current, f"{name} without a current context makes one of its own"
        return name == refuses

    def cudaGetLastError() -> tuple[Any, ...]:
        last, state.last = state.last, cudaError_t.cudaSuccess
        return (last,)

    def cudaStreamBeginCapture(stream: int, mode: cudaStreamCaptureMode) -> tuple[Any, ...]:
        assert state.last is cudaError_t.cudaSuccess, "an error was left behind"
        # In the other modes, an allocation of any other thread would end the capture.
        assert mode is cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        if is_refused("cudaStreamBeginCapture"):
            return (failure(cudaError_t.cudaErrorInsufficientDriver),)
        if stream not in ledger.streams:
            return (failure(cudaError_t.cudaErrorStreamCaptureUnsupported),)
        ledger.log.append("capture")
        ledger.begin_capture(stream)
        return (cudaError_t.cudaSuccess,)

    def cudaStreamEndCapture(stream: int) -> tuple[Any, ...]:
        recorded = ledger.end_capture(stream)
        if is_refused("cudaStreamEndCapture") or recorded is None:
            return failure(cudaError_t.cudaErrorStreamCaptureInvalidated), None
        return cudaError_t.cudaSuccess, hold(recorded)

    def cudaGraphInstantiateWithFlags(graph: Graph, flags: int) -> tuple[Any, ...]:
        if is_refused("cudaGraphInstantiateWithFlags") or flags:
            return failure(cudaError_t.cudaErrorInvalidValue), None
        return cudaError_t.cudaSuccess, hold(ledger.graphs[int(graph)])

    def cudaGraphLaunch(graph: Graph, stream: int) -> tuple[Any, ...]:
        if is_refused("cudaGraphLaunch"):
            return (failure(cudaError_t.cudaErrorInvalidValue),)

        ledger.log.append("graph")
        for operation in ledger.graphs[int(graph)]:
            ledger.enqueue(stream, "of a graph", operation)
        return (cudaError_t.cudaSuccess,)

    def destroy(graph: Graph) -> tuple[Any, ...]:
        if int(graph) not in ledger.graphs:
            return (failure(cudaError_t.cudaErrorInvalidResourceHandle),)
        del ledger.graphs[int(graph)]
        return (cudaError_t.cudaSuccess,)

    def cudaMemsetAsync(devPtr: int, value: int, count: int, stream: int) -> tuple[Any, ...]:
        memory = ledger.memory(devPtr, count)

        def fill() -> None:
            memory[:] = value

        ledger.enqueue(stream, "memset", Operation(fill, ledger.copy_ms, (memory,)))
        return (cudaError_t.cudaSuccess,)

    def cudaMemcpyAsync(
        dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: int
    ) -> tuple[Any, ...]:
        to, source = ledger.memory(dst, count), ledger.memory(src, count)

        def copy() -> None:
            to[:] = source

        ledger.enqueue(stream, "memcpy", Operation(copy, ledger.copy_ms, (to, source)))
        return (cudaError_t.cudaSuccess,)

    names = ("cuda", "cuda.bindings", "cuda.bindings.runtime")
    modules = {name: types.ModuleType(name) for name in names}
    runtime: Any = modules["cuda.bindings.runtime"]
    runtime.cudaError_t = cudaError_t
    runtime.cudaStreamCaptureMode = cudaStreamCaptureMode
    runtime.cudaMemcpyKind = cudaMemcpyKind
    runtime.cudaGraphDestroy = runtime.cudaGraphExecDestroy = destroy
    capture = (cudaStreamBeginCapture, cudaStreamEndCapture, cudaGetLastError)
    work = (cudaGraphLaunch, cudaMemsetAsync, cudaMemcpyAsync)
    for function in (*capture, cudaGraphInstantiateWithFlags, *work):
        setattr(runtime, function.__name__, function)
    return modules
