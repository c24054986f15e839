"""What a latency holds: the ways to measure that people compare with one another.

trtexec 10 copies inputs and outputs and launches layer by layer; trtexec 11 does neither by
default; a Python caller waits for more than both. The same engine has a different latency in each,
so that every report names its mode.

References:
    NVIDIA/TensorRT, samples/common/sampleOptions.cpp and sampleInference.cpp, releases 10.16 and
    11.0: defaults of transfers, CUDA graph and spin-wait; without transfers the copies are empty
    intervals at the ends of the computation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.engine.base import Engine
from edgeattn.errors import EngineError, SpecError
from edgeattn.profiling.measure import Query
from edgeattn.profiling.measurement import Measurement
from edgeattn.profiling.stats import PercentileRule

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions


@dataclass(frozen=True)
class Mode:
    """A way to measure.

    Attributes:
        name: What it is called.
        meaning: What the latency holds, for the report.
        percentiles: Whose percentiles go with it.
        counts_copies: Whether the latency holds the copies that an engine makes.
        whole_call: Whether `Engine.run` is timed from outside, with all that a caller waits for.
        cuda_graph: Whether a TensorRT engine has to launch CUDA graphs; `None`: as it does.
        zero_copy: Whether the GPU has to work in the host's memory; `None`: as it does.
    """

    name: str
    meaning: str
    percentiles: PercentileRule = "nearest-rank"
    counts_copies: bool = True
    whole_call: bool = False
    cuda_graph: bool | None = None
    zero_copy: bool | None = None

    @property
    def sentence(self) -> str:
        """Name and meaning, as reports tell them."""
        return f"{self.name}: {self.meaning}"

    def load_options(self, options: TensorRtRunOptions | None) -> TensorRtRunOptions | None:
        """Change how a TensorRT engine is loaded to what this mode measures."""
        fixed: dict[str, Any] = {"cuda_graph": self.cuda_graph, "zero_copy": self.zero_copy}
        changes = {name: value for name, value in fixed.items() if value is not None}
        if not changes:
            return options
        from edgeattn.engine.tensorrt.load import TensorRtRunOptions

        return replace(options or TensorRtRunOptions(), **changes)

    def check(self, engine: Engine) -> None:
        """Refuse an engine that was loaded for something else.

        Raises:
            EngineError: If a query of it does what this mode must not measure.
        """
        for name in ("cuda_graph", "zero_copy"):
            wanted, found = getattr(self, name), engine.settings.get(name)
            # An engine that cannot record a graph runs without, in trtexec too.
            fell_back = name == "cuda_graph" and "cuda_graph_fallback" in engine.settings
            if None not in (wanted, found) and wanted != found and not fell_back:
                raise EngineError(
                    f"the engine is loaded with {name}={found}, and the mode {self.name} measures "
                    f"with {name}={wanted}",
                    f"load it with TensorRtRunOptions({name}={wanted}), or choose another mode",
                )

    def query(self, engine: Engine, inputs: Mapping[str, np.ndarray]) -> Query:
        """Make the query to time."""
        if not self.whole_call:
            return engine.bind(inputs)

        def call() -> None:
            engine.run(inputs)

        return call

    def read(self, measurement: Measurement) -> Measurement:
        """Give a measurement as this mode counts it."""
        return measurement if self.counts_copies else measurement.without_copies()


HOST = Mode("host", "inputs and outputs in place, no copies")
DEVICE = Mode("device", "host-to-device copy, compute and device-to-host copy")
_TRTEXEC_10 = Mode(
    "trtexec-10",
    "what trtexec 10 measures by default: copies in and out counted, no CUDA graph, its "
    "percentiles; it overlaps the copies of one query with the next one, and its throughput is "
    "higher",
    percentiles="trtexec",
    cuda_graph=False,
    zero_copy=False,
)
_TRTEXEC_11 = Mode(
    "trtexec-11",
    "what trtexec 11 measures by default: CUDA graph, no copies in the latency, its percentiles; "
    "the copies are made all the same and lower the throughput",
    percentiles="trtexec",
    counts_copies=False,
    cuda_graph=True,
    zero_copy=False,
)
_APPLICATION = Mode(
    "application",
    "what a Python caller waits for: Engine.run from arrays to arrays, checks, copies and waits "
    "included",
    whole_call=True,
)

MODES = {mode.name: mode for mode in (HOST, DEVICE, _TRTEXEC_10, _TRTEXEC_11, _APPLICATION)}


def has_device(target: str) -> bool:
    """Tell whether queries of an engine for this target run on a device of their own."""
    return target not in ("", "cpu")


def choose_mode(name: str | None, target: str) -> Mode:
    """Find a mode by its name.

    Args:
        name: One of `MODES`; `None` for the plain one of the engine.
        target: What the engine runs on.

    Raises:
        SpecError: If there is no such mode, or it is of the other kind of engine.
    """
    plain, other = (DEVICE, HOST) if has_device(target) else (HOST, DEVICE)
    if name is None:
        return plain
    if name not in MODES:
        raise SpecError(f"there is no mode {name}; expected one of {', '.join(MODES)}")
    if name == other.name:
        raise SpecError(
            f"the mode {name} is not for engines that run on {target or 'cpu'}",
            f"leave it out, or choose {plain.name}",
        )
    return MODES[name]
