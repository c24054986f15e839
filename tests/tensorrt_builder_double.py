"""A scripted double of TensorRT's builder: it drives control flow and computes nothing.

For use where `import tensorrt` gives NVIDIA's real bindings without TensorRT: enums, the logger,
the progress monitor and the calibrators are the real ones; what needs a live object is played here.
A class stands for the class of its name, and no attribute can be set on its objects that the real
class of this version has not. What a build "yields" are the bytes that the script holds. Whether a
real TensorRT would do the same is not shown by anything here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import pytest
import tensorrt as trt

from edgeattn.graph.op import OP_TYPE

PLUGIN_NODE = OP_TYPE
Lines = list[tuple[str, str]]
NO_PLUGIN = (
    "In function checkFallbackPluginImporter: [6] creator && "
    '"Plugin not found, are the plugin name, version, and namespace correct?"'
)
# Calibration ended with 10.
ONLY = {
    "IBuilderConfig.set_calibration_profile": ("10.3.0", "10.7.0", "10.13.3.9", "10.16.1.11"),
}
_REAL = {name: getattr(trt, name) for name in dir(trt) if name[0].isupper()}


@dataclass
class Script:
    """What TensorRT is to do, and what it was asked.

    Attributes:
        plan: Bytes that a build yields; `None` if it yields nothing.
        says: Lines of log by what is being done: `plugins`, `start`, `parse`, `config`, `cache`,
            `profile`, `build`, `load`, `inspect`; severity and text.
        nothing: What gives nothing: `plugins`, `creators`, `builder`, `network`, `config`,
            `profile`, `memory`, `engine`, `inspector`, `context`, `information`, `serialize`,
            `used_libraries`.
        refuses: What is refused: `pools`, `tactics`, `profile`, `invalid profile`, `shapes`,
            `shape`, `calibration`, `cache`, `library`, `own library`.
        parser_errors: Errors of the parser.
        shape_tensors: Inputs that the network takes for sizes.
        registers: Whether a library that is loaded registers our plugin.
        registered: Plugins that are registered.
        timings: What a build adds to its timings.
        steps: Steps of a build; `on_step` is called before each is reported.
        on_step: See there.
        dla_cores: How many there are.
        used_libraries: What the parser says a version-compatible engine needs.
        calls: What was done, in order.
        config: The last configuration.
        contexts: Stack of CUDA contexts while TensorRT worked, by what it did.
        ledger: The stand-in of pycuda.
        inspected_at: Shapes that the engine was inspected at.
        inspected_in: The context that it was inspected in.
        runtime: The last runtime.
        live_builder: The last builder, if it still takes memory.
    """

    plan: bytes | None = b"a plan" * 100
    says: dict[str, Lines] = field(default_factory=dict)
    nothing: set[str] = field(default_factory=set)
    refuses: set[str] = field(default_factory=set)
    parser_errors: list[dict[str, Any]] = field(default_factory=list)
    shape_tensors: set[str] = field(default_factory=set)
    registers: bool = True
    registered: list[tuple[str, str, str]] = field(default_factory=list)
    timings: tuple[str, ...] = ("conv 3",)
    steps: int = 3
    on_step: Callable[[int], None] = lambda step: None
    dla_cores: int = 0
    used_libraries: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    config: Any = None
    contexts: dict[str, list[int]] = field(default_factory=dict)
    ledger: Any = None
    inspected_at: dict[str, tuple[int, ...]] = field(default_factory=dict)
    inspected_in: Any = None
    runtime: Any = None
    live_builder: Callable[[], Any] = lambda: None

    def play(self, what: str, logger: Any) -> None:
        """Note what is done, in which CUDA context, and say what the script has for it."""
        self.calls.append(what)
        self.contexts[what] = list(self.ledger.current) if self.ledger else []
        for severity, text in self.says.get(what, ()):
            logger.log(getattr(trt.ILogger.Severity, severity.upper()), text)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put the double in the place of what needs TensorRT itself."""
        _Played._script = self
        for kind in (Builder, OnnxParser, Runtime):
            monkeypatch.setattr(trt, kind.__name__, kind)
        monkeypatch.setattr(trt, "get_plugin_registry", IPluginRegistry)
        monkeypatch.setattr(trt, "init_libnvinfer_plugins", self._init_plugins)

    def _init_plugins(self, logger: Any, namespace: str) -> bool:
        self.play("plugins", logger)
        return "plugins" not in self.nothing


