"""A graph on a worker: samples of a shard in, what the observers saw of them out.

Only what observers keep goes back, never an activation. It is compressed: most bins of a histogram
are empty.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgeattn.calibration.collector import Collector, Run
from edgeattn.calibration.float_graph import load_float_graph
from edgeattn.calibration.observations import Arrays, Observations
from edgeattn.cluster import package_versions
from edgeattn.errors import EdgeAttnError

# What the bits of a table depend on, besides the processor.
PACKAGES = ("edgeattn", "numpy", "onnxruntime")


@dataclass(frozen=True)
class Observed:
    """A worker's answer.

    Attributes:
        worker: Its name.
        versions: Its packages'.
        fingerprint: As `RemoteGraph.fingerprint`.
        state: `pack`ed; empty if there is an error.
        error: Why the shard's samples cannot be calibrated with.
    """

    worker: str
    versions: Mapping[str, str]
    fingerprint: str = ""
    state: bytes = b""
    error: EdgeAttnError | None = None


class _Bench(NamedTuple):
    seen: Observations
    collector: Collector


class RemoteGraph:
    """A graph that travels as its files, is opened where it arrives, and stays open there.

    A worker that runs several shards at once opens it as often.

    Args:
        files: Contents by path, relative to one folder; the graph's own first.
        method: As `Observations` takes it.
        percentile: As `Observations` takes it.
        first: What runs first, for the fingerprint.
    """

    def __init__(
        self, files: Mapping[str, bytes], method: str, percentile: float, first: Run
    ) -> None:
        self._files, self._method, self._percentile, self._first = files, method, percentile, first
        self._idle: deque[_Bench] = deque()
        self._nothing = b""  # what observers have seen at first

    def __reduce__(self) -> tuple[type[RemoteGraph], tuple[object, ...]]:
        return RemoteGraph, (self._files, self._method, self._percentile, self._first)

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + sum(map(len, self._files.values()))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what the observers see of the first run: alike where processors compute alike.

        Raises:
            GraphError: If the graph cannot be run on it.
        """
        digest = hashlib.sha256()
        for name, array in sorted(unpack(self.observe([self._first])).items()):
            digest.update(name.encode() + array.tobytes())
        return digest.hexdigest()

    def observe(self, runs: Sequence[Run]) -> bytes:
        """Run samples and tell what the observers saw of them.

        Raises:
            GraphError: If the graph cannot be opened or run on them, or a tensor takes on NaN or
                infinity.
        """
        bench = self._take()
        with contextlib.ExitStack() as after_failure:
            after_failure.push(bench.collector)
            for run in runs:
                bench.collector.observe(run.inputs, run.names)
            bench.collector.settle()
            state = pack(bench.seen.state())
            bench.seen.load_state(unpack(self._nothing))
            after_failure.pop_all()
        self._idle.append(bench)
        return state

    def close(self) -> None:
        """Give up what is open; it opens again when it is wanted."""
        self._idle.clear()

    def _take(self) -> _Bench:
        try:
            return self._idle.pop()
        except IndexError:
            return self._open()

    def _open(self) -> _Bench:
        with tempfile.TemporaryDirectory(prefix="edgeattn-") as folder:
            paths = [Path(folder, name) for name in self._files]
            for path, content in zip(paths, self._files.values(), strict=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            model = load_float_graph(paths[0])
        seen = Observations(model, self._method, self._percentile)
        self._nothing = pack(seen.state())
        return _Bench(seen, Collector(model, seen.observers, seen.channel_observers))


def observe_shard(graph: RemoteGraph, runs: Sequence[Run]) -> Observed:
    """Run a shard on a worker.

    What is wrong with samples or graph is an answer: an exception would be tried again elsewhere.
    """
    from distributed import get_worker

    worker, versions = str(get_worker().name), package_versions(PACKAGES)
    try:
        return Observed(worker, versions, graph.fingerprint, graph.observe(runs))
    except EdgeAttnError as err:
        return Observed(worker, versions, error=err)


def pack(arrays: Arrays) -> bytes:
    """Turn arrays into few bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return zlib.compress(buffer.getbuffer(), 1)


def unpack(data: bytes) -> Arrays:
    """Turn them back."""
    with np.load(io.BytesIO(zlib.decompress(data)), allow_pickle=False) as arrays:
        return dict(arrays)
