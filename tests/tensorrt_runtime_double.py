"""A scripted double of TensorRT's runtime: it drives control flow and computes nothing.

Engine and context take what the real ones take and refuse what they refuse: shapes outside the
profile, wrong ranks, addresses that are not aligned, tensors without an address, the default
stream, data-dependent outputs while a stream is captured. What a query "yields" are bytes that the
test planted, copied to the outputs' addresses when the stream gets there, like any other work on
it. Whether a real TensorRT would yield them is not shown by anything here.

Beside `tests.pycuda_standin`, in whose ledger addresses and streams are looked up.
"""

from __future__ import annotations

import enum
import math
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.pycuda_standin import Ledger, Operation

Shape = tuple[int, ...]


class DataType(enum.Enum):
    FLOAT = np.float32
    HALF = np.float16
    BF16 = "bfloat16"
    INT8 = np.int8
    INT32 = np.int32
    INT64 = np.int64
    BOOL = np.bool_
    UINT8 = np.uint8
    FP8 = "fp8"


class TensorFormat(enum.Enum):
    LINEAR = 0
    CHW32 = 1


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class LayerInformationFormat(enum.Enum):
    ONELINE = 0
    JSON = 1


_ENUMS = (DataType, TensorFormat, TensorIOMode, TensorLocation, LayerInformationFormat)


@dataclass(frozen=True)
class Tensor:
    """An input or output of a script.

    Attributes:
        name: Its name.
        dtype: Its type.
        shape: As the engine tells it, -1 where free.
        profiles: Of an input, least and greatest shape of each optimization profile.
        is_input: What it is.
        on_host: Whether TensorRT wants it in the processor's memory.
        depends_on_data: Whether an output's shape is known only when it is computed.
        layout: Its memory layout.
    """

    name: str
    dtype: DataType
    shape: Shape
    profiles: tuple[tuple[Shape, Shape], ...] = ()
    is_input: bool = True
    on_host: bool = False
    depends_on_data: bool = False
    layout: TensorFormat = TensorFormat.LINEAR


@dataclass
class Script:
    """What the double shall do, and what was done with it.

    Attributes:
        ledger: Where memory and streams are.
        tensors: The engine's inputs and outputs.
        plant: Gives the bytes of the outputs for the shapes of the inputs and the values of those
            on the host, by name.
        fails: Names of calls that fail, as TensorRT's do: `None`, `False`, an exception.
        says: What is logged as an error when a call fails.
        compute_ms: What a query lasts on the GPU.
        profiles: Number of optimization profiles.
        layers: What a profiler is told of a run.
        information: What the inspector tells.
        inspected: The shapes of the context that it was given each time; `None` without one.
        of_plan: What another plan than the usual one has instead: `compute_ms`, `information`.
        during: Called within each enqueue, before anything is done.
        calls: The calls that tell a context something, or run it.
        seen: The bytes of the inputs on the GPU, of each query when it ran.
        live: Objects of TensorRT's that are not destroyed.
        plan: What was deserialized.
        runtime: What was set on the runtime when it deserialized.
        logger: What the runtime was given.
    """

    ledger: Ledger
    tensors: Sequence[Tensor]
    plant: Callable[[Mapping[str, Any]], Mapping[str, np.ndarray]]
    fails: set[str] = field(default_factory=set)
    says: str = "Error Code 1: Cuda Runtime (out of memory)"
    compute_ms: float = 1.5
    profiles: int = 1
    layers: Sequence[tuple[str, float]] = ()
    information: str = '{"Layers": [], "Bindings": []}'
    inspected: list[dict[str, Shape] | None] = field(default_factory=list)
    of_plan: Mapping[bytes, Mapping[str, Any]] = field(default_factory=dict)
    during: Callable[[], None] = lambda: None
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    seen: list[dict[str, bytes]] = field(default_factory=list)
    live: list[str] = field(default_factory=list)
    plan: bytes = b""
    runtime: dict[str, Any] = field(default_factory=dict)
    logger: Any = None

    def told(self, name: str, plan: bytes) -> Any:
        """Give what an attribute is for a plan."""
        return self.of_plan.get(plan, {}).get(name, getattr(self, name))

    def is_refused(self, call: str) -> bool:
        """Tell whether a call shall fail, having logged why."""
        if call in self.fails:
            self.logger.log(ILogger.Severity.ERROR, self.says)
            return True
        return False


