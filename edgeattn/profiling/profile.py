"""`profile`: the latency of an engine, with everything needed to believe it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.artifacts import Manifest, Parent
from edgeattn.bundle.load import engine_target, load
from edgeattn.engine.base import Engine
from edgeattn.engine.random_inputs import random_inputs, tuned_shapes
from edgeattn.errors import BoardError, DataError, EdgeAttnError
from edgeattn.profiling.board.clocks import lock_clocks as locked_clocks
from edgeattn.profiling.board.clocks import restore_clocks
from edgeattn.profiling.board.sampler import BoardSampler
from edgeattn.profiling.board.verdict import Device
from edgeattn.profiling.board.watch import IDLE_S, BoardState, BoardWatch
from edgeattn.profiling.diagnosis import (
    diagnose,
    diagnose_board,
    diagnose_layers,
    diagnose_machine,
    diagnose_mode,
)
from edgeattn.profiling.environment import Environment, collect_environment
from edgeattn.profiling.layers.engine_layers import engine_layers
from edgeattn.profiling.measure import (
    DURATION_S,
    ITERATIONS,
    WARM_UP_MS,
    measure,
    measure_streams,
)
from edgeattn.profiling.measurement import Measurement
from edgeattn.profiling.modes import DEVICE, HOST, Mode, choose_mode, has_device
from edgeattn.profiling.repeat import repeat_builds as build_again
from edgeattn.profiling.report import PARTS, LatencyReport
from edgeattn.profiling.report_files import ReportFiles
from edgeattn.profiling.stats import LatencyStats
from edgeattn.profiling.sustained import board_hz, sustain

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions

Progress = Callable[[int, "int | None", str], None]

HOST_MODE = HOST.sentence
DEVICE_MODE = DEVICE.sentence


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
    board: bool = True,
    idle_s: float = IDLE_S,
    layers: bool = False,
    sustained_minutes: float = 0.0,
    lock_clocks: bool = False,
    repeat_builds: int = 0,
    sources: Path | str | None = None,
    output: Path | str | ReportFiles | None = None,
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
        board: Watch clocks, temperatures and power meanwhile, from a process of its own.
        idle_s: How long the board rests before that, for the energy of a query; only where its
            power can be read.
        layers: Measure where the time goes, too, in queries of their own.
        sustained_minutes: Go on for so long, and say how each minute went. Ctrl-C ends that early
            and keeps the minutes that were whole.
        lock_clocks: Lock the clocks meanwhile and restore them afterwards, which needs root.
        repeat_builds: Build the engine's file so many times more before that, tell how the builds
            differ, and keep the fastest: see `edgeattn.profiling.repeat`.
        sources: Folder of the graph and the table for that, where they are not beside the engine.
        output: Report to write, `NAME.profile.json`; or it and others, such as its page.
        shapes: Shapes of random inputs, for those with free dimensions; by default those that the
            engine was tuned for, if it was.
        threads: Threads to load the file of a CPU engine with.
        tensorrt: How to load the file of a TensorRT engine.
        seed: Seed of the random inputs.
        progress: Called with steps done, steps in all, and the step at hand.

    Raises:
        ArtifactError: If a file is missing or no engine, or one cannot be written.
        BuildError: If it is to be built again and cannot be.
        BoardError: If the clocks are to be locked and cannot be.
        DataError: If the inputs do not fit the engine, or a number is out of range.
        EngineError: If the engine fails, or is loaded for something else than the mode measures.
        MissingDependencyError: If a page is asked for without jinja2.
        SpecError: If there is no such mode for the engine.
    """
    path = Path(engine) if isinstance(engine, Path | str) else None
    _check(streams, settle_s, sustained_minutes)
    _check_builds(repeat_builds, path, sources)
    files = _files(output, layers=layers)
    files.check(path)
    target = _target(engine)
    loop: dict[str, Any] = {
        "iterations": iterations,
        "duration_s": duration_s,
        "warm_up_ms": warm_up_ms,
    }
    chosen = choose_mode(mode, target)
    options = loop | {"mode": chosen.name, "streams": streams, "settle_s": settle_s}
    if repeat_builds:
        options["repeat_builds"] = repeat_builds
    if sustained_minutes:
        options["sustained_minutes"] = sustained_minutes
    if has_device(target):
        tensorrt = _load_options(chosen, streams, tensorrt)

    def step(what: str) -> None:
        if progress is not None:
            progress(0, None, what)

    with contextlib.ExitStack() as stack:
        clocks = stack.enter_context(locked_clocks()) if lock_clocks else ()
        left = () if lock_clocks else tuple(_unlock())
        builds = None
        if repeat_builds and path is not None:
            builds = build_again(
                path,
                repeat_builds,
                inputs=inputs,
                shapes=shapes,
                mode=mode,
                **loop,
                threads=threads,
                tensorrt=tensorrt,
                sources=sources,
                seed=seed,
                progress=progress,
            )
        loaded = stack.enter_context(opened(engine, threads, tensorrt))
        chosen.check(loaded)
        if inputs is None:
            inputs = random_inputs(loaded.inputs, tuned_shapes(loaded) | dict(shapes or {}), seed)
            options["random_inputs_seed"] = seed
        queries = [chosen.query(loaded, inputs) for _ in range(streams)]
        before = collect_environment()
        step("measure")
        device: Device = "gpu" if has_device(target) else "cpu"
        watch = BoardWatch(device, idle_s) if board else None
        with watch or contextlib.nullcontext():
            if streams == 1:
                measurement = measure(queries[0], settle_s=settle_s, **loop)
            else:
                measurement = measure_streams(queries, **loop)
        state = watch.state(measurement) if watch is not None else None
        report = _report(loaded, inputs, options, chosen, measurement, before, state)
        warnings = (*report.warnings, *left)
        report = replace(report, locked_clocks=clocks, builds=builds, warnings=warnings)
        try:
            if layers:
                step("layers")
                # Of streams and of whole calls, the latency is none that layers could add up to.
                is_plain = streams == 1 and not chosen.whole_call
                whole_ms = report.compute.p50_ms if is_plain else None
                report = _with_layers(report, loaded, inputs, whole_ms)
            if sustained_minutes:
                found = sustain(
                    queries,
                    sustained_minutes,
                    read=chosen.read,
                    device=device,
                    percentiles=chosen.percentiles,
                    sampler=BoardSampler(board_hz(sustained_minutes)) if board else None,
                    progress=progress,
                )
                warnings = (*report.warnings, *found.warnings)
                report = replace(report, sustained=found, warnings=warnings)
        finally:  # what was measured is kept, also where what follows it fails
            files.write(report)
    return report


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


