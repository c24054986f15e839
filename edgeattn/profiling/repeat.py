"""How much does a latency depend on the build? Build it several times, and keep the fastest.

TensorRT chooses kernels by timing them, so that two builds of one graph differ: in their kernels,
and in their latency. A timing cache would hide that, since it gives every build the timings of the
first; the builds here take theirs anew. The CPU engine's builds have the same bytes, and show what
the measurement itself is worth.

That an engine is the fastest of several says little: one of them always is. It takes the place of
the one that was there only if it is faster in a second measurement too, by more than its confidence
interval and by more than the same engine, loaded twice, differs from itself; and only if it is
right, for other kernels may be wrong ones.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.artifacts import Manifest, atomic_artifact, check_writable
from edgeattn.engine.load import engine_target
from edgeattn.engine.random_inputs import random_inputs, tuned_shapes
from edgeattn.engine.rebuild import rebuild, typed_graph
from edgeattn.engine.sources import Sources, find_sources
from edgeattn.engine.verify import verify_engine
from edgeattn.errors import DataError, EdgeAttnError, EngineError
from edgeattn.profiling.kernel_changes import KernelChange, kernel_changes
from edgeattn.profiling.measure import DURATION_S, ITERATIONS, WARM_UP_MS
from edgeattn.profiling.modes import choose_mode, has_device
from edgeattn.profiling.repeat_words import build_sentences, changed_tools
from edgeattn.profiling.repeated_builds import BuildRow, Confirmation, RepeatedBuilds
from edgeattn.profiling.side_by_side import Bench, Measured, SideBySide, engines_at_once
from edgeattn.profiling.stats import LatencyStats, PercentileRule

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions

Progress = Callable[[int, "int | None", str], None]

_KEPT_DIFFERENCES = 20
_AGAIN = "again"


def repeat_builds(
    engine: Path | str,
    count: int,
    *,
    inputs: Mapping[str, np.ndarray] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    mode: str | None = None,
    iterations: int = ITERATIONS,
    duration_s: float = DURATION_S,
    warm_up_ms: float = WARM_UP_MS,
    threads: int | None = None,
    tensorrt: TensorRtRunOptions | None = None,
    sources: Path | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> RepeatedBuilds:
    """Build an engine file several times more as it was built, and keep the fastest.

    All builds are measured side by side with the engine that is there: as many at a time as half of
    the free memory holds, and that engine each time. Until all is measured the file is untouched;
    then it is replaced at once or not at all.

    Args:
        engine: The engine file.
        count: How often to build it.
        inputs: Arrays by input name; random ones if not given.
        shapes: Shapes of random inputs, for those with free dimensions; by default those that the
            engine was tuned for, if it was.
        mode: What the latency holds, one of `edgeattn.profiling.modes.MODES`.
        iterations: Least number of timed queries of each engine.
        duration_s: Least time to time each engine.
        warm_up_ms: Time to run each without timing before.
        threads: Threads to load CPU engines with.
        tensorrt: How to load TensorRT engines.
        sources: Folder of the graph and the calibration table, where they are not beside the
            engine.
        seed: Seed of the random inputs.
        progress: Called with steps done, steps in all, and the step at hand.

    Raises:
        ArtifactError: If the engine, its graph or its table is missing or another one.
        BuildError: If it cannot be built as it was.
        DataError: If the inputs do not fit the engine, or a number is out of range.
        EngineError: If it was built with another TensorRT or on another GPU, or fails.
        SpecError: If there is no such mode for the engine.
    """
    path, step = Path(engine), progress or _silent
    if count < 1:
        raise DataError(f"count is {count}; expected at least 1 build")
    if path.suffix.lower() == ".onnx":
        raise EngineError(
            f"{path} is a graph and no engine that was built", "build an engine, and repeat that"
        )
    target = engine_target(path)
    chosen = choose_mode(mode, target)
    check_writable(path)
    if has_device(target):
        tensorrt = chosen.load_options(tensorrt)
    loop = {"iterations": iterations, "duration_s": duration_s, "warm_up_ms": warm_up_ms}
    bench = Bench(chosen, inputs or {}, threads, tensorrt, loop)
    # What does not fit is said before the builds, which may take hours.
    with bench.load(path) as present:
        chosen.check(present)
        manifest = present.manifest
        if inputs is None:
            given = tuned_shapes(present) | dict(shapes or {})
            bench = replace(bench, inputs=random_inputs(present.inputs, given, seed))
        present.run(bench.inputs)
    found = find_sources(path, manifest, None if sources is None else Path(sources))
    # Beside the engine, so that the fastest can be moved into its place.
    with tempfile.TemporaryDirectory(prefix=".edgeattn-", dir=path.absolute().parent) as folder:
        plugin = tensorrt.plugin if tensorrt is not None else None
        builds = [
            _build(path, found, plugin, Path(folder), number, count, progress)
            for number in range(1, count + 1)
        ]
        step(count, count + 1, "measure the builds side by side")
        return _judge(path, manifest, found, builds, bench)


@dataclass(frozen=True)
class _Build:
    """An engine that was built.

    Attributes:
        number: From 1 on.
        file: Where it is.
        manifest: Its manifest.
        seconds: How long it took.
    """

    number: int
    file: Path
    manifest: Manifest
    seconds: float

    @property
    def name(self) -> str:
        """What to call it among those measured."""
        return str(self.number)


def _build(
    path: Path,
    sources: Sources,
    plugin: Path | None,
    folder: Path,
    number: int,
    count: int,
    progress: Progress | None,
) -> _Build:
    """Build the engine once more, under its own name in a folder of the build's own."""
    report: Progress | None = None
    if progress is not None:
        title = f"build {number} of {count}"
        report = _prefixed(progress, number - 1, count + 1, title)
        progress(number - 1, count + 1, title)
    output = folder / str(number) / path.name
    output.parent.mkdir()
    begin = time.monotonic()
    try:
        manifest = rebuild(path, sources, output, plugin=plugin, progress=report)
    except EdgeAttnError as err:
        raise _with_log(err, path, output) from err
    return _Build(number, output, manifest, time.monotonic() - begin)


