"""What a TensorRT build may be asked for, checked before TensorRT sees any of it.

Values that are not given are TensorRT's own defaults, unless a docstring says otherwise. Each name
of `IBuilderConfig` that only some versions have is refused here by name, on a version that lacks
it, and never dropped in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from edgeattn.calibration.sources import DataSource
from edgeattn.engine.base import near_misses
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import BuildError

Shapes = Mapping[str, tuple[int, ...]]
HardwareCompatibility = Literal["none", "ampere+", "same_compute_capability"]
ProfilingVerbosity = Literal["detailed", "layer_names", "none"]
Tiling = Literal["none", "fast", "moderate", "full"]

# Memory pools besides the workspace: ours → trtexec's; ours in capitals is TensorRT's. trtexec has
# no word for TACTIC_DRAM (its help, 10.3 and 11.1).
POOLS = {
    "dla_managed_sram": "dlaSRAM",
    "dla_local_dram": "dlaLocalDRAM",
    "dla_global_dram": "dlaGlobalDRAM",
    "tactic_dram": "",
    "tactic_shared_memory": "tacticSharedMem",
}
# The bindings' TacticSource: the libraries' went with 11.0, when TensorRT stopped using them.
_LIBRARY_TACTICS = ("CUBLAS", "CUBLAS_LT", "CUDNN")
_OWN_TACTICS = ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ShapeProfile:
    """The range of shapes that an engine takes, and the shapes that it is tuned for.

    TensorRT calls it an optimization profile. Of a shape tensor, an input whose values are sizes,
    it holds the values.

    Attributes:
        min: Smallest shape of each input by its name; none for that of `opt`.
        opt: Shapes that the engine is tuned for.
        max: Largest shapes; none for those of `opt`.
    """

    min: Shapes = field(default_factory=dict)
    opt: Shapes
    max: Shapes = field(default_factory=dict)

    def to_dict(self) -> dict[str, dict[str, list[int]]]:
        """Turn the profile into JSON values."""
        return {
            kind: {name: list(shape) for name, shape in getattr(self, kind).items()}
            for kind in ("min", "opt", "max")
        }


@dataclass(frozen=True)
class ImplicitInt8:
    """INT8 whose scales TensorRT 10 finds by itself, in a graph without Q/DQ nodes.

    Attributes:
        data: As `edgeattn.calibrate` takes it.
        method: `entropy`, the only one that DLA accepts, or `minmax`.
        samples: Most samples to use; by default all.
        seed: Chooses the samples.
        max_bad: Unreadable images to skip before giving up.
        cache: File to keep TensorRT's scales in.
        fp16: Whether layers that do not run in INT8 may run in FP16 instead of FP32.
    """

    data: DataSource
    method: str = "entropy"
    samples: int | None = None
    seed: int = 0
    max_bad: int = 0
    cache: Path | None = None
    fp16: bool = False


@dataclass(frozen=True)
class TensorRtOptions:
    """How to build an engine.

    Attributes:
        profiles: Ranges of shapes; none for a graph without free dimensions.
        workspace_mib: Most memory that one layer's algorithm may use; by default what is free on
            the device, less a reserve on a board whose GPU shares it.
        pools: Limits of other memory pools in MiB, by the names in `POOLS`.
        timing_cache: File of timings to share between builds; by default one per device, driver and
            TensorRT version in the cache folder.
        no_timing_cache: Keep no timings after the build.
        optimization_level: 0 (fastest build) to 5 (slowest); 3 by default.
        max_tactics: Most algorithms to time per layer (10.4 on).
        avg_timing: Runs that one timing is the mean of; 1 by default, and 8 in trtexec.
        tactic_sources: Names of `TacticSource` to use, and no others.
        tiling: How long to search for tilings that keep data in the L2 cache (10.8 on).
        hardware_compatibility: GPUs that the engine runs on besides this one: none, all from
            Ampere on, or those of the same compute capability (10.9 on). Costs speed.
        version_compatible: Whether newer versions of the same major can load the engine. Costs
            speed.
        exclude_lean_runtime: Leave the runtime out of a version-compatible engine.
        strip_weights: Leave the weights out of the engine; it is refitted before it runs.
        refit: Let the weights be exchanged later. Costs speed.
        dla_core: Core of the deep learning accelerator to build for (10.3 to 10.7, 11.4.1 on). On
            10.x the types are then TensorRT's choice among FP16 and INT8, as DLA has no others.
        allow_gpu_fallback: Run on the GPU what DLA cannot.
        tf32: Let FP32 products round their inputs to TF32, as TensorRT does by default.
        max_aux_streams: Most streams besides the caller's; 0 takes the least memory.
        profiling_verbosity: What the engine tells of its layers. `detailed` by default, unlike
            TensorRT's own: the proof of what was built is read from it.
        embed_plugin: Put the plugin library into a version-compatible engine.
        plugin: The plugin library; by default the one that `find_plugin_library` finds.
        implicit_int8: Let TensorRT 10 choose INT8 scales from data.
        sparsity: Use kernels for 2:4 sparse weights where weights are.
        device: The GPU, as CUDA numbers them.
    """

    profiles: tuple[ShapeProfile, ...] = ()
    workspace_mib: int | None = None
    pools: Mapping[str, float] = field(default_factory=dict)
    timing_cache: Path | None = None
    no_timing_cache: bool = False
    optimization_level: int | None = None
    max_tactics: int | None = None
    avg_timing: int | None = None
    tactic_sources: tuple[str, ...] | None = None
    tiling: Tiling | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    exclude_lean_runtime: bool = False
    strip_weights: bool = False
    refit: bool = False
    dla_core: int | None = None
    allow_gpu_fallback: bool = False
    tf32: bool = True
    max_aux_streams: int | None = None
    profiling_verbosity: ProfilingVerbosity = "detailed"
    embed_plugin: bool = False
    plugin: Path | None = None
    implicit_int8: ImplicitInt8 | None = None
    sparsity: bool = False
    device: int = 0

    def check(self, version: TensorRtVersion) -> None:
        """Refuse what is out of range, contradicts itself or is not in a version of TensorRT.

        Raises:
            BuildError: In one sentence, with what to do instead.
        """
        version.require_supported()
        self._check_ranges()
        self._check_choices()
        self._check_tactic_sources(version)
        self._check_combinations()
        self._check_version(version)

    def is_strongly_typed(self, version: TensorRtVersion) -> bool:
        """Tell whether the graph alone says which types the network computes in.

        TensorRT 10 builds for DLA, and with scales of its own, only where types are its choice:
        trtexec 10.3 sets FP16 for every DLA build, which a strongly typed network refuses.
        """
        weak = self.implicit_int8 is not None or self.dla_core is not None
        return not (weak and version.has_weak_typing)

    def to_dict(self) -> dict[str, Any]:
        """Turn the options into JSON values; data that is no path is described by its type."""
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        values["profiles"] = [profile.to_dict() for profile in self.profiles]
        values["pools"] = dict(self.pools)
        for name in ("timing_cache", "plugin"):
            values[name] = None if values[name] is None else str(values[name])
        if self.tactic_sources is not None:
            values["tactic_sources"] = list(self.tactic_sources)
        if self.implicit_int8 is not None:
            wanted = self.implicit_int8
            data = wanted.data if isinstance(wanted.data, str | Path) else type(wanted.data)
            cache = None if wanted.cache is None else str(wanted.cache)
            values["implicit_int8"] = {
                spec.name: getattr(wanted, spec.name) for spec in fields(wanted)
            } | {"data": str(data), "cache": cache}
        return values

    def _check_ranges(self) -> None:
        _check_range("workspace_mib", self.workspace_mib, 1)
        _check_range("optimization_level", self.optimization_level, 0, 5)
        _check_range("max_tactics", self.max_tactics, 1)
        _check_range("avg_timing", self.avg_timing, 1)
        _check_range("max_aux_streams", self.max_aux_streams, 0)
        _check_range("dla_core", self.dla_core, 0)
        _check_range("device", self.device, 0)
        for name, mib in self.pools.items():
            if name not in POOLS:
                raise BuildError(f"there is no memory pool {name}", near_misses(name, POOLS))
            _check_pool(name, mib)

    def _check_choices(self) -> None:
        for name, choices in (
            ("hardware_compatibility", get_args(HardwareCompatibility)),
            ("profiling_verbosity", get_args(ProfilingVerbosity)),
            ("tiling", get_args(Tiling)),
        ):
            value = getattr(self, name)
            if value not in choices and not (name == "tiling" and value is None):
                raise BuildError(f"{name} is {value!r}", near_misses(str(value), choices))

    def _check_tactic_sources(self, version: TensorRtVersion) -> None:
        known = all_tactic_sources(version)
        for name in self.tactic_sources or ():
            if name in _LIBRARY_TACTICS and name not in known:
                raise BuildError(
                    f"TensorRT {version} has no tactic source {name}: 10.16 was the last that "
                    "calls cuBLAS and cuDNN",
                    f"use {' or '.join(known)}, or leave --tactic-sources out",
                )
            if name not in known:
                raise BuildError(f"there is no tactic source {name}", near_misses(name, known))

    def _check_combinations(self) -> None:
        if self.no_timing_cache and self.timing_cache is not None:
            raise BuildError("a timing cache was given, and none was wanted", "give one of the two")
        if self.exclude_lean_runtime and not self.version_compatible:
            raise BuildError(
                "only a version-compatible engine has a lean runtime that could be left out",
                "add --version-compatible, or leave --exclude-lean-runtime out",
            )
        if self.embed_plugin and not self.version_compatible:
            raise BuildError(
                "only a version-compatible engine carries a plugin library (NvInfer.h, "
                "setPluginsToSerialize)",
                "add --version-compatible, or ship the library beside the engine",
            )
        if (self.refit or self.strip_weights) and len(self.profiles) > 1:
            raise BuildError(
                f"an engine that is refitted has one optimization profile; {len(self.profiles)} "
                "were given",
                "give one profile, or build without --refit and --strip-weights",
            )
        if self.allow_gpu_fallback and self.dla_core is None:
            raise BuildError(
                "a fallback to the GPU was asked for without a DLA core", "add --dla-core 0"
            )
        dla_pools = [name for name in self.pools if name.startswith("dla_")]
        if dla_pools and self.dla_core is None:
            raise BuildError(f"the memory pool {dla_pools[0]} needs a DLA core", "add --dla-core 0")

    def _check_version(self, version: TensorRtVersion) -> None:
        if self.max_tactics is not None and not version.has_max_num_tactics:
            raise BuildError(
                f"TensorRT {version} cannot limit the tactics that it times; 10.4 can",
                "leave --max-tactics out; a lower --optimization-level shortens a build too",
            )
        if self.tiling is not None and not version.has_tiling:
            raise BuildError(
                f"TensorRT {version} has no tiling optimization; 10.8 has", "leave --tiling out"
            )
        if (
            self.hardware_compatibility == "same_compute_capability"
            and not version.has_same_compute_capability
        ):
            raise BuildError(
                f"TensorRT {version} has no hardware compatibility for GPUs of the same compute "
                "capability; 10.9 has",
                "use --hardware-compatibility ampere+, or build on the device itself",
            )
        if self.dla_core is not None and not version.has_dla:
            raise BuildError(
                f"TensorRT {version} has no DLA; 10.3 to 10.7 have, and 11.4.1 on AGX Orin",
                "build for the GPU: leave --dla-core out",
            )
        if self.implicit_int8 is not None and not version.has_calibrators:
            raise BuildError(
                f"TensorRT {version} has no INT8 calibrators: from version 11 on, INT8 is in the "
                "graph alone",
                "quantize the graph with edgeattn quantize, and leave --implicit-int8 out",
            )


def all_tactic_sources(version: TensorRtVersion) -> tuple[str, ...]:
    """Name the members that `TacticSource` has in a version."""
    return (*(_LIBRARY_TACTICS if version.has_weak_typing else ()), *_OWN_TACTICS)


def _check_range(name: str, value: int | None, least: int, most: int | None = None) -> None:
    if value is None:
        return
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        wanted = f"{least} to {most}" if most is not None else f"a whole number of at least {least}"
        flag = "--" + name.replace("_", "-")
        raise BuildError(f"{name} is {value!r}; expected {wanted}", f"change {flag}")


def _check_pool(name: str, mib: float) -> None:
    """Hold a pool to what `MemoryPoolType` asks of its size (header 10.16)."""
    size = mib * _MIB if math.isfinite(mib) else 0
    if name.startswith("dla_") and (size < 4096 or math.log2(size) % 1):
        raise BuildError(
            f"the memory pool {name} is {mib} MiB; DLA wants a power of two of at least 4 KiB",
            "use 1, 2, 4, … or 0.5, 0.25, …",
        )
    if name == "tactic_shared_memory" and size >= 1 << 30:
        raise BuildError(
            f"the memory pool {name} is {mib} MiB; expected less than 1024",
            "it is the shared memory of one SM: 48 KiB are 0.046875",
        )
    if size < 1:
        raise BuildError(f"the memory pool {name} is {mib} MiB; expected more than 0", "raise it")