class _Destroyed:
    """Notes that an object is there, and that it is destroyed where the context is current."""

    def __init__(self, script: Script, name: str) -> None:
        self._script = script
        self._name = name
        script.live.append(name)

    def __del__(self) -> None:
        if self._script.ledger.current:
            self._script.live.remove(self._name)


def install(script: Script) -> types.ModuleType:
    """Make the module `tensorrt`, for `sys.modules`."""
    module: Any = types.ModuleType("tensorrt")
    module.__version__ = "10.3.0"

    class _Runtime(Runtime):
        def __init__(self, logger: Any) -> None:
            super().__init__(logger)
            if "Runtime" in script.fails:
                raise TypeError("pybind11::init(): factory function returned nullptr")
            assert script.ledger.current, "TensorRT without a current context makes one of its own"
            script.logger = logger
            self._script = script
            self._noted = _Destroyed(script, "Runtime")

    module.Runtime = _Runtime
    for item in (*_ENUMS, ILogger):
        setattr(module, item.__name__, item)
    module.IProfiler = IProfiler
    module.IOutputAllocator = IOutputAllocator
    module.get_plugin_registry = lambda: None
    return module


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4


class IProfiler:
    def __init__(self) -> None:
        pass


class IOutputAllocator:
    def __init__(self) -> None:
        pass


class Runtime:
    def __init__(self, logger: Any) -> None:
        self.DLA_core = -1
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        script: Script = self._script  # type: ignore[attr-defined]
        script.runtime = {
            "DLA_core": self.DLA_core,
            "engine_host_code_allowed": self.engine_host_code_allowed,
        }
        script.plan = bytes(memoryview(serialized_engine))
        if script.is_refused("deserialize_cuda_engine"):
            return None
        return ICudaEngine(self, script)


class ICudaEngine:
    def __init__(self, runtime: Runtime, script: Script) -> None:
        self._runtime = runtime  # as the bindings keep it alive
        self._script = script
        self._plan = script.plan
        self._tensors = {tensor.name: tensor for tensor in script.tensors}
        self._noted = _Destroyed(script, "ICudaEngine")
        self.num_io_tensors = len(script.tensors)
        self.num_optimization_profiles = script.profiles
        self.num_aux_streams = 2

    def get_tensor_name(self, index: int) -> str:
        return self._script.tensors[index].name

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._tensors[name].dtype

    def get_tensor_format(self, name: str) -> TensorFormat:
        return self._tensors[name].layout

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if self._tensors[name].is_input else TensorIOMode.OUTPUT

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if self._tensors[name].on_host else TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> Shape:
        return self._tensors[name].shape

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Shape]:
        tensor = self._tensors[name]
        least, greatest = _range(tensor, profile_index)
        return [least, greatest, greatest]

    def create_execution_context(self) -> IExecutionContext | None:
        assert self._script.ledger.current
        if self._script.is_refused("create_execution_context"):
            return None
        return IExecutionContext(self, self._script)

    def create_engine_inspector(self) -> EngineInspector | None:
        assert self._script.ledger.current
        if self._script.is_refused("create_engine_inspector"):
            return None
        return EngineInspector(self, self._script)


