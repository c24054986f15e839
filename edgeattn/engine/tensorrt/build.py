"""Build a plan with TensorRT: every answer of its is looked at, and every refusal explained.

    check → plugin → parse → configure → build → write → read back

The file appears whole or not at all, also after Ctrl-C. TensorRT's work runs on a thread of its own
(`edgeattn.engine.tensorrt.progress`), where every object of TensorRT's lives and dies.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.artifacts import Parent, atomic_path, check_writable
from edgeattn.engine.tensorrt.calibrators import int8_calibrator
from edgeattn.engine.tensorrt.config import add_profiles, make_config
from edgeattn.engine.tensorrt.device import forget_locals, primary_context
from edgeattn.engine.tensorrt.failures import build_error, explain_exception
from edgeattn.engine.tensorrt.gpu import identify_gpu
from edgeattn.engine.tensorrt.imports import import_tensorrt
from edgeattn.engine.tensorrt.log import CapturedLog, make_logger
from edgeattn.engine.tensorrt.lowering import LoweredForTensorRt
from edgeattn.engine.tensorrt.memory import check_memory, read_memory
from edgeattn.engine.tensorrt.network import ParsedNetwork, parse_network
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.plan import weights_of
from edgeattn.engine.tensorrt.plugin_library import find_for_build, load_plugin
from edgeattn.engine.tensorrt.profiles import resolve_profiles
from edgeattn.engine.tensorrt.progress import Progress, Watch, make_progress_monitor, watched
from edgeattn.engine.tensorrt.read_back import ReadBack, read_back
from edgeattn.engine.tensorrt.timing_cache import TimingCache, open_timing_cache
from edgeattn.engine.tensorrt.versions import TensorRtVersion, installed_version
from edgeattn.errors import BuildError
from edgeattn.graph.files import graph_sha256, input_specs
from edgeattn.inputs import InputSpec

if TYPE_CHECKING:
    import tensorrt

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorRtBuild:
    """A plan, and what is known of how it came about.

    Attributes:
        plan: The file.
        inspector: What TensorRT tells of the engine's layers, as JSON text.
        log: What TensorRT said.
        seconds: How long it took.
        device_memory_bytes: What a context of the engine takes on the GPU besides the weights.
        plan_bytes: Size of the file.
        timing_cache: Which timings were used and kept, as JSON values.
        used_plugin_libraries: Libraries that have to be loaded before the engine is, or are in it.
    """

    plan: Path
    inspector: str
    log: CapturedLog
    seconds: float
    device_memory_bytes: int
    plan_bytes: int
    timing_cache: dict[str, Any]
    used_plugin_libraries: tuple[Path, ...]


def build_plan(
    lowered: LoweredForTensorRt,
    options: TensorRtOptions,
    plan: Path,
    *,
    progress: Progress | None = None,
    log: CapturedLog | None = None,
) -> TensorRtBuild:
    """Build an engine and write it as a plan.

    Ctrl-C stops the build at TensorRT's next step; the timings that it has taken by then are kept.

    Args:
        lowered: The graph. Weights beyond 2 GB move out of it: it can be built once then.
        options: How to build; profiles are made whole.
        plan: The file to write. Its folder also takes the graph for as long as the build runs.
        progress: Called on this thread with percent done, 100, and the phase at hand.
        log: Takes what TensorRT says, so that the caller has it after a failure too. Its verbose
            messages are kept where this module logs at DEBUG (`edgeattn -vv`).

    Raises:
        ArtifactError: If a file cannot be written.
        BuildError: If TensorRT cannot build it as asked: with its own words and what to do.
        DataError: If calibration data cannot be read or does not fit the graph.
        EngineError: If CUDA fails.
        KeyboardInterrupt: After Ctrl-C, when TensorRT has stopped; nothing is left behind.
        MissingDependencyError: If TensorRT or pycuda cannot be imported.
        PluginError: If the plugin library is missing or does not fit.
    """
    began = time.monotonic()
    log = CapturedLog() if log is None else log
    version = installed_version()
    options.check(version)
    _check_graph(lowered, options, version)
    inputs = input_specs(lowered.model)
    profiles = resolve_profiles(options, inputs)
    check_writable(plan)
    plugin = find_for_build(lowered, version, options)
    if plugin is not None and options.dla_core is not None and not options.allow_gpu_fallback:
        raise BuildError(
            "the graph's attention runs in a plugin, and DLA runs no plugins",
            "add --allow-gpu-fallback, which runs it on the GPU",
        )
    workspace_bytes = _check_memory(lowered, options)
    timings = open_timing_cache(options, version, identify_gpu(options.device))
    with (
        atomic_path(plan) as unfinished,
        tempfile.TemporaryDirectory(prefix=".edgeattn-", dir=plan.absolute().parent) as folder,
    ):
        job = _Job(
            graph=lowered.save(Path(folder)),
            inputs=inputs,
            unfinished=unfinished,
            options=replace(options, profiles=profiles),
            version=version,
            plugin=plugin,
            workspace_bytes=workspace_bytes,
            timings=timings,
            log=log,
        )
        found = watched(job.run, progress)
        plan_bytes = unfinished.stat().st_size
    return TensorRtBuild(
        plan,
        found.inspector,
        log,
        time.monotonic() - began,
        found.device_memory_bytes,
        plan_bytes,
        timings.to_dict(),
        () if plugin is None else (plugin,),
    )


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One build, on the thread that TensorRT works on.

    Attributes:
        graph: The lowered ONNX file.
        inputs: Its inputs.
        unfinished: The file to write the plan to.
        options: With whole profiles.
        version: Of the installed TensorRT.
        plugin: The plugin library; `None` if the graph needs none.
        workspace_bytes: Limit of the workspace; `None` for TensorRT's own.
        timings: Timings of earlier builds.
        log: Takes what TensorRT says.
    """

    graph: Path
    inputs: tuple[InputSpec, ...]
    unfinished: Path
    options: TensorRtOptions
    version: TensorRtVersion
    plugin: Path | None
    workspace_bytes: int | None
    timings: TimingCache
    log: CapturedLog

    def run(self, watch: Watch) -> ReadBack:
        """Build, write, and read back."""
        with primary_context(self.options.device), _explained(self.log):
            watch.report(0, None, "starting TensorRT")
            logger = make_logger(self.log, verbose=_log.isEnabledFor(logging.DEBUG))
            self._load_plugins(logger)
            self._write(logger, watch)
            watch.raise_if_stopped()
            # By now the builder is gone: a board has no room for both.
            watch.report(100, 100, "reading the engine back")
            found = read_back(self.unfinished, logger, self.log, self.options)
            watch.raise_if_stopped()
            return found

    def _load_plugins(self, logger: tensorrt.ILogger) -> None:
        trt = import_tensorrt()
        began = self.log.now()
        if not trt.init_libnvinfer_plugins(logger, ""):
            what = "TensorRT's own plugins could not be registered"
            _log.warning("%s", build_error(what, self.log, since=began).message)
        if self.plugin is None:
            return
        registry = trt.get_plugin_registry()
        if registry is None:
            raise build_error("TensorRT has no plugin registry", self.log, since=began)
        load_plugin(registry, self.plugin)

    def _write(self, logger: tensorrt.ILogger, watch: Watch) -> None:
        """Build the engine and write it, without a second copy of it in memory."""
        trt = import_tensorrt()
        builder = trt.Builder(logger)
        watch.report(0, None, "parsing the graph")
        parsed = parse_network(
            builder,
            logger,
            self.log,
            self.graph,
            strongly_typed=self.options.is_strongly_typed(self.version),
        )
        watch.raise_if_stopped()
        embedded = self._load_own_libraries(builder, parsed)
        if self.options.embed_plugin and self.plugin is not None:
            embedded.append(str(self.plugin))
        config = make_config(
            builder,
            self.options,
            self.version,
            self.log,
            workspace_bytes=self.workspace_bytes,
            embedded=embedded,
        )
        profiles = add_profiles(builder, config, parsed, self.options.profiles, self.log)
        self.timings.attach(config, self.log)
        monitor = make_progress_monitor(watch)  # must live as long as the builder
        config.progress_monitor = monitor
        with self._calibrating(config, profiles, watch):
            memory = self._build(builder, parsed, config, watch)
        with self.unfinished.open("wb") as stream:
            written = stream.write(memory)
        if written != memory.nbytes:
            raise BuildError(f"{written} of the plan's {memory.nbytes} bytes could be written")

    def _load_own_libraries(self, builder: tensorrt.Builder, parsed: ParsedNetwork) -> list[str]:
        """Load what a version-compatible engine needs of TensorRT's own plugins, as trtexec does.

        Returns:
            Those that the engine shall carry: it does not, without the lean runtime.
        """
        libraries = parsed.plugin_libraries() if self.options.version_compatible else []
        for path in libraries:
            if builder.get_plugin_registry().load_library(path) is None:
                _log.info("TensorRT did not load %s, or has its plugins already", path)
        if libraries and self.options.exclude_lean_runtime:
            names = ", ".join(libraries)
            _log.warning("whoever loads the engine has to load %s before it", names)
            return []
        return libraries

    def _build(
        self,
        builder: tensorrt.Builder,
        parsed: ParsedNetwork,
        config: tensorrt.IBuilderConfig,
        watch: Watch,
    ) -> tensorrt.IHostMemory:
        began = self.log.now()
        memory = builder.build_serialized_network(parsed.network, config)
        self.log.raise_kept()
        if watch.stop.is_set() or memory is not None:
            # Not after a failure: timings taken while memory was short mislead later builds.
            self.timings.save(config)
        watch.raise_if_stopped()
        if memory is None or not memory.nbytes:
            raise build_error("TensorRT built no engine", self.log, since=began)
        return memory

    @contextlib.contextmanager
    def _calibrating(
        self,
        config: tensorrt.IBuilderConfig,
        profiles: list[tensorrt.IOptimizationProfile],
        watch: Watch,
    ) -> Iterator[None]:
        """Let TensorRT 10 find INT8 scales during the build, if that was asked for."""
        wanted = self.options.implicit_int8
        if self.version.has_calibrators and wanted is not None:
            began = self.log.now()
            if profiles and not config.set_calibration_profile(profiles[0]):
                what = "TensorRT refused the calibration profile"
                raise build_error(what, self.log, since=began)
            with int8_calibrator(
                wanted.data,
                _at_best_shapes(self.inputs, self.options.profiles[0]),
                Parent(self.graph.name, graph_sha256(self.graph)),
                method=wanted.method,
                samples=wanted.samples,
                seed=wanted.seed,
                max_bad=wanted.max_bad,
                cache=wanted.cache,
                device=self.options.device,
                progress=watch.report,
            ) as calibrator:
                config.int8_calibrator = calibrator
                yield
        else:
            yield


