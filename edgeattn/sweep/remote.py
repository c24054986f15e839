"""The cases of a sweep on the workers of a Dask scheduler: a lab of boards as one machine.

Graphs are made here, where torch and the data are; a board gets the graph's bytes, builds,
measures, and sends the row's figures and the report back. Dask assigns the cases, by resources
named after the boards, and assigns them anew when a worker dies. Only this side writes rows.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.artifacts import manifest_path, read_json, write_json
from edgeattn.cluster import check_workers, connect, first_answers, workers_of
from edgeattn.errors import BoardError, first_line
from edgeattn.graph.files import graph_files
from edgeattn.sweep.cases import Case
from edgeattn.sweep.run import Row, Workbench, make_row

if TYPE_CHECKING:
    from distributed import Client, Future

# A case on the bench of a worker, and the next one in its hands.
_CASES_PER_WORKER = 2
# How often a case runs again whose worker could not keep its files, as on a disk that is full. How
# many workers it may bring down is the scheduler's setting: `allowed-failures`.
_RETRIES = 3
# How long to wait where no case that was sent has a worker: a board starts again in less.
_PATIENCE_S = 600.0
_GO_ON = "go on with --resume; cases that have ended have their rows"

log = logging.getLogger(__name__)


def run_remotely(
    cases: Sequence[Case], bench: Workbench, scheduler: str, finish: Callable[[Row], None]
) -> None:
    """Run cases on workers.

    Args:
        cases: The cases.
        bench: Where graphs and reports are kept on this side.
        scheduler: Address of the scheduler, `tcp://host:8786`.
        finish: Called with the row of each case, in the order in which they end.

    Raises:
        BoardError: If there is no scheduler or it is lost on the way, no worker for a case now or
            for ten minutes, a worker that would measure two cases at once, or one with another
            edgeattn.
        MissingDependencyError: If dask.distributed is not installed.
    """
    with connect(scheduler) as client:
        check_workers(client, ("edgeattn",))
        boards = {case.parameters["board"] for case in cases}
        dispatch = _Dispatch(client, bench, finish, _workers(client, boards))
        try:
            dispatch.run(cases)
        except (CancelledError, ConnectionError) as err:
            raise BoardError(
                f"the Dask scheduler at {scheduler} was lost: {first_line(err)}",
                f"start it again, and {_GO_ON}",
            ) from err


class _Dispatch:
    """Keeps each board's workers busy, without sending out graphs long before they are wanted."""

    def __init__(
        self,
        client: Client,
        bench: Workbench,
        finish: Callable[[Row], None],
        workers: Mapping[str, int],
    ) -> None:
        self._client, self._bench, self._finish = client, bench, finish
        self._limits = {board: _CASES_PER_WORKER * count for board, count in workers.items()}
        self._running: dict[Future[Any], tuple[Case, float]] = {}
        self._told = False  # that there is no worker now

    def run(self, cases: Sequence[Case]) -> None:
        """Run the cases to their ends."""
        waiting = list(cases)
        while waiting or self._running:
            busy = Counter(case.parameters["board"] for case, _ in self._running.values())
            free = [c for c in waiting if busy[c.parameters["board"]] < self._limits[_board(c)]]
            if free:
                waiting.remove(free[0])
                self._send(free[0])
                continue
            answers = first_answers(self._client, self._running, self._has_worker, _PATIENCE_S)
            if not answers:
                raise BoardError(
                    f"no worker has offered {self._wanted()} for {_PATIENCE_S:g} s",
                    f"start one again; {_GO_ON}",
                )
            for future, answer in answers.items():
                self._receive(future, answer)

    def _has_worker(self) -> bool:
        """Tell whether a worker is there for a case that was sent; say so once if none is."""
        boards = {_board(case) for case, _ in self._running.values()}
        there = workers_of(self._client).values()
        found = any(_serves(worker, board) for worker in there for board in boards)
        if not found and not self._told:
            log.warning("no worker offers %s now; waiting for one", self._wanted())
        self._told = not found
        return found

    def _wanted(self) -> str:
        """Name what the cases that were sent need a worker to have."""
        boards = {_board(case) for case, _ in self._running.values()}
        return " or ".join(sorted(board or "anything" for board in boards))

    def _send(self, case: Case) -> None:
        begin = time.monotonic()
        answer = self._bench.prepare(case)
        seconds = time.monotonic() - begin
        if "error" in answer:
            self._finish(make_row(case, answer, seconds))
            return
        graphs = answer["result"] | {r: case.files[r] for r in ("accuracy",) if r in case.files}
        future = self._client.submit(
            measure_remotely,
            asdict(case),
            {role: parcel(Path(path)) for role, path in graphs.items() if role != "table"},
            self._bench.timeout_s,
            key=f"edgeattn-{case.id}-{time.time_ns()}",  # never the result of an earlier sweep
            resources={_board(case): 1} if _board(case) else None,
            retries=_RETRIES,
            pure=False,
        )
        self._running[future] = (case, seconds)

    def _receive(self, future: Future[Any], answer: dict[str, Any] | Exception) -> None:
        case, seconds = self._running.pop(future)
        if isinstance(answer, CancelledError):  # by a scheduler that is gone: no row, to run again
            raise answer
        if isinstance(answer, Exception):  # whatever becomes of a worker: KilledWorker, a lost link
            answer = {
                "error": {
                    "kind": type(answer).__name__,
                    "message": f"no worker finished the case: {first_line(answer)}",
                    "hint": "look at the workers' logs",
                    "step": "measure",
                }
            }
        if report := answer.pop("report", None):
            path = self._bench.report(case)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, report)
        # Not by the clock of this side: the case has waited for its worker.
        self._finish(make_row(case, answer, seconds + answer.pop("seconds", 0.0)))


