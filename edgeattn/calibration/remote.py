"""Calibration on the workers of a Dask scheduler.

This side reads the data and sends decoded samples out in shards; whatever reads, hashes, skips and
keeps samples is the same as without workers. A worker gets the graph once, needs no file of ours,
and answers with what its observers saw, which is merged here in whatever order it comes: that
changes no bit. Dask sends the shard of a worker that dies to another one.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import onnx

from edgeattn.calibration.collector import Run, run_one_by_one, split_into_runs
from edgeattn.calibration.data import Batches
from edgeattn.calibration.observations import Observations
from edgeattn.calibration.recipe import CalibrationOptions
from edgeattn.calibration.remote_graph import (
    PACKAGES,
    Observed,
    RemoteGraph,
    observe_shard,
    unpack,
)
from edgeattn.calibration.sources import Array
from edgeattn.cluster import check_versions, check_workers, connect, package_versions, workers_of
from edgeattn.errors import BoardError, SpecError, first_line
from edgeattn.graph.files import graph_files, input_specs

if TYPE_CHECKING:
    from distributed import Future

Progress = Callable[[int, "int | None", str], None]

_log = logging.getLogger(__name__)

# By default: so many that a slow worker takes fewer of them, and that a lost one costs little; no
# more than the scheduler, which holds what is on its way, has room for.
_SHARDS_PER_WORKER = 4
_MOST_BYTES = 32 << 20
_RUNS_OF_STREAM = 64
# One that a worker runs, and the next one in its hands.
_SENT_PER_WORKER = 2
# How often a shard may fail for no reason that lies in it.
_RETRIES = 3
# How often to look for workers while none answers, and how long to wait for one.
_LOOK_S = 5.0
_PATIENCE_S = 60.0


@dataclass
class _Shard:
    number: int
    runs: list[Run] = field(default_factory=list)
    bytes: int = 0

    def add(self, run: Run) -> None:
        self.runs.append(run)
        self.bytes += sum(array.nbytes for array in run.inputs.values())

    def __str__(self) -> str:
        names = [name for run in self.runs for name in run.names]
        return f"{len(names)} samples, {names[0]} to {names[-1]}"


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
        self._scheduler = scheduler
        self._versions = package_versions(PACKAGES)
        self._graph: Future[RemoteGraph] | None = None  # sent with the first samples
        self._here: RemoteGraph | None = None
        self._fingerprint = ""
        self._unlike: set[str] = set()
        self._numbers = itertools.count()
        self._filling = _Shard(next(self._numbers))
        self._running: dict[Future[Observed], _Shard] = {}
        self._merged = 0
        self._client = connect(scheduler)
        try:
            self._check_workers()
            self._most_runs, self._most_bytes = self._limits(batches, shards)
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> RemoteCollector:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running.clear()
        self._graph = None
        self._client.close()

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
            self._filling.add(run)
            runs, size = len(self._filling.runs), self._filling.bytes
            if runs >= self._most_runs or size >= self._most_bytes:
                self._send()

    def settle(self) -> None:
        """Wait until what the workers see of every sample is merged.

        Raises:
            BoardError: As `observe`.
            GraphError: As `observe`.
        """
        if self._filling.runs:
            self._send()
        while self._running:
            if self._progress:
                self._progress(self._merged, self._merged + len(self._running), "shards")
            self._receive(self._wait(self._running))

    def _check_workers(self) -> None:
        if not workers_of(self._client):
            raise BoardError(
                f"the scheduler {self._scheduler} has no worker",
                f"start one on each machine: dask worker {self._scheduler} --nthreads 1",
            )
        check_workers(self._client, PACKAGES)

    def _limits(self, batches: Batches, shards: int | None) -> tuple[int, float]:
        """Most runs of a shard, and most bytes."""
        if batches.total is None:
            return _RUNS_OF_STREAM, _MOST_BYTES
        runs = -(-batches.total // self.samples_per_run(batches.batch_size))
        count = shards or _SHARDS_PER_WORKER * len(workers_of(self._client))
        return -(-runs // count), math.inf if shards else _MOST_BYTES

    def _send(self) -> None:
        shard, self._filling = self._filling, _Shard(next(self._numbers))
        with self._connection():
            most = _SENT_PER_WORKER * max(1, len(workers_of(self._client)))
        while len(self._running) >= most:
            self._receive(self._wait(self._running))
        if self._graph is None:
            self._graph = self._send_graph(shard.runs[0])
        self._running[self._submit(observe_shard, self._graph, shard.runs)] = shard

    def _send_graph(self, first: Run) -> Future[RemoteGraph]:
        files = {
            file.relative_to(self._file.parent).as_posix(): file.read_bytes()
            for file in graph_files(self._file)
        }
        arguments = (files, self._options.method, self._options.percentile, first)
        self._here = RemoteGraph(*arguments)
        return self._submit(RemoteGraph, *arguments)

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        with self._connection(), warnings.catch_warnings():
            # Samples are to travel with their task: whatever becomes of a worker, they are there.
            warnings.filterwarnings("ignore", "Sending large graph")
            return self._client.submit(
                function,
                *arguments,
                key=f"edgeattn-{function.__name__}-{time.time_ns()}",
                retries=_RETRIES,
                pure=False,
            )

    def _receive(self, futures: Collection[Future[Observed]]) -> None:
        for future in futures:
            if future in self._running:
                self._merge(future, self._running.pop(future))

    def _merge(self, future: Future[Observed], shard: _Shard) -> None:
        observed = self._result(future, shard)
        if observed.error:
            # Of several samples at fault the first one is named, whichever worker is fastest.
            for earlier in sorted(self._running, key=lambda f: self._running[f].number):
                if self._running[earlier].number < shard.number:
                    self._wait([earlier])
                    self._merge(earlier, self._running.pop(earlier))
            raise observed.error
        check_versions(observed.worker, observed.versions, self._versions)
        if self._here is not None:  # not before: the workers compute meanwhile
            self._fingerprint, self._here = self._here.fingerprint, None
        if observed.fingerprint != self._fingerprint and observed.worker not in self._unlike:
            self._unlike.add(observed.worker)
            _log.warning(
                "the worker %s computes other last bits than this machine: the table may differ "
                "in its last digits from one that is made here",
                observed.worker,
            )
        self._part.load_state(unpack(observed.state))
        self._seen.merge(self._part)
        self._merged += 1

    def _result(self, future: Future[Observed], shard: _Shard) -> Observed:
        from distributed import CancelledError

        try:
            result: Observed = future.result()
        except CancelledError:
            raise self._lost() from None
        except Exception as err:  # KilledWorker, or what no sample is at fault for
            raise BoardError(
                f"no worker finished {shard}: {first_line(err)}",
                "look at the workers' logs; scheduler and workers need 'edgeattn[sweep]', and "
                "memory for the graph",
            ) from err
        return result

    def _wait(self, futures: Collection[Future[Observed]]) -> Collection[Future[Observed]]:
        """Wait for the first of some shards, as long as there are workers."""
        from distributed import TimeoutError as DaskTimeoutError
        from distributed import wait

        alone_since_s = None
        while True:
            with self._connection():
                try:
                    with self._client.as_current():
                        done = wait(list(futures), timeout=_LOOK_S, return_when="FIRST_COMPLETED")
                    return list(done.done)
                except DaskTimeoutError:
                    if workers_of(self._client):
                        alone_since_s = None
                        continue
            alone_since_s = alone_since_s or time.monotonic()
            if time.monotonic() - alone_since_s > _PATIENCE_S:
                raise BoardError(
                    f"the scheduler {self._scheduler} has had no worker for {_PATIENCE_S:g} s",
                    "start workers and calibrate again; --state keeps what was seen until then",
                )

    @contextlib.contextmanager
    def _connection(self) -> Iterator[None]:
        from distributed import CancelledError

        try:
            yield
        except (CancelledError, OSError) as err:
            raise self._lost() from err

    def _lost(self) -> BoardError:
        return BoardError(
            f"the connection to the scheduler {self._scheduler} was lost",
            "look at its log and calibrate again; --state keeps what was seen until then",
        )
