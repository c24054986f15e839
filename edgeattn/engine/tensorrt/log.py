"""What TensorRT says, kept line by line: it gives its reasons to its logger and nowhere else.

A build that fails returns nothing and raises nothing. The lines kept here are what
`edgeattn.engine.tensorrt.failures` explains it from, and what is written beside the engine.

TensorRT has one logger per process for as long as any builder or runtime lives, and ignores others:
with an engine loaded, the lines of a build would go to the engine's logger. So there is one here
too, and every log that is open takes every line.
"""

from __future__ import annotations

import functools
import itertools
import logging
import re
import threading
import time
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from edgeattn.artifacts import write_bytes
from edgeattn.engine.tensorrt.imports import import_tensorrt

if TYPE_CHECKING:
    import tensorrt

Severity = Literal["internal_error", "error", "warning", "info", "verbose"]

# Lines kept of each of three kinds: as many from the beginning, where causes stand, and as many
# from the end. An engine that runs for months may log at every query.
_KEPT = {"loud": 1_000, "info": 5_000, "verbose": 20_000}

_LEVELS: dict[Severity, int] = {
    "internal_error": logging.ERROR,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.DEBUG,
}
_forward = logging.getLogger("edgeattn.tensorrt")


class LogLine(NamedTuple):
    """One message of TensorRT's.

    Attributes:
        seconds: When, since the log was begun.
        severity: TensorRT's own.
        text: As TensorRT wrote it; may hold several lines.
    """

    seconds: float
    severity: Severity
    text: str


class CapturedLog:
    """The messages of one build or one engine, in order, from any number of threads.

    It is open from `make_logger` until nothing holds it any more. Memory is bounded: of very many
    lines of a kind the middle ones are left out.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._number = itertools.count()
        self._ends = {kind: _Ends(count) for kind, count in _KEPT.items()}

    def add(self, severity: Severity, text: str) -> None:
        """Append a message."""
        kind = severity if severity in ("info", "verbose") else "loud"
        with self._lock:
            line = LogLine(self.now(), severity, text)
            self._ends[kind].append((next(self._number), line))

    def now(self) -> float:
        """Seconds since the log was begun: lines said from now on have this time or a later one."""
        return time.monotonic() - self._began

    @property
    def lines(self) -> list[LogLine]:
        """The messages that were kept, oldest first."""
        with self._lock:
            numbered = [pair for ends in self._ends.values() for pair in ends]
        return [line for _, line in sorted(numbered)]

    @property
    def left_out(self) -> int:
        """How many messages were not kept."""
        with self._lock:
            return sum(ends.left_out for ends in self._ends.values())

    def errors(self) -> list[LogLine]:
        """Give the messages of the severities `internal_error` and `error`."""
        return [line for line in self.lines if line.severity in ("internal_error", "error")]

    def warnings(self) -> list[LogLine]:
        """Give the messages of the severity `warning`."""
        return [line for line in self.lines if line.severity == "warning"]

    @property
    def kept(self) -> BaseException | None:
        """What was raised where TensorRT called us, such as a `KeyboardInterrupt`."""
        return _open_logs.kept

    def raise_kept(self) -> None:
        """Raise what could not pass through TensorRT; to be called when TensorRT has returned.

        Its bindings drop every exception of a logger. A Ctrl-C that arrives while one runs would be
        lost, and the build go on.
        """
        kept, _open_logs.kept = _open_logs.kept, None
        if kept is not None:
            raise kept

    def write(self, path: Path) -> None:
        """Write the messages as text: seconds, severity, message.

        Raises:
            ArtifactError: If the folder is not writable.
        """
        rows = [f"{line.seconds:10.3f} {line.severity:<14} {line.text}" for line in self.lines]
        if left_out := self.left_out:
            rows.append(f"({left_out} further messages were not kept)")
        write_bytes(path, "".join(f"{row}\n" for row in rows).encode())


class _Ends:
    """The first and the last items of a sequence that may be very long.

    Args:
        count: How many to keep of either.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._first: list[tuple[int, LogLine]] = []
        self._last: deque[tuple[int, LogLine]] = deque(maxlen=count)
        self.left_out = 0

    def append(self, item: tuple[int, LogLine]) -> None:
        if len(self._first) < self._count:
            self._first.append(item)
            return
        self.left_out += len(self._last) == self._count
        self._last.append(item)

    def __iter__(self) -> itertools.chain[tuple[int, LogLine]]:
        return itertools.chain(self._first, self._last)


class _Forwarder:
    """Passes messages on to `logging`, each kind once: a build can warn of a thousand tactics."""

    _MOST_KINDS = 1_000

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def pass_on(self, severity: Severity, text: str) -> None:
        level = _LEVELS.get(severity)
        if level is None or not _forward.isEnabledFor(level):
            return
        kind = re.sub(r"0x[0-9a-f]+|\d+", "#", text)
        if kind not in self._seen and len(self._seen) < self._MOST_KINDS:
            self._seen.add(kind)
            _forward.log(level, "TensorRT: %s", text)


class _OpenLogs:
    """Where the lines of the process go.

    Attributes:
        kept: What was raised in the logger since it was last asked for.
    """

    def __init__(self) -> None:
        self.kept: BaseException | None = None
        self._lock = threading.Lock()
        self._logs: weakref.WeakKeyDictionary[CapturedLog, bool] = weakref.WeakKeyDictionary()
        self._forwarder = _Forwarder()

    def open(self, log: CapturedLog, verbose: bool) -> None:
        with self._lock:
            self._logs[log] = verbose
            self._forwarder = _Forwarder()  # what was said of the last engine is news of this one

    def take(self, severity: Severity, text: str) -> None:
        try:
            with self._lock:
                logs = list(self._logs.items())
            for log, verbose in logs:
                if verbose or severity != "verbose":
                    log.add(severity, text)
            self._forwarder.pass_on(severity, text)
        except BaseException as err:  # the bindings would drop it
            self.kept = self.kept or err


_open_logs = _OpenLogs()


def make_logger(log: CapturedLog, *, verbose: bool = False) -> tensorrt.ILogger:
    """Give the logger for TensorRT's Builder, Runtime and OnnxParser, and open a log on it.

    Errors and warnings also go to Python's logger `edgeattn.tensorrt`, and infos at its level
    DEBUG; messages that differ in their numbers only are passed on once.

    Args:
        log: Takes the messages of the process from now on.
        verbose: Keep TensorRT's verbose messages too, tens of thousands in a build.

    Returns:
        The one `ILogger` of the process.

    Raises:
        MissingDependencyError: If TensorRT is not installed.
    """
    trt = import_tensorrt()
    logger = _process_logger(trt)
    _open_logs.open(log, verbose)
    return logger


@functools.cache
def _process_logger(trt: Any) -> tensorrt.ILogger:
    """Make the logger of a module of TensorRT; it lives until the process ends."""
    severities: dict[Any, Severity] = {
        trt.ILogger.Severity.INTERNAL_ERROR: "internal_error",
        trt.ILogger.Severity.ERROR: "error",
        trt.ILogger.Severity.WARNING: "warning",
        trt.ILogger.Severity.INFO: "info",
        trt.ILogger.Severity.VERBOSE: "verbose",
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            _open_logs.take(severities[severity], msg)

    return Logger()