class _Played:
    """What plays a class of TensorRT's: only names of the real class can be set on it."""

    _script: Script

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and not hasattr(_REAL[type(self).__name__], name):
            raise AttributeError(f"{type(self).__name__} of {trt.__version__} has no {name}")
        super().__setattr__(name, value)


class IHostMemory(bytes):
    """Memory with the buffer interface."""

    @property
    def nbytes(self) -> int:
        return len(self)


class ITensor(_Played):
    def __init__(self, name: str, shape: tuple[int, ...], is_shape_tensor: bool) -> None:
        self._name, self._shape, self._is_shape_tensor = name, shape, is_shape_tensor

    @property
    def name(self) -> str:
        return self._name

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def is_shape_tensor(self) -> bool:
        return self._is_shape_tensor


class INetworkDefinition(_Played):
    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._inputs: list[ITensor] = []
        self._layers = 0

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    @property
    def num_layers(self) -> int:
        return self._layers

    def get_input(self, index: int) -> ITensor | None:
        return self._inputs[index] if index < len(self._inputs) else None


class ParserError(_Played):
    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def code(self) -> Any:
        return getattr(trt.ErrorCode, self._values.get("code", "UNSUPPORTED_NODE"))

    def desc(self) -> str:
        return self._values.get("desc", "it is not supported")

    def node(self) -> int:
        return self._values.get("node", 0)

    def node_name(self) -> str:
        return self._values.get("name", "")

    def node_operator(self) -> str:
        return self._values.get("operator", "")

    def local_function_stack(self) -> list[str]:
        return self._values.get("stack", [])


class OnnxParser(_Played):
    """Reads the inputs of the real file, and looks plugins up as TensorRT does."""

    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        assert isinstance(logger, trt.ILogger)
        self._network, self._logger = network, logger
        self._errors: list[ParserError] = []

    def parse_from_file(self, model: str) -> bool:
        script = self._script
        script.play("parse", self._logger)
        graph = onnx.load(model).graph
        weights = {tensor.name for tensor in graph.initializer}
        for value in graph.input:
            if value.name not in weights:
                dims = value.type.tensor_type.shape.dim
                shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)
                is_sizes = value.name in script.shape_tensors
                self._network._inputs.append(ITensor(value.name, shape, is_sizes))
        self._network._layers = len(graph.node)
        errors = list(script.parser_errors)
        for index, node in enumerate(graph.node):
            if node.op_type == PLUGIN_NODE and (PLUGIN_NODE, "1", "") not in script.registered:
                self._logger.log(trt.ILogger.Severity.ERROR, NO_PLUGIN)
                names = {"name": node.name, "operator": node.op_type}
                errors.append({"desc": "Plugin not found", "node": index, **names})
        self._errors = [ParserError(values) for values in errors]
        return not errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def get_used_vc_plugin_libraries(self) -> list[str]:
        if "used_libraries" in self._script.nothing:
            raise RuntimeError("Internal error")
        return list(self._script.used_libraries)