def measure_remotely(
    case: Mapping[str, Any],
    parcels: Mapping[str, Mapping[str, bytes]],
    timeout_s: float | None,
) -> dict[str, Any]:
    """Build and measure a case on a worker, in a process of its own.

    Args:
        case: The fields of the case.
        parcels: Files by role; each role's first is the one named, the others belong beside it.
        timeout_s: Kill the process after this time.

    Returns:
        As `run_task`, and the `seconds` that it took; the result also names the `worker`, and under
        `report` stands the report.
    """
    from distributed import get_worker

    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgeattn-sweep-") as name:
        bench = Workbench(Path(name), Path(name), timeout_s)
        graphs = {}
        for role, packed in parcels.items():
            graphs[role] = str(unpack(packed, Path(name) / role))
        answer = bench.measure(Case(**{**case, "files": {}}), graphs)
        report = bench.report(Case(**case))
        if "result" in answer:
            answer["result"]["worker"] = str(get_worker().name)
            answer["report"] = read_json(report, "a latency report")
    return answer | {"seconds": time.monotonic() - begin}


def parcel(path: Path) -> dict[str, bytes]:
    """Read a file to send; with a graph go its weights and its manifest.

    Args:
        path: The file.

    Returns:
        Contents by name, as seen from the folder of the file, which is the first one.
    """
    files = [path]
    if path.suffix == ".onnx":
        files = graph_files(path)
        files += [file for file in (manifest_path(path),) if file.exists()]
    return {file.relative_to(path.parent).as_posix(): file.read_bytes() for file in files}


def unpack(packed: Mapping[str, bytes], folder: Path) -> Path:
    """Write the files of a parcel.

    Args:
        packed: As `parcel` gives it.
        folder: Made if it is not there.

    Returns:
        The file that was sent.
    """
    for name, data in packed.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder / next(iter(packed))


def _board(case: Case) -> str:
    board: str = case.parameters["board"]
    return board


def _serves(worker: Mapping[str, Any], board: str) -> bool:
    """Tell whether a worker takes a board's cases; those of the nameless board every worker."""
    return not board or bool(worker["resources"].get(board))


def _workers(client: Client, boards: set[str]) -> dict[str, int]:
    """Count the workers of each board; the nameless board is any worker.

    Raises:
        BoardError: If a board has none, or one runs several tasks at once.
    """
    workers = workers_of(client)
    counts = {}
    for board in boards:
        mine = {a: w for a, w in workers.items() if _serves(w, board)}
        if not mine:
            what = f"offers the resource {board}" if board else "is there"
            tag = f" --resources {board}=1" if board else ""
            raise BoardError(
                f"no worker {what}", f"start one: dask worker ADDRESS --nthreads 1{tag}"
            )
        if crowded := [address for address, w in mine.items() if w["nthreads"] != 1]:
            raise BoardError(
                f"the worker {crowded[0]} would measure {mine[crowded[0]]['nthreads']} cases at "
                "once",
                "start it with --nthreads 1",
            )
        counts[board] = len(mine)
    return counts
