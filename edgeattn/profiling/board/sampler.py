"""Watch the board while something runs, from a process of its own.

    with BoardSampler() as sampler:
        measurement = measure(query)
    trace = sampler.stop()

Nothing of it runs in the measured process between `start` and `stop`: the samples go to a file.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import edgeattn
from edgeattn.errors import DataError
from edgeattn.profiling.board.rails import total_rail
from edgeattn.profiling.board.recorder import STOP
from edgeattn.profiling.board.sample import BoardSample, BoardTrace

HZ = 50.0
MAX_HZ = 100.0  # a rail's sensor takes milliseconds to answer

_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 3.0
_KILL_TIMEOUT_S = 1.0
_POLL_S = 0.01

# Started by code and not by `-m`: this package is found as it was here, also where it is not
# installed, and nothing where we run shadows a module.
_RECORD = """
import sys
folders = [folder for folder in sys.path if folder]
installed = [i for i, folder in enumerate(folders) if folder.endswith("-packages")]
folders.insert(min(installed, default=len(folders)), sys.argv.pop(1))
sys.path[:] = folders
from edgeattn.profiling.board.recorder import main
sys.exit(main(sys.argv[1:]))
"""


class BoardSampler:
    """A recorder of the board's sensors that can be started and stopped.

    It never raises for what the machine does: a recorder that cannot start, dies or loses a sensor
    leaves a shorter trace, whose `problem` says why.

    Args:
        hz: Samples a second, above 0 and up to 100.
        root: Where `/sys` and `/proc` stand.

    Raises:
        DataError: If the rate is out of range.
    """

    def __init__(self, hz: float = HZ, root: Path = Path("/")) -> None:
        if not 0 < hz <= MAX_HZ:
            raise DataError(f"hz is {hz}; expected samples a second above 0 and up to {MAX_HZ:g}")
        self._period_s = 1.0 / hz
        self._root = root
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._problem = "the sampler was not started"
        self._trace: BoardTrace | None = None

    def __enter__(self) -> BoardSampler:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the recorder and wait for its first sample, so that it covers what follows."""
        self.stop()
        self._trace = None
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="edgeattn-board-")
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _RECORD, str(Path(edgeattn.__file__).parents[1])),
                    *(str(self._recording), repr(self._period_s), str(self._root)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the measured process, which then stops us
            )
        except (OSError, ValueError, TypeError) as err:
            self._problem = f"the sampler could not be started: {err}"
            return
        self._problem = ""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while len(self._lines()) < 2 and self._process.poll() is None:
            if time.monotonic() > deadline:
                self._problem = f"the sampler gave no sample within {_START_TIMEOUT_S:g} s"
                break
            time.sleep(_POLL_S)

    def stop(self) -> BoardTrace:
        """Stop the recorder.

        Returns:
            What it saw; the same again at a second call.
        """
        if self._trace is None:
            if self._process is not None:
                self._end(self._process)
            self._trace = self._read()
            self._process = None
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None
        return self._trace

    def seen(self) -> BoardTrace:
        """Give what it saw up to now; it goes on."""
        return self._read() if self._trace is None else self._trace

    @property
    def _recording(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / "samples.jsonl"

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        complaint = b""
        try:
            _, complaint = process.communicate(STOP, timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in a driver, unkillable
                process.communicate(timeout=_KILL_TIMEOUT_S)
            self._problem = f"the sampler did not stop within {_STOP_TIMEOUT_S:g} s"
        if process.returncode and not self._problem:
            lines = complaint.decode(errors="replace").strip().splitlines()
            last = lines[-1] if lines else f"exit status {process.returncode}"
            self._problem = f"the sampler ended early: {last}"

    def _lines(self) -> list[bytes]:
        """Read the whole lines of the recording; a last one that was cut off is left out."""
        with contextlib.suppress(OSError):
            return self._recording.read_bytes().split(b"\n")[:-1]
        return []

    def _read(self) -> BoardTrace:
        records: list[dict[str, Any]] = []
        for line in self._lines() if self._folder is not None else ():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        if not records:
            problem = self._problem or "the sampler wrote nothing"
            return BoardTrace(period_s=self._period_s, problem=problem)
        described, *rows = records
        samples = tuple(
            BoardSample(**(row | {"throttled": tuple(row.get("throttled", ()))})) for row in rows
        )
        rails = dict.fromkeys(name for sample in samples for name in sample.power_mw)
        problem = self._problem or described.pop("problem", "")
        if described["source"] != "none" and not samples and not problem:
            problem = f"{described['source']} gave no sample"
        return BoardTrace(
            samples,
            **described,
            period_s=self._period_s,
            total_rail=total_rail(rails),
            problem=problem,
        )