def _with_log(err: EdgeAttnError, path: Path, output: Path) -> EdgeAttnError:
    """Keep what TensorRT said before a build failed: beside the engine, whose own log stays."""
    log = _log_of(output)
    if not log.exists():
        return err
    kept = path.with_name(f"{path.name}.repeat.log")
    log.replace(kept)
    return type(err)(err.message, err.hint.replace(str(log), str(kept)))


def _log_of(engine: Path) -> Path:
    """Where the log of a build stands."""
    return engine.with_name(f"{engine.name}.log")


def _judge(
    path: Path, manifest: Manifest, sources: Sources, builds: Sequence[_Build], bench: Bench
) -> RepeatedBuilds:
    """Measure the builds, and put the fastest in place if it is surely faster, and right."""
    contexts = 1 if bench.tensorrt is None else bench.tensorrt.contexts
    at_once = engines_at_once(path, manifest, contexts)
    files = {_AGAIN: path} | {build.name: build.file for build in builds}
    found = bench.measure(path, files, at_once)
    margin, fault = found.others[_AGAIN].margin, ""
    others = [build for build in builds if build.manifest.files != manifest.files]
    confirmed, winner = None, None
    if others:
        fastest = min(others, key=lambda build: found.others[build.name].ratio)
        if found.others[fastest.name].is_faster(margin):
            files = {_AGAIN: path, fastest.name: fastest.file}
            once_more = bench.measure(path, files, at_once).others
            measured = once_more[fastest.name]
            confirmed = Confirmation(measured.ratio, measured.interval)
            margin = max(margin, once_more[_AGAIN].margin)
            if measured.is_faster(margin):
                fault = _fault(path, sources, fastest, bench)
                winner = None if fault else fastest
    ratios = [1.0, *(found.others[build.name].ratio for build in builds)]
    record = RepeatedBuilds(
        target=manifest.target,
        mode=bench.mode.sentence,
        inputs={name: array.shape for name, array in bench.inputs.items()},
        rows=tuple(_rows(path, manifest, builds, found, winner, bench.mode.percentiles)),
        spread_percent=100 * (max(ratios) / min(ratios) - 1),
        noise_percent=100 * abs(found.others[_AGAIN].ratio - 1),
        identical=not others,
        confirmed=confirmed,
        sentences=(),
    )
    if winner is not None and confirmed is not None:
        _put_in_place(path, winner, len(builds), confirmed)
    told = changed_tools(manifest, builds[0].manifest)
    return replace(record, sentences=(*build_sentences(record, margin, fault), *told))


