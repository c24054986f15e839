"""Calibration on the workers of a Dask scheduler.

This side reads the data and sends decoded samples out in shards; whatever reads, hashes, skips and
keeps samples is the same as without workers. A worker gets the graph once, needs no file of ours,
and answers with what its observers saw, which is merged here in whatever order it comes: that
changes no bit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import onnx

from edgeattn.calibration.collector import Run, run_one_by_one, split_into_runs
from edgeattn.calibration.data import Batches
from edgeattn.calibration.dispatch import Dispatch
from edgeattn.calibration.observations import Observations
from edgeattn.calibration.recipe import CalibrationOptions
from edgeattn.calibration.remote_graph import Observed, RemoteGraph, unpack
from edgeattn.calibration.sources import Array
from edgeattn.errors import SpecError
from edgeattn.graph.files import graph_files, input_specs

Progress = Callable[[int, "int | None", str], None]

_log = logging.getLogger(__name__)

# By default: so many that a slow worker takes fewer of them, and that a lost one costs little; no
# more than the scheduler, which holds what is on its way, has room for.
_SHARDS_PER_WORKER = 4
_MOST_BYTES = 32 << 20
_RUNS_OF_STREAM = 64


class RemoteCollector:
    """Shows samples to observers on workers, as `Collector` does to those that are here.

    Args:
        graph: The ONNX file.
        model: The same, read; not kept.
        seen: What the workers see is merged into this.
        options: Of the calibration.
        batches: The samples, which are to be given to `observe`.
        scheduler: Address of the scheduler, `tcp://host:8786`.
        shards: How many to divide the samples into.
        progress: Called with shards done, shards sent and a word while nothing else is left to do.

    Raises:
        BoardError: If there is no scheduler, no worker, or one with other versions of packages.
        MissingDependencyError: If dask.distributed is not installed.
        SpecError: If a number of shards is given and the number of samples is not known.
    """

    def __init__(
        self,
        graph: Path,
        model: onnx.ModelProto,
        seen: Observations,
        options: CalibrationOptions,
        batches: Batches,
        scheduler: str,
        *,
        shards: int | None,
        progress: Progress | None,
    ) -> None:
        if shards is not None and batches.total is None:
            raise SpecError(
                f"{shards} shards are asked for, and {batches.label} does not tell how many "
                "samples there are",
                "say how many to use (--samples), or leave the shards to be chosen",
            )
        self._file = graph
        self._options = options
        self._one_by_one = run_one_by_one(input_specs(model))
        self._seen = seen
        self._part = Observations(model, options.method, options.percentile)
        self._progress = progress
        self._graph: RemoteGraph | None = None  # made with the first samples
        self._fingerprint = ""
        self._unlike: set[str] = set()
        self._merged = 0
        self._dispatch = Dispatch(scheduler)
        self._most_runs, self._most_bytes = self._limits(batches, shards)
        self._begin_shard()

    def __enter__(self) -> RemoteCollector:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._dispatch.close()

    def samples_per_run(self, batch_size: int) -> int:
        """Tell how many samples run at once where so many are read at a time."""
        return 1 if self._one_by_one else batch_size

    def observe(self, batch: Mapping[str, Array], names: Sequence[str]) -> None:
        """Have some samples run; they are on their way or wait to be sent on return.

        Args:
            batch: Inputs by name, samples along axis 0.
            names: What messages call each sample.

        Raises:
            BoardError: If the workers or the scheduler are lost.
            GraphError: If the graph does not run, or a tensor takes on NaN or infinity, on earlier
                samples; it names the first such sample of the first such shard.
        """
        for run in split_into_runs(batch, names, self.samples_per_run(len(names))):
            self._runs.append(run)
            self._bytes += sum(array.nbytes for array in run.inputs.values())
            if len(self._runs) >= self._most_runs or self._bytes >= self._most_bytes:
                self._send()

    def settle(self) -> None:
        """Wait until what the workers see of every sample is merged.

        Raises:
            BoardError: As `observe`.
            GraphError: As `observe`.
        """
        if self._runs:
            self._send()
        while len(self._dispatch):
            if self._progress:
                self._progress(self._merged, self._merged + len(self._dispatch), "shards")
            self._receive()

    def _limits(self, batches: Batches, shards: int | None) -> tuple[int, float]:
        """Most runs of a shard, and most bytes."""
        if batches.total is None:
            return _RUNS_OF_STREAM, _MOST_BYTES
        runs = -(-batches.total // self.samples_per_run(batches.batch_size))
        count = shards or _SHARDS_PER_WORKER * self._dispatch.workers()
        return -(-runs // count), math.inf if shards else _MOST_BYTES

    def _begin_shard(self) -> None:
        self._runs: list[Run] = []
        self._bytes = 0

    def _send(self) -> None:
        while self._dispatch.is_full():
            self._receive()
        if self._graph is None:
            self._graph = self._remote_graph(self._runs[0])
        self._dispatch.send(self._graph, self._runs)
        self._begin_shard()

    def _remote_graph(self, first: Run) -> RemoteGraph:
        files = {
            file.relative_to(self._file.parent).as_posix(): file.read_bytes()
            for file in graph_files(self._file)
        }
        return RemoteGraph(files, self._options.method, self._options.percentile, first)

    def _receive(self) -> None:
        for answer in self._dispatch.receive():
            self._compare(answer)
            self._part.load_state(unpack(answer.state))
            self._seen.merge(self._part)
            self._merged += 1

    def _compare(self, answer: Observed) -> None:
        """Warn of a worker on which the first samples gave something else than here."""
        if not self._fingerprint:  # not before there is an answer: the workers compute meanwhile
            assert self._graph is not None
            self._fingerprint = self._graph.fingerprint
            self._graph.close()
        if answer.fingerprint != self._fingerprint and answer.worker not in self._unlike:
            self._unlike.add(answer.worker)
            _log.warning(
                "the worker %s computes other last bits than this machine: the table may differ "
                "in its last digits from one that is made here",
                answer.worker,
            )
