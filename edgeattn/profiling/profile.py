"""`profile`: the latency of an engine, with everything needed to believe it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.artifacts import Manifest, Parent, check_writable, read_json, write_json
from edgeattn.engine.base import Engine
from edgeattn.engine.load import load
from edgeattn.engine.random_inputs import random_inputs, tuned_shapes
from edgeattn.errors import ArtifactError
from edgeattn.profiling.environment import Environment, collect_environment
from edgeattn.profiling.measure import DURATION_S, ITERATIONS, WARM_UP_MS, Measurement, measure
from edgeattn.profiling.stats import LatencyStats

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions

Progress = Callable[[int, "int | None", str], None]

# trtexec warns from here on.
_MAX_CV_PERCENT = 2.5

# What the figures mean. Whether a device's query is a CUDA graph stands in the engine's settings.
HOST_MODE = "host: one query at a time, inputs and outputs in place, no copies"
DEVICE_MODE = "device: one query at a time, host-to-device copy, compute and device-to-host copy"


@dataclass(frozen=True)
class LatencyReport:
    """Latency of an engine, how it was measured, and on what.

    Attributes:
        manifest: What was measured: the engine by its hash, the options of the measurement.
        mode: Which copies and waits the latency holds.
        settings: Settings of the engine that move its latency.
        inputs: Shapes of the inputs, by name.
        latency: Host-to-device copy, compute and device-to-host copy of each query.
        h2d: The first part alone.
        compute: The second.
        d2h: The third.
        enqueue: Host time to enqueue each query; no part of the latency of a device.
        throughput_qps: Queries per second of wall time.
        environment: The machine before the measurement.
        environment_after: The machine after it.
        warnings: What makes the figures less than trustworthy, one sentence each.
        export_times: One entry per query, with the keys of trtexec's `--exportTimes`.
    """

    manifest: Manifest
    mode: str
    settings: dict[str, Any]
    inputs: dict[str, tuple[int, ...]]
    latency: LatencyStats
    h2d: LatencyStats
    compute: LatencyStats
    d2h: LatencyStats
    enqueue: LatencyStats
    throughput_qps: float
    environment: Environment
    environment_after: Environment
    warnings: tuple[str, ...]
    export_times: tuple[dict[str, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Turn the report into JSON values; the queries stand under `exportTimes`."""
        return {
            "manifest": self.manifest.to_dict(),
            "mode": self.mode,
            "settings": self.settings,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            **{name: getattr(self, name).to_dict() for name in _STATS},
            "throughput_qps": self.throughput_qps,
            "environment": self.environment.to_dict(),
            "environment_after": self.environment_after.to_dict(),
            "warnings": list(self.warnings),
            "exportTimes": list(self.export_times),
        }

    @classmethod
    def from_dict(cls, values: Any, source: str = "the report") -> LatencyReport:
        """Read a report back.

        Args:
            values: As `to_dict` gives them.
            source: File they come from, for the message.

        Raises:
            ArtifactError: If they are no report or of an unknown format version.
        """
        if not isinstance(values, dict):
            raise ArtifactError(f"{source} is not a latency report")
        manifest = Manifest.from_dict(values.get("manifest"), source)
        try:
            return cls(
                manifest=manifest,
                mode=values["mode"],
                settings=values["settings"],
                inputs={name: tuple(shape) for name, shape in values["inputs"].items()},
                **{name: LatencyStats.from_dict(values[name]) for name in _STATS},
                throughput_qps=values["throughput_qps"],
                environment=Environment.from_dict(values["environment"]),
                environment_after=Environment.from_dict(values["environment_after"]),
                warnings=tuple(values["warnings"]),
                export_times=tuple(values["exportTimes"]),
            )
        except (KeyError, TypeError, AttributeError) as err:
            raise ArtifactError(f"{source} is a malformed latency report: {err!r}") from err


_STATS = ("latency", "h2d", "compute", "d2h", "enqueue")


