"""Times of the nodes that the CPU engine runs, as ONNX Runtime's profiler notes them.

The profiled session is one of its own, with the engine's options, so that the engine's own is left
undisturbed. It also writes down the graph that ONNX Runtime made of the engine's: nodes fused,
renamed and laid out anew, with the tensors between them.

References:
    onnxruntime 1.20 to 1.32: core/framework/sequential_executor.cc (`_kernel_time` events around
    each node's Compute), core/common/profiler.cc (whole microseconds, rounded down; at most a
    million events).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from edgeattn.engine.base import QueryTimes
from edgeattn.engine.cpu_session import open_session, runtime_errors
from edgeattn.errors import EngineError
from edgeattn.graph.names import name_nodes

if TYPE_CHECKING:
    import onnxruntime as ort

_SUFFIX = "_kernel_time"
# Nodes whose bodies hold nodes, which report their times too.
_CONTAINERS = ("If", "Loop", "Scan")
_DTYPES = {"float": "float32", "double": "float64"}


@dataclass(frozen=True)
class NodeTimes:
    """The times of one node of a session.

    Attributes:
        name: As ONNX Runtime calls it.
        op_type: Its operator; ONNX Runtime has some of its own, as `FusedMatMul`.
        dtype: numpy's name of the type of its first input; empty if it has none.
        times_ms: One for each run.
    """

    name: str
    op_type: str
    dtype: str
    times_ms: tuple[float, ...]


@dataclass(frozen=True)
class SessionProfile:
    """What the profiler of a session noted.

    Attributes:
        nodes: In the order in which they run.
        optimized: The graph that they are of, without its larger weights.
    """

    nodes: tuple[NodeTimes, ...]
    optimized: onnx.ModelProto


class ProfiledQuery:
    """A query with its inputs fixed whose nodes are timed. A `BoundQuery` and a `TimedQuery`.

    Args:
        data: The graph of an engine.
        options: Options of the engine's session; changed.
        weights_folder: Where its external weights lie, if it has any.
        inputs: Arrays by name, checked.

    Raises:
        EngineError: If ONNX Runtime refuses the graph, or fails.
    """

    def __init__(
        self,
        data: bytes,
        options: ort.SessionOptions,
        weights_folder: Path | None,
        inputs: Mapping[str, np.ndarray],
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edgeattn-")
        self._starts_ns: list[int] = []
        folder = Path(self._folder.name)
        self._graph = folder / "optimized.onnx"
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        options.optimized_model_filepath = str(self._graph)
        for key, value in {
            # Weights beside the graph: it is read again without them.
            "external_initializers_file_name": "weights.data",
            "external_initializers_min_size_in_bytes": "1024",
        }.items():
            options.add_session_config_entry(f"session.optimized_model_{key}", value)
        try:
            self._session: Any = open_session(_with_names(data), options, weights_folder)
            # ONNX Runtime keeps addresses only: the arrays must live as long as the binding.
            self._inputs = dict(inputs)
            self._binding = self._bind()
        except BaseException:
            self._folder.cleanup()
            raise

    def _bind(self) -> Any:
        """Fix inputs and outputs in place, as a bound query of the engine does."""
        names = [output.name for output in self._session.get_outputs()]
        with runtime_errors("the engine failed"):
            arrays = self._session.run(names, self._inputs)
        self._starts_ns.append(0)
        self._outputs = {n: np.ascontiguousarray(a) for n, a in zip(names, arrays, strict=True)}
        binding = self._session.io_binding()
        for bind, tensors in (
            (binding.bind_input, self._inputs),
            (binding.bind_output, self._outputs),
        ):
            for name, array in tensors.items():
                bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return binding

    def __call__(self) -> None:
        """Run the query."""
        self.timed()

    def timed(self) -> QueryTimes:
        """Run the query and say when; the starts tell runs apart in `finish`."""
        start = time.perf_counter_ns()
        self._session.run_with_iobinding(self._binding)
        end = time.perf_counter_ns()
        self._starts_ns.append(start)
        return QueryTimes(start, end, start, start, start, end, end, end)

    def outputs(self) -> dict[str, np.ndarray]:
        """Give the output buffers; the next run overwrites them."""
        return self._outputs

    def finish(self, runs: Sequence[QueryTimes]) -> SessionProfile:
        """End the profile and read it. The query is of no other use from now on.

        Args:
            runs: The runs that count, as `timed` gave them.

        Raises:
            EngineError: If the profile is not whole.
        """
        try:
            with runtime_errors("ONNX Runtime wrote no profile"):
                file = self._session.end_profiling()
            events = json.loads(Path(file).read_text(encoding="utf-8"))
            optimized = onnx.load(str(self._graph), load_external_data=False)
        finally:
            self.close()
        noted = _runs(events)
        if len(noted) != len(self._starts_ns):
            raise EngineError(
                f"ONNX Runtime's profile holds {len(noted)} runs of {len(self._starts_ns)}",
                "profile fewer iterations",
            )
        wanted = {times.start_compute_ns for times in runs}
        chosen = [run for start, run in zip(self._starts_ns, noted, strict=True) if start in wanted]
        return SessionProfile(_node_times(chosen), optimized)

    def close(self) -> None:
        """Free the session and its files. Closing twice is harmless."""
        self._session = self._binding = None
        self._folder.cleanup()


def _with_names(data: bytes) -> bytes:
    """Name the nodes of a graph as reports call them, where they have no names of their own."""
    model = onnx.load_from_string(data)
    if all(node.name for node in model.graph.node):
        return data
    name_nodes(model.graph)
    return bytes(model.SerializeToString())


def _runs(events: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Sort the events of nodes by run, without those of the bodies of control flow."""
    starts = sorted(e["ts"] for e in events if e["name"] == "model_run")
    runs: list[list[Mapping[str, Any]]] = [[] for _ in starts]
    nodes = (e for e in events if e.get("cat") == "Node" and e["name"].endswith(_SUFFIX))
    index, inside = 0, -1  # of the run at hand, and where the container at hand ends
    # What holds others began no later than they did, and ended last.
    for event in sorted(nodes, key=lambda e: (e["ts"], -e["dur"])):
        while index + 1 < len(starts) and event["ts"] >= starts[index + 1]:
            index, inside = index + 1, -1
        if event["ts"] < inside:
            continue
        if event["args"]["op_name"] in _CONTAINERS:
            inside = event["ts"] + event["dur"]
        runs[index].append(event)
    return runs


def _node_times(runs: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[NodeTimes, ...]:
    """Gather what each node took in each run."""
    times: dict[str, list[float]] = {}
    first: dict[str, Mapping[str, Any]] = {}
    for number, run in enumerate(runs):
        for event in run:
            name = event["name"].removesuffix(_SUFFIX)
            first.setdefault(name, event["args"])
            times.setdefault(name, [0.0] * len(runs))[number] += event["dur"] / 1e3
    return tuple(
        NodeTimes(name, args["op_name"], _dtype(args), tuple(times[name]))
        for name, args in first.items()
    )


def _dtype(args: Mapping[str, Any]) -> str:
    """Read the type of a node's first input: `[{"float": [1, 56, 56, 96]}, …]`."""
    shapes: list[dict[str, list[int]]] = args.get("input_type_shape") or [{}]
    word = next(iter(shapes[0]), "")
    return _DTYPES.get(word, word)
