"""What an engine tells of itself: the text of TensorRT's engine inspector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeattn.engine.tensorrt.failures import engine_error
from edgeattn.engine.tensorrt.imports import import_tensorrt
from edgeattn.engine.tensorrt.log import CapturedLog

if TYPE_CHECKING:
    import tensorrt


def engine_information(
    engine: tensorrt.ICudaEngine,
    log: CapturedLog,
    context: tensorrt.IExecutionContext | None = None,
) -> str:
    """Let TensorRT's inspector describe the layers of an engine.

    Args:
        engine: The engine.
        log: Where TensorRT says why it does not.
        context: One that was told the shapes of all inputs. Without it the layers of an engine
            with free sizes have neither sizes nor types.

    Returns:
        JSON text, for `parse_engine_info`.

    Raises:
        EngineError: If it tells nothing.

    References:
        NvInferRuntime.h, IEngineInspector::setExecutionContext.
    """
    began = log.now()
    # An error keeps the variables of its function alive: the inspector is not among them.
    text = _ask(engine, context)
    if text is None:
        raise engine_error("TensorRT gives no inspector", log, since=began)
    if not text:
        raise engine_error("TensorRT's inspector says nothing", log, since=began)
    return text


def _ask(engine: tensorrt.ICudaEngine, context: tensorrt.IExecutionContext | None) -> str | None:
    trt = import_tensorrt()
    inspector = engine.create_engine_inspector()
    if inspector is None:
        return None
    if context is not None:
        inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON) or "")
