"""`run_sweep`: every case of a sweep once, a row for each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeattn.artifacts import tool_versions
from edgeattn.errors import BoardError, SpecError
from edgeattn.profiling.board.clocks import lock_clocks, restore_clocks
from edgeattn.profiling.measure import DURATION_S
from edgeattn.sweep.cases import Case, expand
from edgeattn.sweep.pareto import is_throttled
from edgeattn.sweep.process import run_task
from edgeattn.sweep.results import ROW_VERSION, Results
from edgeattn.sweep.spec import FLOAT, SweepSpec, read_spec

Progress = Callable[[int, "int | None", str], None]
Row = dict[str, Any]


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep came to.

    Attributes:
        path: The file of the rows.
        rows: Those of this sweep's cases, in the order of the cases.
        ran: How many of them this run made.
    """

    path: Path
    rows: tuple[Row, ...]
    ran: int

    @property
    def failed(self) -> list[Row]:
        """The rows of the cases that failed."""
        return [row for row in self.rows if row["status"] != "ok"]


def run_sweep(
    spec: Path | str,
    output: Path | str | None = None,
    *,
    resume: bool = False,
    retry_failed: bool = False,
    retry_throttled: bool = False,
    scheduler: str | None = None,
    timeout_s: float | None = None,
    progress: Progress | None = None,
) -> SweepOutcome:
    """Run the cases of a sweep that have no row yet.

    Args:
        spec: The sweep's TOML file.
        output: Folder of rows, graphs, engines, reports and logs; the file's name without its
            suffix by default.
        resume: Go on in a folder that has rows.
        retry_failed: Run failed cases again; their rows are replaced. Implies `resume`.
        retry_throttled: The same of cases whose clocks were held down.
        scheduler: Address of a Dask scheduler, `tcp://host:8786`, whose workers build and measure;
            by default this machine does.
        timeout_s: A part of a case that takes longer has failed.
        progress: Called with cases done, cases in all, and the case at hand.

    Returns:
        The rows. A case that fails is a row with its error, and the others go on.

    Raises:
        ArtifactError: If a file is missing, the folder is taken or not writable, or holds no rows
            of a sweep.
        BoardError: If no worker has a board that the sweep names, or clocks are to be locked here
            and cannot be.
        MissingDependencyError: If a scheduler is given and dask.distributed is not installed.
        SpecError: If the file is wrong, boards are named and no scheduler, or cases are measured
            for longer than the timeout.
    """
    read = read_spec(spec)
    cases = expand(read)
    boards = sorted({case.parameters["board"] for case in cases} - {""})
    if boards and scheduler is None:
        raise SpecError(
            f"the sweep names the board {boards[0]}, and cases run here", "give --scheduler"
        )
    if timeout_s is not None:
        _check_timeout(timeout_s, read)
    if read.measure.get("lock_clocks") and scheduler is None:
        with lock_clocks():  # what every case would be refused is refused here
            pass
    folder = Path(spec).absolute().with_suffix("") if output is None else Path(output).absolute()
    resume = resume or retry_failed or retry_throttled

    ids = {case.id for case in cases}

    def again(row: Mapping[str, Any]) -> bool:
        failed, throttled = row["status"] != "ok", is_throttled(row)
        wanted = (retry_failed and failed) or (retry_throttled and throttled)
        return wanted and row["case"] in ids  # no row would take the place of another one

    with Results(folder, resume=resume, again=again) as results:
        known = {row["case"] for row in results.rows}
        todo = [case for case in cases if case.id not in known]
        bench = Workbench(folder, read.folder, timeout_s)
        done = len(cases) - len(todo)

        def finish(row: Row) -> None:
            nonlocal done
            results.append(row)
            done += 1
            if progress is not None:
                progress(done, len(cases), row["label"])

        if scheduler is None:
            for case in todo:
                if progress is not None:
                    progress(done, len(cases), case.label)
                finish(bench.run(case))
        elif todo:
            from edgeattn.sweep.remote import run_remotely

            run_remotely(todo, bench, scheduler, finish)
        rows = {row["case"]: row for row in results.rows}
        return SweepOutcome(results.path, tuple(rows[case.id] for case in cases), len(todo))