def profile(
    engine: Engine | Path | str,
    inputs: Mapping[str, np.ndarray] | None = None,
    *,
    iterations: int = ITERATIONS,
    duration_s: float = DURATION_S,
    warm_up_ms: float = WARM_UP_MS,
    output: Path | str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int | None = None,
    tensorrt: TensorRtRunOptions | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LatencyReport:
    """Measure the latency of an engine.

    The loop ends when both the iterations and the duration are reached, as trtexec's does.

    Args:
        engine: An engine, or the file of one.
        inputs: Arrays by input name; random ones if not given.
        iterations: Least number of timed queries.
        duration_s: Least time to go on timing.
        warm_up_ms: Time to run without timing before.
        output: Report to write, `NAME.profile.json`.
        shapes: Shapes of random inputs, for those with free dimensions; by default those that the
            engine was tuned for, if it was.
        threads: Threads to load the file of a CPU engine with.
        tensorrt: How to load the file of a TensorRT engine.
        seed: Seed of the random inputs.
        progress: Called with steps done, steps in all, and the step at hand.

    Raises:
        ArtifactError: If a file is missing or no engine, or the report cannot be written.
        DataError: If the inputs do not fit the engine, or a number is out of range.
        EngineError: If the engine fails.
    """
    if output is not None:
        check_writable(Path(output))
    options: dict[str, Any] = {
        "iterations": iterations,
        "duration_s": duration_s,
        "warm_up_ms": warm_up_ms,
    }
    with opened(engine, threads, tensorrt) as loaded:
        if inputs is None:
            inputs = random_inputs(loaded.inputs, tuned_shapes(loaded) | dict(shapes or {}), seed)
            options["random_inputs_seed"] = seed
        query = loaded.bind(inputs)
        before = collect_environment()
        if progress is not None:
            progress(0, None, "measure")
        measurement = measure(
            query, iterations=iterations, duration_s=duration_s, warm_up_ms=warm_up_ms
        )
        report = _report(loaded, inputs, options, measurement, before)
    if output is not None:
        write_json(Path(output), report.to_dict())
    return report


def read_report(path: Path | str) -> LatencyReport:
    """Read a report that `profile` wrote.

    Raises:
        ArtifactError: If the file is missing, malformed or of an unknown format version.
    """
    path = Path(path)
    return LatencyReport.from_dict(read_json(path, "a latency report"), str(path))


@contextlib.contextmanager
def opened(
    engine: Engine | Path | str,
    threads: int | None = None,
    tensorrt: TensorRtRunOptions | None = None,
) -> Iterator[Engine]:
    """Load the file of an engine for the length of a block; an engine passes through."""
    if not isinstance(engine, Path | str):
        yield engine
        return
    with load(engine, threads=threads, tensorrt=tensorrt) as loaded:
        yield loaded


def engine_parent(engine: Engine) -> dict[str, Parent]:
    """Name what an engine is by hash: its file, or what it was made from in memory."""
    files = [Parent(name, sha256) for name, sha256 in engine.manifest.files.items()]
    return {"engine": files[0]} if files else dict(engine.manifest.parents)


def latency_mode(engine: Engine) -> str:
    """Say what the latency of an engine holds."""
    return HOST_MODE if engine.manifest.target in ("", "cpu") else DEVICE_MODE


def _report(
    engine: Engine,
    inputs: Mapping[str, np.ndarray],
    options: dict[str, Any],
    measurement: Measurement,
    before: Environment,
) -> LatencyReport:
    latency = LatencyStats.from_samples(measurement.latency_ms)
    return LatencyReport(
        manifest=Manifest(
            "report", engine_parent(engine), target=engine.manifest.target, options=options
        ),
        mode=latency_mode(engine),
        settings=engine.settings,
        inputs={name: array.shape for name, array in inputs.items()},
        latency=latency,
        h2d=LatencyStats.from_samples(measurement.h2d_ms),
        compute=LatencyStats.from_samples(measurement.compute_ms),
        d2h=LatencyStats.from_samples(measurement.d2h_ms),
        enqueue=LatencyStats.from_samples(measurement.enqueue_ms),
        throughput_qps=measurement.throughput_qps,
        environment=before,
        environment_after=collect_environment(),
        warnings=tuple(_warnings(latency, before)),
        export_times=tuple(measurement.export_times()),
    )


def _warnings(latency: LatencyStats, before: Environment) -> Iterator[str]:
    if latency.cv_percent > _MAX_CV_PERCENT:
        yield (
            f"the latency varies: its coefficient of variation is {latency.cv_percent:.1f} %, "
            f"above {_MAX_CV_PERCENT} %"
        )
    if before.load_average is not None and before.load_average > before.logical_cores / 2:
        yield (
            f"the machine was busy: a load of {before.load_average:.1f} on "
            f"{before.logical_cores} processors"
        )
    if before.governor is not None and before.governor != "performance":
        yield f"clocks may change: the frequency governor is {before.governor}"
