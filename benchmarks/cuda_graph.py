"""Times of work on a CUDA device: calls captured in one graph, timed by the device's events."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from edgeattn.engine.base import QueryTimes

_WARM_UP_CALLS = 2
_STATE = ("driver_version", "temperature.gpu", "clocks.sm", "clocks.mem", "power.draw")


class GraphQuery:
    """Calls captured in a CUDA graph; one query of the timing loop replays them all.

    A graph leaves the host out of the time, for us and for our peers alike.

    Args:
        calls: What to capture, in order. Each enqueues work on the current stream; what it
            returns is kept, so that no call writes where another one did.

    Attributes:
        calls: How many calls a query is.
    """

    def __init__(self, calls: Sequence[Callable[[], object]]) -> None:
        self.calls = len(calls)
        # Compiling and loading modules are no work to capture.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_CALLS):
                calls[0]()
        stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._kept = [call() for call in calls]
        self._start = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)

    def __call__(self) -> None:
        """Replay the calls and wait for them."""
        self._graph.replay()
        torch.cuda.synchronize()

    def timed(self) -> QueryTimes:
        """Replay the calls; the computation's time is the device's own."""
        begin = time.perf_counter_ns()
        self._start.record()
        self._graph.replay()
        self._end.record()
        enqueued = time.perf_counter_ns()
        self._end.synchronize()
        end = begin + round(self._start.elapsed_time(self._end) * 1e6)
        return QueryTimes(begin, enqueued, begin, begin, begin, end, end, end)

    def outputs(self) -> dict[str, np.ndarray]:
        """Nothing: results are checked on the device before anything is timed."""
        return {}


def describe_gpu() -> dict[str, Any]:
    """Tell what the current CUDA device is, and its state now as far as it can be asked."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    state: dict[str, str | None] = dict.fromkeys(_STATE)
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={','.join(_STATE)}", "--format=csv,noheader,nounits"]
        uuid = getattr(properties, "uuid", None)
        command += [f"--id=GPU-{uuid}"] if uuid else []
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        values = answer.stdout.strip().split(", ")
        if answer.returncode == 0 and len(values) == len(_STATE):
            state = dict(zip(_STATE, values, strict=True))
    return {
        "name": properties.name,
        "architecture": f"sm_{properties.major}{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "cuda": torch.version.cuda,
        "driver": state["driver_version"],
        "temp_c": state["temperature.gpu"],
        "sm_clock_mhz": state["clocks.sm"],
        "memory_clock_mhz": state["clocks.mem"],
        "power_w": state["power.draw"],
    }
