"""What TensorRT says, kept line by line: it gives its reasons to its logger and nowhere else.

A build that fails returns nothing and raises nothing. The lines kept here are what
`edgeattn.engine.tensorrt.failures` explains it from, and what is written beside the engine.
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, Literal, NamedTuple

from edgeattn.artifacts import write_bytes
from edgeattn.engine.tensorrt.imports import import_tensorrt

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

    Memory is bounded: of very many lines of a kind the middle ones are left out.

    Attributes:
        kept: What was raised where TensorRT called us, such as a `KeyboardInterrupt`; see
            `raise_kept`.
    """

    def __init__(self) -> None:
        self.kept: BaseException | None = None
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._number = itertools.count()
        self._ends = {kind: _Ends(count) for kind, count in _KEPT.items()}

    def add(self, severity: Severity, text: str) -> None:
        """Append a message."""
        kind = severity if severity in ("info", "verbose") else "loud"
        with self._lock:
            line = LogLine(time.monotonic() - self._began, severity, text)
            self._ends[kind].append((next(self._number), line))

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

    def raise_kept(self) -> None:
        """Raise what could not pass through TensorRT; to be called when TensorRT has returned.

        Its bindings drop every exception of a logger. A Ctrl-C that arrives while one runs would be
        lost, and the build go on.
        """
        if self.kept is not None:
            raise self.kept

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


def make_logger(log: CapturedLog, *, verbose: bool = False) -> Any:
    """Make a logger for TensorRT's Builder, Runtime and OnnxParser.

    Errors and warnings also go to Python's logger `edgeattn.tensorrt`, and infos at its level
    DEBUG; messages that differ in their numbers only are passed on once.

    Args:
        log: Takes the messages.
        verbose: Keep TensorRT's verbose messages too, tens of thousands in a build.

    Returns:
        An `ILogger` of the installed bindings. Builder, Runtime and OnnxParser keep it alive;
        hold it for as long as anything else uses it.

    Raises:
        MissingDependencyError: If TensorRT is not installed.
    """
    trt = import_tensorrt()
    base: Any = trt.ILogger
    severities: dict[Any, Severity] = {
        base.Severity.INTERNAL_ERROR: "internal_error",
        base.Severity.ERROR: "error",
        base.Severity.WARNING: "warning",
        base.Severity.INFO: "info",
        base.Severity.VERBOSE: "verbose",
    }
    forwarder = _Forwarder()

    class Logger(base):  # type: ignore[misc]  # its base is known at run time only
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            try:
                name = severities[severity]
                if name == "verbose" and not verbose:
                    return
                log.add(name, msg)
                forwarder.pass_on(name, msg)
            except BaseException as err:  # the bindings would drop it
                log.kept = log.kept or err

    return Logger()