def _check(streams: int, settle_s: float, sustained_minutes: float) -> None:
    """Refuse numbers that make no sense, or not together."""
    if streams < 1 or (streams > 1 and settle_s):
        raise DataError(
            f"streams is {streams} and settle_s is {settle_s}; expected at least one stream, and "
            "one alone where the spread shall settle"
        )
    if not 0 <= sustained_minutes < math.inf:
        raise DataError(
            f"sustained_minutes is {sustained_minutes}; expected a finite time of at least 0"
        )


def _check_builds(repeat_builds: int, path: Path | None, sources: Path | str | None) -> None:
    """Refuse builds that cannot be, and their sources where there are none."""
    if repeat_builds < 0 or (repeat_builds and path is None):
        raise DataError(
            f"repeat_builds is {repeat_builds}; expected 0 or more, and an engine's file to replace"
        )
    if sources is not None and not repeat_builds:
        raise DataError(
            f"the sources {sources} are given, and the engine is not built again",
            "leave them out, or repeat builds: --repeat-builds N, repeat_builds=N",
        )


def _files(output: Path | str | ReportFiles | None, *, layers: bool) -> ReportFiles:
    if isinstance(output, ReportFiles):
        if output.export_profile is not None and not layers:
            raise DataError(
                "the layers are to be written and not to be measured", "measure them too"
            )
        return output
    return ReportFiles(report=None if output is None else Path(output))


def _target(engine: Engine | Path | str) -> str:
    if isinstance(engine, Path | str):
        return engine_target(Path(engine))
    return engine.manifest.target


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
    board: BoardState | None,
) -> LatencyReport:
    measurement = mode.read(measurement)
    target, settings = engine.manifest.target, engine.settings
    stats = {
        name: LatencyStats.from_samples(getattr(measurement, f"{name}_ms"), mode.percentiles)
        for name in (*PARTS, "host")
    }
    has_parts = has_device(target) and not mode.whole_call
    judged = stats if has_parts else {"latency": stats["latency"]}
    warnings = [
        *diagnose(measurement, judged, settings),
        *diagnose_mode(mode, settings),
        *diagnose_machine(before),
        *(diagnose_board(board) if board is not None else ()),
    ]
    if measurement.streams > 1:
        settings = settings | {"streams": measurement.streams}
    return LatencyReport(
        manifest=Manifest("report", engine_parent(engine), target=target, options=options),
        mode=mode.sentence,
        settings=settings,
        inputs={name: array.shape for name, array in inputs.items()},
        latency=stats["latency"],
        h2d=stats["h2d"],
        compute=stats["compute"],
        d2h=stats["d2h"],
        enqueue=stats["enqueue"],
        throughput_qps=measurement.throughput_qps,
        environment=before,
        environment_after=collect_environment(),
        warnings=tuple(warnings),
        export_times=tuple(measurement.export_times()),
        end_to_end=stats["host"],
        settled=measurement.settled,
        window_ns=measurement.window_ns,
        board=board,
        build_report=engine.manifest.report if target == "tensorrt" else {},
    )


def _with_layers(
    report: LatencyReport,
    engine: Engine,
    inputs: Mapping[str, np.ndarray],
    whole_ms: float | None,
) -> LatencyReport:
    """Add the layers to a report, or why there are none: what was measured before is kept."""
    try:
        found = engine_layers(engine, inputs, whole_ms)
    except EdgeAttnError as err:
        warning = f"the layers could not be measured: {err.message}"
        return replace(report, warnings=(*report.warnings, warning))
    off = (
        diagnose_layers(found)
        if found is not None and not has_device(report.manifest.target)
        else ()
    )
    return replace(report, layers=found, warnings=(*report.warnings, *off))


def _unlock() -> Iterator[str]:
    """Undo what a run that crashed had locked, and say so."""
    try:
        if restore_clocks():
            yield "clocks that an earlier run had left locked were restored before this one"
    except BoardError as err:
        yield err.message
