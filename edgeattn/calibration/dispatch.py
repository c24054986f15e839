"""Shards of samples to the workers of a Dask scheduler, and answers from them.

Samples and graph travel with their tasks, so that Dask can give the shard of a worker that dies to
another one without asking for anything again.
"""

from __future__ import annotations

import contextlib
import itertools
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from edgeattn.calibration.collector import Run
from edgeattn.calibration.remote_graph import PACKAGES, Observed, RemoteGraph, observe_shard
from edgeattn.cluster import (
    check_versions,
    check_workers,
    connect,
    first_answers,
    package_versions,
    workers_of,
)
from edgeattn.errors import BoardError, EdgeAttnError, first_line

if TYPE_CHECKING:
    from distributed import Future

# A shard that a worker runs, and the next one in its hands.
_SENT_PER_WORKER = 2
# How often a shard may fail for no reason that lies in it.
_RETRIES = 3
# How long to wait for a worker where there is none.
_PATIENCE_S = 60.0


_KEPT = "--state keeps what was seen until then"


class _Shard(NamedTuple):
    number: int
    runs: Sequence[Run]
    worker: str | None  # address of the one it was sent to

    def __str__(self) -> str:
        names = [name for run in self.runs for name in run.names]
        return f"{len(names)} samples, {names[0]} to {names[-1]}"


class Dispatch:
    """Shards on their way.

    Args:
        scheduler: Address of the scheduler, `tcp://host:8786`.

    Raises:
        BoardError: If there is no scheduler, no worker, or one with other versions of packages.
        MissingDependencyError: If dask.distributed is not installed.
    """

    def __init__(self, scheduler: str) -> None:
        self._scheduler = scheduler
        self._versions = package_versions(PACKAGES)
        self._graph: Future[RemoteGraph] | None = None
        self._running: dict[Future[Observed], _Shard] = {}
        self._numbers = itertools.count()
        with contextlib.ExitStack() as on_failure:
            self._client = on_failure.enter_context(connect(scheduler))
            if not self._workers():
                raise BoardError(
                    f"the scheduler {scheduler} has no worker",
                    f"start one on each machine: dask worker {scheduler} --nthreads 1",
                )
            with self._connection():
                check_workers(self._client, PACKAGES)
            on_failure.pop_all()

    def close(self) -> None:
        """Leave the cluster; what is on its way is given up."""
        self._running.clear()
        self._graph = None
        self._client.close()

    def __len__(self) -> int:
        """Count the shards that were sent and not received."""
        return len(self._running)

    def workers(self) -> int:
        """Count the workers there are now, or are to come.

        Raises:
            BoardError: If the scheduler is lost.
        """
        return max(1, len(self._workers()))

    def is_full(self) -> bool:
        """Tell whether the workers have enough in their hands.

        Raises:
            BoardError: If the scheduler is lost.
        """
        return len(self._running) >= _SENT_PER_WORKER * self.workers()

    def send(self, graph: RemoteGraph, runs: Sequence[Run]) -> None:
        """Send a shard to the worker that has the least in its hands.

        Args:
            graph: The same for each shard; it is sent with the first.
            runs: What to run, at least one.

        Raises:
            BoardError: If the scheduler is lost.
        """
        if self._graph is None:
            self._graph = self._submit(_keep, graph)
        # Dask would spare the graph its way, and leave all short shards to the first who has it.
        sent = Counter(shard.worker for shard in self._running.values())
        worker = min(self._workers(), key=lambda address: sent[address], default=None)
        future = self._submit(
            observe_shard, self._graph, runs, workers=worker, allow_other_workers=bool(worker)
        )
        self._running[future] = _Shard(next(self._numbers), runs, worker)

    def receive(self) -> list[Observed]:
        """Wait for an answer, and take those that are there.

        Raises:
            BoardError: If the scheduler or all workers are lost, a shard brings down several, or a
                worker has other versions of packages.
            EdgeAttnError: If a shard's samples cannot be calibrated with: that of the first shard.
        """
        answers = []
        for future, outcome in self._wait(self._running).items():
            shard = self._running.pop(future)
            answer = self._checked(outcome, shard)
            if answer.error:
                self._raise_first(answer.error, shard)
            answers.append(answer)
        return answers

    def _raise_first(self, error: EdgeAttnError, shard: _Shard) -> NoReturn:
        """Raise the error of a shard, or of an earlier one: whichever worker is fastest."""
        for future, earlier in self._running.items():  # in the order of their numbers
            if earlier.number < shard.number:
                answer = self._checked(self._wait([future])[future], earlier)
                if answer.error:
                    raise answer.error
        raise error

    def _workers(self) -> list[str]:
        with self._connection():
            return list(workers_of(self._client))

    def _submit(
        self, function: Callable[..., Any], *arguments: Any, **placement: Any
    ) -> Future[Any]:
        with self._connection(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")  # see above
            return self._client.submit(
                function,
                *arguments,
                key=f"edgeattn-{uuid.uuid4().hex}",  # never the result of another calibration
                retries=_RETRIES,
                pure=False,
                **placement,
            )

    def _checked(self, outcome: Observed | Exception, shard: _Shard) -> Observed:
        """Refuse what a shard raised, and an answer of a worker with other packages."""
        from distributed import CancelledError

        if isinstance(outcome, CancelledError):
            raise self._lost() from outcome
        if isinstance(outcome, Exception):  # KilledWorker, or what no sample is at fault for
            raise BoardError(
                f"no worker finished {shard}: {first_line(outcome)}",
                "look at the workers' logs; scheduler and workers need 'edgeattn[sweep]', and "
                "memory for the graph",
            ) from outcome
        check_versions(outcome.worker, outcome.versions, self._versions)
        return outcome

    def _wait(self, futures: Collection[Future[Observed]]) -> dict[Future[Observed], Any]:
        """Wait for the first answers to some shards, as long as there are workers."""
        with self._connection():
            answers = first_answers(
                self._client, futures, lambda: bool(workers_of(self._client)), _PATIENCE_S
            )
        if not answers:
            raise BoardError(
                f"the scheduler {self._scheduler} has had no worker for {_PATIENCE_S:g} s",
                f"start workers and calibrate again; {_KEPT}",
            )
        return answers

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
            f"look at its log and calibrate again; {_KEPT}",
        )


def _keep(graph: RemoteGraph) -> RemoteGraph:
    """Be the task whose result is the graph: Dask brings it to each worker and keeps it there."""
    return graph
