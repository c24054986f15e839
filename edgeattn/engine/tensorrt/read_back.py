"""Read a plan back as an engine: it loads here, and it tells what is in it."""

from __future__ import annotations

import logging
import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeattn.engine.tensorrt.engine_information import engine_information
from edgeattn.engine.tensorrt.failures import build_error
from edgeattn.engine.tensorrt.imports import import_tensorrt
from edgeattn.engine.tensorrt.log import CapturedLog
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.errors import EngineError

if TYPE_CHECKING:
    import tensorrt

_log = logging.getLogger(__name__)


class ReadBack(NamedTuple):
    """What an engine tells of itself.

    Attributes:
        inspector: Its layers, as JSON text; empty if it does not tell.
        device_memory_bytes: What a context takes on the GPU besides the weights.
    """

    inspector: str
    device_memory_bytes: int


def read_back(
    plan: Path, logger: tensorrt.ILogger, log: CapturedLog, options: TensorRtOptions
) -> ReadBack:
    """Deserialize a plan that was just written, and let TensorRT's inspector describe it.

    Args:
        plan: The file. It is mapped, not read: a board has no memory for a copy.
        logger: For the runtime.
        log: What the logger writes to.
        options: It was built with, its profiles whole.

    Raises:
        BuildError: If TensorRT does not load it.
    """
    trt = import_tensorrt()
    began = log.now()
    runtime = trt.Runtime(logger)
    if options.dla_core is not None:
        runtime.DLA_core = options.dla_core
    if options.version_compatible:
        # The plan brings code for the processor: TensorRT's lean runtime, our plugin. It is ours.
        runtime.engine_host_code_allowed = True
    with (
        plan.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        engine = runtime.deserialize_cuda_engine(content)
    log.raise_kept()
    if engine is None:
        what = "TensorRT built an engine and cannot load it again"
        raise build_error(what, log, since=began)
    return ReadBack(_inspect(engine, log, options.profiles[0]), engine.device_memory_size_v2)


def _inspect(engine: tensorrt.ICudaEngine, log: CapturedLog, shapes: ShapeProfile) -> str:
    """Let the inspector describe an engine; one that it tells nothing of is no failed build."""
    # TensorRT keeps the addresses of a shape tensor's values: they live as long as the context.
    values: list[NDArray[Any]] = []
    context = _context_at(engine, log, shapes, values) if _is_dynamic(engine) else None
    try:
        return engine_information(engine, log, context)
    except EngineError as err:
        _log.warning("%s", err.message)
        return ""


def _is_dynamic(engine: tensorrt.ICudaEngine) -> bool:
    names = map(engine.get_tensor_name, range(engine.num_io_tensors))
    return any(-1 in tuple(engine.get_tensor_shape(name)) for name in names)


def _context_at(
    engine: tensorrt.ICudaEngine,
    log: CapturedLog,
    shapes: ShapeProfile,
    values: list[NDArray[Any]],
) -> tensorrt.IExecutionContext | None:
    """Make a context with the shapes that the engine is tuned for, which decide its layers' types.

    Without one the inspector of a dynamic engine tells no types. It gets no memory on the GPU.

    Args:
        engine: The engine.
        log: Where TensorRT says what it refuses.
        shapes: Of the first profile.
        values: Takes the values of shape tensors.
    """
    trt = import_tensorrt()
    began = log.now()
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if context is None or not _set_shapes(engine, context, shapes, values):
        what = "the engine cannot be inspected at the shapes that it is tuned for"
        _log.warning("%s", build_error(what, log, since=began).message)
        return None
    return context


def _set_shapes(
    engine: tensorrt.ICudaEngine,
    context: tensorrt.IExecutionContext,
    shapes: ShapeProfile,
    values: list[NDArray[Any]],
) -> bool:
    """Give a context the shapes of all inputs; tells whether it took them."""
    trt = import_tensorrt()
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT:
            continue
        if engine.is_shape_inference_io(name):
            values.append(np.array(shapes.opt[name], trt.nptype(engine.get_tensor_dtype(name))))
            taken = context.set_tensor_address(name, values[-1].ctypes.data)
        else:
            taken = context.set_input_shape(name, shapes.opt[name])
        if not taken:
            return False
    return True
