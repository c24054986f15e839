"""One execution context with all it needs to work alone: a stream, events, memory, a graph.

A query that is like the one before it is launched as a CUDA graph, recorded at its first
repetition; a caller whose shapes change from query to query pays for no recording.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgeattn.engine.base import QueryTimes
from edgeattn.engine.tensorrt.binding import Binding
from edgeattn.engine.tensorrt.buffers import QueryBuffers
from edgeattn.engine.tensorrt.cuda_graph import CudaGraph, GraphError, GraphUse
from edgeattn.engine.tensorrt.device import forget_locals, primary_context
from edgeattn.engine.tensorrt.event_clock import EventClock
from edgeattn.engine.tensorrt.failures import engine_error
from edgeattn.engine.tensorrt.imports import import_cuda
from edgeattn.engine.tensorrt.io_tensors import IoTensor
from edgeattn.engine.tensorrt.log import CapturedLog
from edgeattn.errors import EngineError

if TYPE_CHECKING:
    import tensorrt

# CU_STREAM_NON_BLOCKING of cuda.h, which pycuda does not name. Other streams would wait for the
# default one, where frameworks work, and could not be captured beside it.
_NON_BLOCKING = 1


class Execution:
    """An execution context, ready to run queries one after the other.

    Args:
        engine: The engine.
        tensors: Its inputs and outputs.
        log: Takes what TensorRT says.
        device: The GPU.
        profile_index: Optimization profile to work in.
        zero_copy: Let the GPU work in the host's memory, which then is mapped.
        graphs: Whether to launch graphs.

    Attributes:
        query: Buffers for queries that have none of their own.

    Raises:
        EngineError: If TensorRT or CUDA has no memory for it.
    """

    def __init__(
        self,
        engine: tensorrt.ICudaEngine,
        tensors: Sequence[IoTensor],
        log: CapturedLog,
        *,
        device: int = 0,
        profile_index: int = 0,
        zero_copy: bool = False,
        graphs: GraphUse,
    ) -> None:
        # What the GPU reads and writes in its own memory, and is copied.
        copied = [] if zero_copy else [tensor for tensor in tensors if not tensor.on_host]
        self._copied_in = [tensor for tensor in copied if tensor.is_input]
        self._copied_out = [tensor for tensor in copied if not tensor.is_input]
        self._log = log
        self._began = 0.0
        self._device = device
        self._graphs = graphs
        self._graph: CudaGraph | None = None
        self._last_state: object = None
        self._cuda = import_cuda()
        self._stream: Any = None
        self._clock: EventClock | None = None
        self._context: tensorrt.IExecutionContext | None = None
        self._binding: Binding | None = None
        self.query = QueryBuffers(tensors, device, mapped=zero_copy)
        try:
            with primary_context(device):
                self._stream = self._cuda.Stream(_NON_BLOCKING)
                self._clock = EventClock(self._cuda, self._stream)
                self._context = self._create_context(engine, profile_index)
                self._binding = Binding(
                    self._context, tensors, self._require, device=device, zero_copy=zero_copy
                )
        except BaseException as err:
            forget_locals(err)
            with contextlib.suppress(EngineError):  # what failed first counts
                self.close()
            raise

    def _create_context(
        self, engine: tensorrt.ICudaEngine, profile_index: int
    ) -> tensorrt.IExecutionContext:
        self._began = self._log.now()
        context = engine.create_execution_context()
        if context is None:
            raise self._failure("TensorRT created no execution context")
        if profile_index:
            chosen = False
            with contextlib.suppress(RuntimeError):  # which the bindings make of a refusal
                chosen = context.set_optimization_profile_async(profile_index, self._stream.handle)
            self._require(chosen, f"TensorRT did not choose optimization profile {profile_index}")
            self._stream.synchronize()
        return context

    @property
    def context(self) -> tensorrt.IExecutionContext:
        """TensorRT's execution context.

        Raises:
            EngineError: If it is closed.
        """
        if self._context is None:
            raise _closed()
        return self._context

    def _parts(self) -> tuple[Binding, EventClock]:
        if self._binding is None or self._clock is None:
            raise _closed()
        return self._binding, self._clock

    # Running

    def tell(self, query: QueryBuffers) -> None:
        """Tell the context the shapes of a query without running it.

        To be called where the primary context is current.

        Args:
            query: Holds the inputs.

        Raises:
            EngineError: If TensorRT refuses them, or there is no memory.
        """
        self._began = self._log.now()
        binding, _ = self._parts()
        try:
            binding.tell(query)
        except BaseException as err:
            forget_locals(err)
            self._recover()
            raise

    def run(self, query: QueryBuffers) -> None:
        """Run a query and wait for its outputs; to be called where the primary context is current.

        Args:
            query: Holds the inputs, and the outputs afterwards.

        Raises:
            EngineError: If TensorRT fails.
        """
        self._run_or_recover(query, timed=False)

    def run_timed(self, query: QueryBuffers) -> QueryTimes:
        """Run a query as `run` does, and tell when its parts ran."""
        self._run_or_recover(query, timed=True)
        return self._parts()[1].times()

    def _run_or_recover(self, query: QueryBuffers, *, timed: bool) -> None:
        try:
            self._run(query, timed)
        except BaseException as err:
            forget_locals(err)
            self._recover()
            raise

    def _run(self, query: QueryBuffers, timed: bool) -> None:
        self._began = self._log.now()
        binding, event_clock = self._parts()
        clock = event_clock if timed else None
        binding.tell(query)
        launch = self._prepare(query, binding)
        if clock:
            clock.begin()
        for tensor in self._copied_in:
            address = binding.memory[tensor.name]
            self._cuda.memcpy_htod_async(address, query.content(tensor), self._stream)
        if clock:
            clock.mark()
        start_ns = time.perf_counter_ns()
        launch()
        end_ns = time.perf_counter_ns()
        if clock:
            clock.note_enqueue(start_ns, end_ns)
            clock.mark()
        for tensor in self._copied_out:
            if query.size(tensor):
                address = binding.memory[tensor.name]
                self._cuda.memcpy_dtoh_async(query.content(tensor), address, self._stream)
        if clock:
            clock.mark()
        self._stream.synchronize()

    def _prepare(self, query: QueryBuffers, binding: Binding) -> Callable[[], None]:
        """Choose how to launch a query, and record a graph where it is time to."""
        if binding.data_dependent:
            names = ", ".join(sorted(binding.data_dependent))
            self._graphs.refuse(f"the sizes of outputs depend on the data: {names}")
        state = binding.state()
        is_repeated, self._last_state = state == self._last_state, state
        if not is_repeated:
            self._drop_graph()
        elif self._graph is None and self._graphs.is_on:
            self._graph = self._capture()
        if self._graph is None:
            return functools.partial(self._enqueue, query, binding)
        return functools.partial(self._launch, self._graph)

    def _enqueue(self, query: QueryBuffers, binding: Binding) -> None:
        has_enqueued = self.context.execute_async_v3(self._stream.handle)
        binding.raise_kept()
        self._require(has_enqueued, "TensorRT did not enqueue the query")
        binding.take_shapes(query)

    def _capture(self) -> CudaGraph | None:
        handle = self._stream.handle
        began = self._log.now()
        try:
            return CudaGraph(
                self._graphs.runtime, handle, lambda: self.context.execute_async_v3(handle)
            )
        except GraphError as err:
            said = [line.text for line in self._log.errors() if line.seconds >= began]
            self._graphs.refuse(f"{err}; TensorRT says: {said[-1]}" if said else str(err))
            self._began = self._log.now()  # what TensorRT said is no cause of what comes
            return None

    def _launch(self, graph: CudaGraph) -> None:
        try:
            graph.launch(self._stream.handle)
        except GraphError as err:
            raise EngineError(f"the CUDA graph of the query cannot be launched: {err}") from err

    # Ending

    def _recover(self) -> None:
        """Make a context that failed usable again: nothing of it is at work, nothing is bound."""
        if self._stream is not None:
            with contextlib.suppress(self._cuda.Error):  # the failure itself, told a second time
                self._stream.synchronize()
        self._last_state = None
        self._drop_graph()
        if self._binding is not None:
            self._binding.forget()

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            with contextlib.suppress(GraphError):  # of a GPU that works no more
                graph.close()

    def close(self) -> None:
        """Free everything; no query is running. Closing twice is harmless.

        Raises:
            EngineError: If CUDA fails; everything is let go of nevertheless.
        """
        with contextlib.ExitStack() as last_first:
            last_first.callback(self.query.close)
            if self._stream is not None:
                last_first.enter_context(primary_context(self._device))
                last_first.callback(self._let_go)
                last_first.callback(self._stream.synchronize)

    def _let_go(self) -> None:
        self._drop_graph()
        memory = self._binding.memory if self._binding else None
        self._binding = self._context = None  # before the memory that they work on
        if memory is not None:
            memory.close()
        # pycuda destroys these when the last reference goes.
        self._clock = self._stream = None

    def _require(self, succeeded: bool, failure: str) -> None:
        if not succeeded:
            raise self._failure(failure)

    def _failure(self, what: str) -> EngineError:
        return engine_error(what, self._log, since=self._began)


def _closed() -> EngineError:
    return EngineError("the execution context is closed", "load the engine again")
