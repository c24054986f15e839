"""Engines measured against one that is there, side by side: as many at a time as memory holds."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.artifacts import Manifest
from edgeattn.bundle.load import load
from edgeattn.engine.base import Engine
from edgeattn.engine.tensorrt.inspector import EngineInfo
from edgeattn.errors import ArtifactError, EngineError
from edgeattn.profiling.bootstrap import ratio_interval
from edgeattn.profiling.environment import collect_environment
from edgeattn.profiling.measure import measure_interleaved
from edgeattn.profiling.modes import Mode
from edgeattn.profiling.repeated_builds import Interval
from edgeattn.profiling.stats import percentile_ms

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions

# A CPU engine's session holds the graph's bytes, its weights, and packed copies of most of them.
_CPU_COPIES = 4
# Of a plan: its weights on the GPU; while it is loaded, the file besides, in memory that may be
# the same.
_PLAN_COPIES = 2
_MEMORY_SHARE = 0.5
_PRESENT = ""


@dataclass(frozen=True)
class Measured:
    """What was measured of an engine.

    Attributes:
        latency_ms: Of its queries.
        ratio: Its median over that of the engine that is there, beside which it was measured.
        interval: Bounds of the ratio with 95 % confidence; `None` for few queries.
        info: What it tells of its layers; `None` if nothing.
    """

    latency_ms: list[float]
    ratio: float
    interval: Interval | None
    info: EngineInfo | None

    @property
    def margin(self) -> float:
        """How far from 1 the ratio may be: noise, where it is the same engine."""
        return max(abs(bound - 1) for bound in (self.ratio, *(self.interval or ())))

    def is_faster(self, margin: float) -> bool:
        """Tell whether it is surely faster, and by more than so much."""
        return self.interval is not None and self.interval[1] < 1 - margin


@dataclass(frozen=True)
class SideBySide:
    """What was measured.

    Attributes:
        present_ms: Queries of the engine that is there.
        info: What it tells of its layers; `None` if nothing.
        others: The other engines, by name.
    """

    present_ms: list[float]
    info: EngineInfo | None
    others: dict[str, Measured]


@dataclass(frozen=True)
class Bench:
    """How engines are loaded and measured.

    Attributes:
        mode: What the latency holds.
        inputs: Arrays by name.
        threads: Of CPU engines.
        tensorrt: How to load TensorRT engines.
        loop: Arguments of the timing loop.
    """

    mode: Mode
    inputs: Mapping[str, np.ndarray]
    threads: int | None
    tensorrt: TensorRtRunOptions | None
    loop: Mapping[str, Any]

    def load(self, file: Path) -> Engine:
        """Load an engine.

        Raises:
            EdgeAttnError: What `edgeattn.engine.load.load` raises.
        """
        return load(file, threads=self.threads, tensorrt=self.tensorrt)

    def measure(self, present: Path, others: Mapping[str, Path], at_once: int) -> SideBySide:
        """Measure engines, each in turns with the one that is there.

        Args:
            present: The engine that is there.
            others: Files by name.
            at_once: How many loads of an engine memory holds, at least 2.

        Raises:
            EngineError: If an engine fails.
        """
        results, names = SideBySide([], None, {}), list(others)
        for start in range(0, len(names), at_once - 1):
            group = names[start : start + at_once - 1]
            one = self._measure({_PRESENT: present} | {name: others[name] for name in group})
            present_ms = results.present_ms + one.present_ms
            results = SideBySide(present_ms, one.info, results.others | one.others)
        return results

    def _measure(self, files: Mapping[str, Path]) -> SideBySide:
        with contextlib.ExitStack() as stack:
            engines = {name: stack.enter_context(self.load(file)) for name, file in files.items()}
            queries = {name: self.mode.query(each, self.inputs) for name, each in engines.items()}
            measured = measure_interleaved(queries, **self.loop)
            infos = {name: self._info(engine) for name, engine in engines.items()}
        times = {name: self.mode.read(each).latency_ms for name, each in measured.items()}
        reference = times.pop(_PRESENT)
        median_ms = percentile_ms(reference, 50)
        return SideBySide(
            reference,
            infos[_PRESENT],
            {
                name: Measured(
                    latency_ms,
                    percentile_ms(latency_ms, 50) / median_ms,
                    ratio_interval(latency_ms, reference),
                    infos[name],
                )
                for name, latency_ms in times.items()
            },
        )

    def _info(self, engine: Engine) -> EngineInfo | None:
        """Ask an engine for its layers; `None` if it has none to tell of."""
        if engine.manifest.target != "tensorrt":
            return None
        from edgeattn.engine.tensorrt.run import TensorRtEngine

        with contextlib.suppress(ArtifactError, EngineError):  # its latency is what counts
            if isinstance(engine, TensorRtEngine):
                info = engine.inspect(self.inputs)
                return info if info.layers else None
        return None


def engines_at_once(path: Path, manifest: Manifest, contexts: int = 1) -> int:
    """Tell how many loads of an engine half of the free memory holds; at least 2.

    Args:
        path: The engine.
        manifest: Its manifest.
        contexts: Execution contexts of a TensorRT engine.
    """
    if manifest.target == "tensorrt":
        from edgeattn.engine.tensorrt.memory import read_memory

        device = manifest.options["tensorrt"].get("device", 0)
        free = read_memory(device).free_bytes
        needed = contexts * manifest.report.get("device_memory_bytes", 0)
        needed += _PLAN_COPIES * path.stat().st_size
    else:
        free = collect_environment().memory_available_bytes
        files = (path.with_name(name) for name in manifest.files)
        needed = _CPU_COPIES * sum(file.stat().st_size for file in files)
    return max(2, int(_MEMORY_SHARE * (free or 0)) // max(needed, 1))
