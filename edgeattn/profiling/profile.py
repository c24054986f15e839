"""`profile`: the latency of an engine, with everything needed to believe it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.artifacts import Manifest, Parent, check_writable, read_json, write_json
from edgeattn.engine.base import Engine
from edgeattn.engine.load import engine_target, load
from edgeattn.engine.random_inputs import random_inputs, tuned_shapes
from edgeattn.errors import ArtifactError, DataError
from edgeattn.profiling.diagnosis import diagnose, diagnose_machine, diagnose_mode
from edgeattn.profiling.environment import Environment, collect_environment
from edgeattn.profiling.measure import (
    DURATION_S,
    ITERATIONS,
    WARM_UP_MS,
    measure,
    measure_streams,
)
from edgeattn.profiling.measurement import Measurement
from edgeattn.profiling.modes import DEVICE, HOST, Mode, choose_mode, has_device
from edgeattn.profiling.stats import LatencyStats

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions

Progress = Callable[[int, "int | None", str], None]

HOST_MODE = HOST.sentence
DEVICE_MODE = DEVICE.sentence


@dataclass(frozen=True)
class LatencyReport:
    """Latency of an engine, how it was measured, and on what.

    Attributes:
        manifest: What was measured: the engine by its hash, the options of the measurement.
        mode: Which copies and waits the latency holds: the name of a mode, a colon, its meaning.
        settings: Settings of the engine that move its latency, and the queries in flight.
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
        end_to_end: What the caller waited for each query, from the call to its return; `None` in
            reports written before it was measured.
        settled: Whether the spread of the latencies settled; `None` if that was not asked for.
        window_ns: When the first timed query was enqueued and the last one ended, of
            `time.perf_counter_ns`: the clock of board traces.
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
    end_to_end: LatencyStats | None = None
    settled: bool | None = None
    window_ns: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Turn the report into JSON values; the queries stand under `exportTimes`."""
        return {
            "manifest": self.manifest.to_dict(),
            "mode": self.mode,
            "settings": self.settings,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            **{name: getattr(self, name).to_dict() for name in _STATS},
            "end_to_end": self.end_to_end.to_dict() if self.end_to_end else None,
            "throughput_qps": self.throughput_qps,
            "settled": self.settled,
            "window_ns": list(self.window_ns) if self.window_ns else None,
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
        end_to_end, window_ns = values.get("end_to_end"), values.get("window_ns")
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
                end_to_end=LatencyStats.from_dict(end_to_end) if end_to_end else None,
                settled=values.get("settled"),
                window_ns=(window_ns[0], window_ns[1]) if window_ns else None,
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
    settle_s: float = 0.0,
    mode: str | None = None,
    streams: int = 1,
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
        settle_s: Most time to go on after that, until the spread of the latencies has settled.
        mode: What the latency holds, one of `edgeattn.profiling.modes.MODES`; by default `host`
            or `device`, as the engine is.
        streams: Queries in flight at the same time, for the throughput; each takes an execution
            context of a TensorRT engine.
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
        EngineError: If the engine fails, or is loaded for something else than the mode measures.
        SpecError: If there is no such mode for the engine.
    """
    if streams < 1 or (streams > 1 and settle_s):
        raise DataError(
            f"streams is {streams} and settle_s is {settle_s}; expected at least one stream, and "
            "one alone where the spread shall settle"
        )
    if output is not None:
        check_writable(Path(output))
    options: dict[str, Any] = {
        "iterations": iterations,
        "duration_s": duration_s,
        "warm_up_ms": warm_up_ms,
    }
    if isinstance(engine, Path | str):
        target = engine_target(Path(engine))
    else:
        target = engine.manifest.target
    chosen = choose_mode(mode, target)
    options |= {"mode": chosen.name, "streams": streams, "settle_s": settle_s}
    if has_device(target):
        tensorrt = _load_options(chosen, streams, tensorrt)
    with opened(engine, threads, tensorrt) as loaded:
        chosen.check(loaded)
        if inputs is None:
            inputs = random_inputs(loaded.inputs, tuned_shapes(loaded) | dict(shapes or {}), seed)
            options["random_inputs_seed"] = seed
        queries = [chosen.query(loaded, inputs) for _ in range(streams)]
        before = collect_environment()
        if progress is not None:
            progress(0, None, "measure")
        loop: dict[str, Any] = {
            "iterations": iterations,
            "duration_s": duration_s,
            "warm_up_ms": warm_up_ms,
        }
        if streams == 1:
            measurement = measure(queries[0], settle_s=settle_s, **loop)
        else:
            measurement = measure_streams(queries, **loop)
        report = _report(loaded, inputs, options, chosen, measurement, before)
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
    """Say what the latency of an engine holds where no mode is chosen."""
    return choose_mode(None, engine.manifest.target).sentence


def _load_options(
    mode: Mode, streams: int, options: TensorRtRunOptions | None
) -> TensorRtRunOptions | None:
    """Load an engine as its mode measures it, with a context for each stream."""
    options = mode.load_options(options)
    if streams == 1:
        return options
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions

    options = options or TensorRtRunOptions()
    return replace(options, contexts=max(options.contexts, streams))


def _report(
    engine: Engine,
    inputs: Mapping[str, np.ndarray],
    options: dict[str, Any],
    mode: Mode,
    measurement: Measurement,
    before: Environment,
) -> LatencyReport:
    measurement = mode.read(measurement)
    target, settings = engine.manifest.target, engine.settings
    stats = {
        name: LatencyStats.from_samples(getattr(measurement, f"{name}_ms"), mode.percentiles)
        for name in (*_STATS, "host")
    }
    has_parts = has_device(target) and not mode.whole_call
    judged = stats if has_parts else {"latency": stats["latency"]}
    warnings = [
        *diagnose(measurement, judged, settings),
        *diagnose_mode(mode, settings),
        *diagnose_machine(before),
    ]
    if measurement.streams > 1:
        settings = settings | {"streams": measurement.streams}
    return LatencyReport(
        manifest=Manifest("report", engine_parent(engine), target=target, options=options),
        mode=mode.sentence,
        settings=settings,
        inputs={name: array.shape for name, array in inputs.items()},
        **{name: stats[name] for name in _STATS},
        throughput_qps=measurement.throughput_qps,
        environment=before,
        environment_after=collect_environment(),
        warnings=tuple(warnings),
        export_times=tuple(measurement.export_times()),
        end_to_end=stats["host"],
        settled=measurement.settled,
        window_ns=measurement.window_ns,
    )