def _check_timeout(timeout_s: float, spec: SweepSpec) -> None:
    """Refuse a time that no case can keep, and one that no clock can measure."""
    if not timeout_s < threading.TIMEOUT_MAX:
        raise SpecError(f"the timeout is {timeout_s:g} s", "leave it out for none")
    least_s = spec.measure.get("duration_s", DURATION_S)
    least_s += 60 * spec.measure.get("sustained_minutes", 0)
    if timeout_s <= least_s:
        raise SpecError(
            f"each case is measured for at least {least_s:g} s, and the timeout is {timeout_s:g} s",
            "give a longer timeout, or measure for a shorter time",
        )


@dataclass(frozen=True)
class Workbench:
    """Where cases are worked on.

    Attributes:
        folder: The sweep's folder.
        modules: Where modules that the sweep names are found.
        timeout_s: Longest time of one part of a case.
    """

    folder: Path
    modules: Path
    timeout_s: float | None = None

    def run(self, case: Case) -> Row:
        """Run a case here, in processes of its own; returns its row."""
        begin = time.monotonic()
        answer = self.prepare(case)
        if "result" in answer:
            answer = self.measure(case, answer["result"])
        return make_row(case, answer, time.monotonic() - begin)

    def prepare(self, case: Case) -> dict[str, Any]:
        """Make the graphs of a case."""
        if "graph" in case.files and case.parameters["precision"] == FLOAT:
            given = case.files["graph"]  # there is nothing to make, and a process takes a second
            return {"result": {"reference": given, "graph": given}}
        task = {"name": "prepare", "graphs_folder": str(self.folder / "graphs")}
        return self._do(case, task)

    def measure(self, case: Case, graphs: Mapping[str, str]) -> dict[str, Any]:
        """Build and time the engine of a case."""
        named = {role: case.files[role] for role in ("accuracy",) if role in case.files}
        task = {
            "name": "measure",
            "graphs": {**graphs, **named},
            "engine": str(self.engine(case)),
            "report": str(self.report(case)),
        }
        left = ""
        try:
            answer = self._do(case, task)
        finally:
            if case.parameters["measure"].get("lock_clocks"):
                left = _unlock()  # of a process that was killed; the others have done it
        if left and "error" in answer:
            answer["error"]["message"] += f"; {left}"
        return answer

    def engine(self, case: Case) -> Path:
        """Where the engine of a case is written."""
        return self.folder / "engines" / f"{case.id}.engine"

    def report(self, case: Case) -> Path:
        """Where the report of a case is written."""
        return self.folder / "reports" / f"{case.id}.profile.json"

    def _do(self, case: Case, task: Mapping[str, Any]) -> dict[str, Any]:
        log = self.folder / "logs" / f"{case.id}.log"
        values = {**task, "case": asdict(case)}
        return run_task(values, log, folder=self.modules, timeout_s=self.timeout_s)


def _unlock() -> str:
    """Restore clocks that a killed process left locked; says why if they cannot be.

    That is no reason to give the other cases up: each restores them again before it locks them.
    """
    try:
        restore_clocks()
    except BoardError as err:
        return err.message
    return ""


def make_row(case: Case, answer: Mapping[str, Any], seconds: float) -> Row:
    """Make the row of a case.

    Args:
        case: The case.
        answer: As `run_task` gives it.
        seconds: What the case took.
    """
    error = answer.get("error")
    return {
        "row_version": ROW_VERSION,
        "case": case.id,
        "label": case.label,
        "status": "failed" if error else "ok",
        "parameters": dict(case.parameters),
        "parents": dict(case.parents),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "tools": tool_versions(),
        **answer.get("result", {"figures": {}}),
        "error": error,
    }
