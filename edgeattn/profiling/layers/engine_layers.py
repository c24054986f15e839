"""Where the time of a query goes, for whichever engine it is."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.engine.base import Engine
from edgeattn.engine.cpu import CpuEngine
from edgeattn.errors import ArtifactError, EdgeAttnError, EngineError
from edgeattn.profiling.layers.cpu import profile_cpu_layers
from edgeattn.profiling.layers.cpu_ceiling import cpu_ceiling
from edgeattn.profiling.layers.roofline import Ceiling, gpu_ceiling
from edgeattn.profiling.layers.rows import LayerProfile
from edgeattn.profiling.layers.tensorrt import tensorrt_layer_profile
from edgeattn.profiling.measure import measure

if TYPE_CHECKING:
    import onnx

    from edgeattn.engine.tensorrt.inspector import EngineInfo
    from edgeattn.engine.tensorrt.run import TensorRtEngine

Progress = Callable[[int, "int | None", str], None]

# Of TensorRT's layers: the typical runs are a fifth of these.
_RUNS = 50
_WHOLE: dict[str, Any] = {"iterations": 20, "duration_s": 0.2, "warm_up_ms": 100.0}


def engine_layers(
    engine: Engine,
    inputs: Mapping[str, np.ndarray],
    whole_ms: float | None = None,
    progress: Progress | None = None,
    *,
    measure_ceiling: bool = True,
) -> LayerProfile | None:
    """Measure the layers of a query.

    Of a TensorRT engine the operations are counted where the graph that it was built from stands
    beside it; where it does not, or anything else is not known, the profile's note says so.

    Args:
        engine: The engine.
        inputs: Arrays by name.
        whole_ms: Latency of a query, if it was measured before; it is measured here otherwise.
        progress: Called with steps done, steps in all, and the step at hand.
        measure_ceiling: Measure what the processor of a CPU engine can do, too, which takes
            seconds.

    Returns:
        `None` for an engine whose layers cannot be looked into.

    Raises:
        DataError: If the inputs do not fit the engine.
        EngineError: If the engine fails, or tells no times of its layers.
    """
    step = progress or _silent
    if isinstance(engine, CpuEngine):
        ceiling = None
        if measure_ceiling:
            step(0, 2, "measure what the processor can do")
            ceiling = cpu_ceiling(engine.settings["threads"])
        step(1, 2, "measure the layers")
        return profile_cpu_layers(engine, inputs, whole_ms=whole_ms, ceiling=ceiling)
    if engine.manifest.target != "tensorrt":
        return None
    from edgeattn.engine.tensorrt.run import TensorRtEngine

    return _tensorrt(engine, inputs, whole_ms, step) if isinstance(engine, TensorRtEngine) else None


def _tensorrt(
    engine: TensorRtEngine,
    inputs: Mapping[str, np.ndarray],
    whole_ms: float | None,
    step: Progress,
) -> LayerProfile:
    if whole_ms is None:
        step(0, 2, "measure a query")
        whole_ms = statistics.median(measure(engine.bind(inputs), **_WHOLE).latency_ms)
    step(0, 2, "measure the layers")
    times = engine.layer_times(inputs, _RUNS)
    step(1, 2, "join the layers with the model")
    info, untold = _inspect(engine, inputs)
    graph, missing = _graph(engine)
    profile = tensorrt_layer_profile(
        times,
        info,
        whole_ms=whole_ms,
        graph=graph,
        shapes={name: array.shape for name, array in inputs.items()},
        ceiling=_ceiling(engine),
    )
    return replace(profile, note=" ".join(filter(None, (profile.note, untold, missing))))


def _inspect(engine: TensorRtEngine, inputs: Mapping[str, np.ndarray]) -> tuple[EngineInfo, str]:
    """Ask the engine for its layers; where it does not tell, say so: their times stand alone."""
    from edgeattn.engine.tensorrt.inspector import EngineInfo

    try:
        info = engine.inspect(inputs)
    except (ArtifactError, EngineError) as err:
        return EngineInfo("10", (), (), "none"), f"Only names and times are known: {err.message}."
    if info.verbosity == "detailed":
        return info, ""
    return info, (
        "The engine tells little of its layers: it was built with the profiling verbosity "
        f"{info.verbosity}."
    )


def _graph(engine: TensorRtEngine) -> tuple[onnx.ModelProto | None, str]:
    """Find the graph that TensorRT was given; `None` and why, in words, where it is not here."""
    from edgeattn.engine.tensorrt.built_from import lower_again

    try:
        return lower_again(engine.plan, engine.manifest).model, ""
    except EdgeAttnError as err:
        return None, f"Operations are not counted: {err.message}."


def _ceiling(engine: TensorRtEngine) -> Ceiling | None:
    """Give the ceiling of the GPU that an engine is on; `None` if no figure of it is known."""
    from edgeattn.engine.tensorrt.gpu import figures_of_gpu

    gpu = figures_of_gpu(engine.device)
    ceiling = None if gpu is None else gpu_ceiling(gpu)
    return ceiling if ceiling and (ceiling.gb_s or ceiling.gflop_s) else None


def _silent(done: int, total: int | None, what: str) -> None:
    """Tell nobody."""
