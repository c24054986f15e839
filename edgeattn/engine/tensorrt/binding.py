"""What an execution context has been told: shapes, addresses, and the values of shape tensors.

TensorRT is told what differs from the query before, and only that: a new shape costs it work at
the next enqueue, and everything told is what a recorded graph freezes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgeattn.engine.tensorrt.buffers import PageLockedMemory, QueryBuffers
from edgeattn.engine.tensorrt.device import DeviceMemory
from edgeattn.engine.tensorrt.io_tensors import IoTensor
from edgeattn.engine.tensorrt.output_allocator import OutputSink, make_output_allocator

if TYPE_CHECKING:
    import tensorrt

Require = Callable[[bool, str], None]


class Binding:
    """The state of one execution context, and the GPU's memory for its inputs and outputs.

    Args:
        context: The context.
        tensors: The engine's inputs and outputs.
        require: Raises an error of the text given if its first argument is false.
        device: The GPU.
        zero_copy: Let the GPU work in the query's memory, which is mapped.

    Attributes:
        memory: The GPU's memory; empty with zero copy.
        data_dependent: Outputs whose sizes are known only when the query is enqueued.
    """

    def __init__(
        self,
        context: tensorrt.IExecutionContext,
        tensors: Sequence[IoTensor],
        require: Require,
        *,
        device: int,
        zero_copy: bool,
    ) -> None:
        self.memory = DeviceMemory(device)
        self.data_dependent: set[str] = set()
        self._context = context
        self._inputs = [tensor for tensor in tensors if tensor.is_input]
        self._outputs = [tensor for tensor in tensors if not tensor.is_input]
        self._require = require
        self._zero_copy = zero_copy
        self._sink = OutputSink()
        self._allocator: tensorrt.IOutputAllocator | None = None
        self.forget()

    def forget(self) -> None:
        """Tell the context everything anew at the next query."""
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._values: dict[str, bytes] = {}

    def state(self) -> tuple[dict[str, tuple[int, ...]], dict[str, int], dict[str, bytes]]:
        """Give what a graph would freeze: shapes, addresses, values."""
        return dict(self._shapes), dict(self._addresses), dict(self._values)

    def tell(self, query: QueryBuffers) -> None:
        """Tell the context what is new about a query, and make memory ready for its outputs.

        Args:
            query: Its inputs are there; the shapes of its outputs are, as far as they are known.

        Raises:
            EngineError: If TensorRT refuses, or there is no memory.
        """
        is_new = any(tensor.name not in self._shapes for tensor in self._outputs)
        for tensor in self._inputs:
            is_new |= self._tell_shape(tensor, query.shapes[tensor.name])
            self._place(tensor, query)
            if tensor.on_host:
                values = query.array(tensor).tobytes()
                is_new |= self._values.get(tensor.name) != values
                self._values[tensor.name] = values
        if is_new:
            self._infer_shapes()
        # Not a function of the binding: a circle would keep the context beyond its time.
        self._sink.begin(self._gpu_memory(query).reserve)
        for tensor in self._outputs:
            if tensor.name not in self.data_dependent:
                query.shapes[tensor.name] = self._shapes[tensor.name]
                self._place(tensor, query)

    def take_shapes(self, query: QueryBuffers) -> None:
        """Note the shapes that TensorRT told while it enqueued a query.

        Raises:
            EngineError: If it told none, or there was no memory for what it asked.
        """
        for name in self.data_dependent:
            self._require(name in self._sink.shapes, f"TensorRT gave no shape of {name}")
            query.shapes[name] = self._sink.shapes[name]

    def raise_kept(self) -> None:
        """Raise what went wrong when TensorRT asked for memory."""
        self._sink.raise_kept()

    def _tell_shape(self, tensor: IoTensor, shape: tuple[int, ...]) -> bool:
        """Tell the shape of an input if it is new; returns whether it was."""
        if self._shapes.get(tensor.name) == shape:
            return False
        self._require(
            self._context.set_input_shape(tensor.name, shape),
            f"TensorRT refused the shape {shape} of {tensor.name}",
        )
        self._shapes[tensor.name] = shape
        return True

    def _infer_shapes(self) -> None:
        """Let TensorRT find the shapes of the outputs, and set an allocator for what it cannot."""
        missing = ["its inputs"]
        with contextlib.suppress(RuntimeError):  # its other failures
            missing = self._context.infer_shapes()
        self._require(not missing, f"TensorRT finds no output shapes from {', '.join(missing)}")
        for tensor in self._outputs:
            shape = tuple(self._context.get_tensor_shape(tensor.name))
            self._shapes[tensor.name] = shape
            if min(shape, default=0) < 0 and tensor.name not in self.data_dependent:
                self._let_allocate(tensor.name)

    def _let_allocate(self, name: str) -> None:
        """Leave the memory of an output to TensorRT's requests."""
        if self._allocator is None:
            self._allocator = make_output_allocator(self._sink)
        self._require(
            self._context.set_output_allocator(name, self._allocator),
            f"TensorRT refused an allocator for {name}",
        )
        self.data_dependent.add(name)

    def _place(self, tensor: IoTensor, query: QueryBuffers) -> None:
        """Make memory for a tensor ready where TensorRT wants it, and tell the address if new."""
        name, size = tensor.name, query.size(tensor)
        if tensor.on_host:
            address = query.memory.reserve_on_host(name, size)
        else:
            query.content(tensor)  # now, so that no query's copies wait for it
            address = self._gpu_memory(query).reserve(name, size)
        if self._addresses.get(name) != address:
            self._require(
                self._context.set_tensor_address(name, address),
                f"TensorRT refused the address of {name}",
            )
            self._addresses[name] = address

    def _gpu_memory(self, query: QueryBuffers) -> DeviceMemory | PageLockedMemory:
        """Say where the GPU works on a query: in its own memory, or in the query's."""
        return query.memory if self._zero_copy else self.memory