def _check_graph(
    lowered: LoweredForTensorRt, options: TensorRtOptions, version: TensorRtVersion
) -> None:
    """Refuse a graph that was lowered for something else."""
    if (lowered.version.major, lowered.version.minor) != (version.major, version.minor):
        raise BuildError(
            f"the graph was lowered for TensorRT {lowered.version}, and {version} is installed",
            "build it on the machine that it is for",
        )
    if not options.is_strongly_typed(version) and "int8" in lowered.precision:
        wanted = "--dla-core" if options.dla_core is not None else "--implicit-int8"
        raise BuildError(
            f"the graph has its INT8 in Q/DQ nodes, which TensorRT {version} does not take with "
            f"{wanted}",
            "give the graph in FP32 or FP16; --implicit-int8 with data finds INT8 scales for DLA",
        )


def _check_memory(lowered: LoweredForTensorRt, options: TensorRtOptions) -> int | None:
    """Look whether the build fits into memory.

    Returns:
        The limit of the workspace in bytes; `None` for TensorRT's own.
    """
    weights = weights_of(lowered.model)
    asked = None if options.workspace_mib is None else options.workspace_mib << 20
    limit, findings = check_memory(
        sum(weights.values()),
        max(weights.values(), default=0),
        asked,
        read_memory(options.device),
    )
    for finding in findings:
        if finding.level == "error":
            raise BuildError(finding.text, finding.hint)
        level = logging.WARNING if finding.level == "warning" else logging.INFO
        _log.log(level, "%s", f"{finding.text}; {finding.hint}" if finding.hint else finding.text)
    return limit


def _at_best_shapes(inputs: Sequence[InputSpec], profile: ShapeProfile) -> tuple[InputSpec, ...]:
    return tuple(replace(spec, shape=profile.opt[spec.name]) for spec in inputs)


@contextlib.contextmanager
def _explained(log: CapturedLog) -> Iterator[None]:
    """Put what TensorRT's bindings raise into words, and let go of the builder and its memory."""
    began = log.now()
    try:
        yield
    except BaseException as err:
        forget_locals(err)
        known = explain_exception(err, BuildError, log, since=began)
        if isinstance(err, MemoryError):  # what the bindings make of std::bad_alloc
            known = build_error("the build ran out of the system's memory", log, since=began)
        if known is not None:
            raise known from err
        raise