class IOptimizationProfile(_Played):
    def __init__(self) -> None:
        self._ranges: dict[str, tuple[Any, ...]] = {}
        self._values: dict[str, tuple[Any, ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        if "shapes" in self._script.refuses:
            raise ValueError(f"Shape provided for min is inconsistent with other shapes: {min}")
        self._ranges[input] = tuple(tuple(trt.Dims(shape)) for shape in (min, opt, max))

    def set_shape_input(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        assert all(isinstance(values, list) for values in (min, opt, max))
        self._values[input] = (min, opt, max)

    def __bool__(self) -> bool:
        return "invalid profile" not in self._script.refuses


class ITimingCache(_Played):
    """Text: a line with the version, then one per timing."""

    def __init__(self, lines: tuple[str, ...], version: str) -> None:
        self._lines, self._version = set(lines), version

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        if input_cache._version != self._version:
            return False
        self._lines |= input_cache._lines
        return True

    def serialize(self) -> IHostMemory | None:
        if "serialize" in self._script.nothing:
            return None
        return IHostMemory(timings_text(*self._lines, version=self._version))


def timings_text(*lines: str, version: str = trt.__version__) -> bytes:
    """Write what a double's cache file holds."""
    return "\n".join([f"TIMINGS {version}", *sorted(lines)]).encode()


class IBuilderConfig(_Played):
    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._flags = {trt.BuilderFlag.TF32}
        self._pools: dict[Any, int] = {}
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None
        self._tactics: int | None = None
        self._calibration_profile: IOptimizationProfile | None = None

    def set_flag(self, flag: Any) -> None:
        assert isinstance(flag, trt.BuilderFlag)
        self._flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        assert isinstance(pool, trt.MemoryPoolType)
        assert type(pool_size) is int
        if "pools" not in self._script.refuses:
            self._pools[pool] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools.get(pool, 1 << 34)

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        self._tactics = tactic_sources
        return "tactics" not in self._script.refuses

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        self._script.play("cache", self._logger)
        if "cache" in self._script.refuses:
            return None
        head, *lines = bytes(serialized_timing_cache).decode(errors="replace").split("\n")
        if not head:
            return ITimingCache((), trt.__version__)
        if not head.startswith("TIMINGS "):
            text = "[timingCache.cpp::deserialize::87] Error Code 1: Serialization (magic)"
            self._logger.log(trt.ILogger.Severity.ERROR, text)
            return None
        return ITimingCache(tuple(lines), head.split()[1])

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        if cache._version != trt.__version__:
            self._logger.log(trt.ILogger.Severity.WARNING, "Timing cache of another TensorRT")
            return False
        self._cache = cache
        return True

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._script.play("profile", self._logger)
        if "profile" in self._script.refuses:
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_calibration_profile(self, profile: IOptimizationProfile) -> bool:
        self._calibration_profile = profile
        return "calibration" not in self._script.refuses


class Builder(_Played):
    def __init__(self, logger: Any) -> None:
        assert isinstance(logger, trt.ILogger)
        self._logger = logger
        self._script.play("start", logger)
        if "builder" in self._script.nothing:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._script.live_builder = weakref.ref(self)

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        return self._script.dla_cores

    def get_plugin_registry(self) -> IPluginRegistry:
        return IPluginRegistry()

    def create_network(self, flags: int = 0) -> INetworkDefinition | None:
        self._script.calls.append(f"network {flags}")
        return None if "network" in self._script.nothing else INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig | None:
        self._script.play("config", self._logger)
        self._script.config = IBuilderConfig(self._logger)
        return None if "config" in self._script.nothing else self._script.config

    def create_optimization_profile(self) -> IOptimizationProfile | None:
        return None if "profile" in self._script.nothing else IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        script = self._script
        script.play("build", self._logger)
        if "memory" in script.nothing:
            raise MemoryError("std::bad_alloc")
        calibrator = getattr(config, "int8_calibrator", None)
        if calibrator is not None:
            names = [tensor.name for tensor in network._inputs]
            while calibrator.get_batch(names) is not None:
                script.calls.append("batch")
        monitor = config.progress_monitor
        assert isinstance(monitor, trt.IProgressMonitor)
        monitor.phase_start("Building Engine", None, script.steps)
        for step in range(script.steps):
            script.on_step(step)
            if config._cache is not None:
                config._cache._lines.update(script.timings)
            if not monitor.step_complete("Building Engine", step):
                script.calls.append("stopped")
                return None
        monitor.phase_finish("Building Engine")
        return None if script.plan is None else IHostMemory(script.plan)


class IPluginRegistry(_Played):
    @property
    def all_creators(self) -> list[IPluginCreatorV3One] | None:
        if "creators" in self._script.nothing:
            return None
        others = [("NMS_TRT", "1", ""), (PLUGIN_NODE, "2", ""), (PLUGIN_NODE, "1", "other")]
        return [IPluginCreatorV3One(*each) for each in (*others, *self._script.registered)]

    def get_creator(
        self,
        type: str,  # noqa: A002
        version: str,
        plugin_namespace: str = "",
    ) -> IPluginCreatorV3One | None:
        wanted = (type, version, plugin_namespace)
        return IPluginCreatorV3One(*wanted) if wanted in self._script.registered else None

    def load_library(self, plugin_path: str) -> object | None:
        self._script.calls.append(f"library {Path(plugin_path).name}")
        if plugin_path in self._script.used_libraries:
            return None if "own library" in self._script.refuses else object()
        if "library" in self._script.refuses or self._script.registered:
            return None
        if self._script.registers:
            self._script.registered.append((PLUGIN_NODE, "1", ""))
        return object()


class IPluginCreatorV3One(_Played):
    def __init__(self, name: str, version: str, namespace: str) -> None:
        self._identity = (name, version, namespace)

    @property
    def name(self) -> str:
        return self._identity[0]

    @property
    def plugin_version(self) -> str:
        return self._identity[1]

    @property
    def plugin_namespace(self) -> str:
        return self._identity[2]


class IExecutionContext(_Played):
    def set_input_shape(self, name: str, shape: Any) -> bool:
        self._script.inspected_at[name] = tuple(trt.Dims(shape))
        return "shape" not in self._script.refuses

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert memory
        self._script.inspected_at[name] = ()
        return True


class EngineInspector(_Played):
    execution_context: IExecutionContext | None = None

    def get_engine_information(self, format: Any) -> str:  # noqa: A002
        assert format == trt.LayerInformationFormat.JSON
        self._script.inspected_in = self.execution_context
        if "information" in self._script.nothing:
            return ""
        return '{"Layers": [], "Bindings": []}'


class ICudaEngine(_Played):
    """Has the inputs of the network that was built last."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    @property
    def device_memory_size_v2(self) -> int:
        return 4096

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors())

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors())[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors()[name]

    def get_tensor_dtype(self, name: str) -> Any:
        return trt.int64 if name in self._script.shape_tensors else trt.float32

    def get_tensor_mode(self, name: str) -> Any:
        return trt.TensorIOMode.OUTPUT if name == "output" else trt.TensorIOMode.INPUT

    def is_shape_inference_io(self, name: str) -> bool:
        return name in self._script.shape_tensors

    def create_engine_inspector(self) -> EngineInspector | None:
        self._script.play("inspect", self._logger)
        return None if "inspector" in self._script.nothing else EngineInspector()

    def create_execution_context(self, strategy: Any) -> IExecutionContext | None:
        assert strategy == trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return None if "context" in self._script.nothing else IExecutionContext()

    def _tensors(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"output": (-1,)}
        for profile in self._script.config._profiles:
            shapes |= {name: (-1,) * len(opt) for name, (_, opt, _) in profile._ranges.items()}
            shapes |= {name: (len(values[1]),) for name, values in profile._values.items()}
        return shapes if len(shapes) > 1 else {"output": (1,)}


class Runtime(_Played):
    def __init__(self, logger: Any) -> None:
        assert isinstance(logger, trt.ILogger)
        self._logger = logger
        self._script.calls.append("runtime")
        self._script.runtime = self

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        script = self._script
        script.play("load", self._logger)
        assert script.live_builder() is None, "the builder still takes memory"
        assert bytes(serialized_engine) == script.plan
        return None if "engine" in script.nothing else ICudaEngine(self._logger)


def flags(*names: str) -> set[Any]:
    """Look flags up: some have two names, of which the bindings tell either."""
    return {getattr(trt.BuilderFlag, name) for name in names}


def ranges_of(config: IBuilderConfig) -> Iterator[dict[str, tuple[Any, ...]]]:
    """Give the ranges of the profiles of a configuration."""
    return (profile._ranges | profile._values for profile in config._profiles)