def _fault(path: Path, sources: Sources, build: _Build, bench: Bench) -> str:
    """Check a build against its graph; says why it is not kept, and nothing if it is right."""
    if "verify" in build.manifest.report:  # as the engine that was there, while it was built
        return ""
    shapes = {name: array.shape for name, array in bench.inputs.items()}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="edgeattn-") as folder,
            bench.load(build.file) as engine,
        ):
            graph = typed_graph(path, sources, Path(folder))
            checks = verify_engine(engine, graph, shapes=(shapes,))
    except EdgeAttnError as err:  # what was found in hours is told all the same
        return f"cannot be checked ({err.message})"
    failed = [f"{check.name}: {check.detail}" for check in checks if check.verdict == "failed"]
    return f"is wrong ({'; '.join(failed)})" if failed else ""


def _rows(
    path: Path,
    manifest: Manifest,
    builds: Sequence[_Build],
    found: SideBySide,
    winner: _Build | None,
    rule: PercentileRule,
) -> Iterator[BuildRow]:
    """Describe the engine that was there, the same again, and the builds."""
    there: dict[str, Any] = {
        "number": 0,
        "sha256": manifest.files[path.name],
        "bytes": path.stat().st_size,
        "layers": None if found.info is None else len(found.info.layers),
        "differing": None if found.info is None else 0,
    }
    latency = LatencyStats.from_samples(found.present_ms, rule)
    yield BuildRow(
        role="present",
        latency=latency,
        ratio=1.0,
        ratio_interval=None,
        kept=winner is None,
        **there,
    )
    yield BuildRow(role="again", **_figures(found.others[_AGAIN], rule), **there)
    for build in builds:
        measured = found.others[build.name]
        changes = _changes(found, measured)
        yield BuildRow(
            role="build",
            number=build.number,
            sha256=build.manifest.files[path.name],
            bytes=build.file.stat().st_size,
            **_figures(measured, rule),
            kept=build is winner,
            build_seconds=build.seconds,
            layers=None if measured.info is None else len(measured.info.layers),
            differing=None if changes is None else len(changes),
            differences=(changes or ())[:_KEPT_DIFFERENCES],
        )


def _figures(measured: Measured, rule: PercentileRule) -> dict[str, Any]:
    return {
        "latency": LatencyStats.from_samples(measured.latency_ms, rule),
        "ratio": measured.ratio,
        "ratio_interval": measured.interval,
    }


def _changes(found: SideBySide, measured: Measured) -> tuple[KernelChange, ...] | None:
    if found.info is None or measured.info is None:
        return None
    return kernel_changes(found.info, measured.info)


def _put_in_place(path: Path, winner: _Build, count: int, confirmed: Confirmation) -> None:
    """Replace an engine, and what stands beside it, by a build of the same file names."""
    said = {"builds": count, "ratio": confirmed.ratio, "ratio_interval": confirmed.ratio_interval}
    manifest = replace(winner.manifest, report=winner.manifest.report | {"fastest_of": said})
    names = [path.name, *(name for name in manifest.files if name != path.name)]
    with atomic_artifact(path, manifest, *names[1:]) as files:
        for name, file in zip(names, files, strict=True):
            winner.file.with_name(name).replace(file)
    if _log_of(winner.file).exists():  # that of the one before is of no use any more
        _log_of(winner.file).replace(_log_of(path))


def _prefixed(progress: Progress, done: int, total: int, title: str) -> Progress:
    """Give a build's own steps as parts of one step."""
    return lambda part, parts, what: progress(done, total, f"{title}: {what}")


def _silent(done: int, total: int | None, what: str) -> None:
    """Tell nobody."""