class EngineInspector:
    def __init__(self, engine: ICudaEngine, script: Script) -> None:
        self._engine = engine  # as the bindings keep it alive
        self._script = script
        self._noted = _Destroyed(script, "EngineInspector")
        self.execution_context: IExecutionContext | None = None

    def get_engine_information(self, format: LayerInformationFormat) -> str:  # noqa: A002
        assert format is LayerInformationFormat.JSON
        context = self.execution_context
        self._script.inspected.append(None if context is None else dict(context._shapes))
        refused = self._script.is_refused("get_engine_information")
        return "" if refused else self._script.told("information", self._engine._plan)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, script: Script) -> None:
        self._engine = engine  # as the bindings keep it alive
        self._script = script
        self._noted = _Destroyed(script, "IExecutionContext")
        self._tensors = engine._tensors
        self._profile = 0
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._busy = threading.Lock()
        self.enqueue_emits_profile = True
        self.profiler: Any = None

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._script.calls.append(("set_optimization_profile_async", profile_index))
        assert stream_handle in self._script.ledger.streams
        if self._script.is_refused("set_optimization_profile_async"):
            raise RuntimeError("Error in set optimization profile async.")
        self._profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        self._script.calls.append(("set_input_shape", name, shape))
        least, greatest = _range(self._tensors[name], self._profile)
        sizes = zip(least, shape, greatest, strict=True)
        fits = all(low <= size <= high for low, size, high in sizes)
        if self._script.is_refused("set_input_shape") or not fits:
            return False
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._script.calls.append(("set_tensor_address", name))
        if self._script.is_refused("set_tensor_address") or memory % 256:
            return False
        self._addresses[name] = memory
        return True

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        self._script.calls.append(("set_output_allocator", name))
        self._allocators[name] = output_allocator
        return not self._script.is_refused("set_output_allocator")

    def infer_shapes(self) -> list[str]:
        self._script.calls.append(("infer_shapes",))
        if self._script.is_refused("infer_shapes"):
            raise RuntimeError("infer_shapes failed")
        return [
            tensor.name
            for tensor in self._script.tensors
            if tensor.is_input
            and (
                tensor.name not in self._shapes
                or (tensor.on_host and tensor.name not in self._addresses)
            )
        ]

    def get_tensor_shape(self, name: str) -> Shape:
        if self._tensors[name].depends_on_data:
            return self._tensors[name].shape
        return self._planted()[name].shape

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self._busy.acquire(blocking=False), "two callers are in one context"
        try:
            return self._execute(stream_handle)
        finally:
            self._busy.release()

    def _execute(self, handle: int) -> bool:
        script, ledger = self._script, self._script.ledger
        script.calls.append(("execute_async_v3",))
        script.during()
        assert ledger.current
        is_captured = handle in ledger.captures
        assert self.enqueue_emits_profile is (self.profiler is None)
        if script.is_refused("execute_async_v3 captured" if is_captured else "execute_async_v3"):
            return False
        if is_captured and self._allocators:
            return False
        planted = {name: _bytes(array) for name, array in self._planted().items()}
        if not all(self._allocate(name, planted[name].size, handle) for name in self._allocators):
            return False
        inputs = {
            tensor.name: self._memory(tensor, self._size(tensor))
            for tensor in script.tensors
            if tensor.is_input
        }
        outputs = {
            tensor.name: self._memory(tensor, planted[tensor.name].size)
            for tensor in script.tensors
            if not tensor.is_input
        }

        def happen() -> None:
            script.seen.append({name: memory.tobytes() for name, memory in inputs.items()})
            for name, memory in outputs.items():
                memory[:] = planted[name]

        memory = (*inputs.values(), *outputs.values())
        compute_ms = script.told("compute_ms", self._engine._plan)
        ledger.enqueue(handle, "compute", Operation(happen, compute_ms, memory))
        return True

    def report_to_profiler(self) -> bool:
        if self._script.is_refused("report_to_profiler"):
            return False
        for name, milliseconds in self._script.layers:
            self.profiler.report_layer_time(name, milliseconds)
        return True

    def _allocate(self, name: str, size: int, handle: int) -> bool:
        """Ask for memory of an output, and tell its shape; a size is never 0."""
        allocator = self._allocators[name]
        memory = self._addresses.get(name, 0)
        address = allocator.reallocate_output_async(name, memory, max(size, 1), 256, handle)
        if not address:
            return False
        self._addresses[name] = address
        if not self._script.is_refused("notify_shape"):
            allocator.notify_shape(name, self._planted()[name].shape)
        return True

    def _planted(self) -> Mapping[str, np.ndarray]:
        """Give what the test planted for the shapes, and the values of tensors on the host."""
        known: dict[str, Any] = dict(self._shapes)
        for tensor in self._script.tensors:
            if tensor.on_host and tensor.is_input:
                data = self._memory(tensor, self._size(tensor))
                known[tensor.name] = data.view(tensor.dtype.value).tolist()
        return self._script.plant(known)

    def _memory(self, tensor: Tensor, size: int) -> np.ndarray:
        address = self._addresses[tensor.name]
        if tensor.on_host:
            return self._script.ledger.host[address][:size]
        return self._script.ledger.memory(address, size)

    def _size(self, tensor: Tensor) -> int:
        itemsize = 2 if tensor.dtype is DataType.BF16 else np.dtype(tensor.dtype.value).itemsize
        return math.prod(self._shapes[tensor.name]) * itemsize


def _range(tensor: Tensor, profile_index: int) -> tuple[Shape, Shape]:
    return tensor.profiles[profile_index] if tensor.profiles else (tensor.shape, tensor.shape)


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
