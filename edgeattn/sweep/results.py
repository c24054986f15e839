"""The rows of a sweep: one JSON object a line, each written whole or not at all.

A row is appended by one write and flushed to disk before the next case begins. What a kill can
leave behind is at most the beginning of a last line, which the next run cuts off; its case then
runs again.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeattn.artifacts import open_for_reading, write_bytes
from edgeattn.errors import ArtifactError

FILE_NAME = "results.jsonl"
# Of a row; raised when a reader of the previous one could misread it.
ROW_VERSION = 1
_LOCK_S = 1.0
# What every row has; one with figures has more.
_KEYS = frozenset(("case", "label", "status", "parameters", "parents", "figures", "error"))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a file; the beginning of a last line is none.

    Raises:
        ArtifactError: If the file is missing, a line is no row, or a case has two rows.
    """
    with open_for_reading(path) as stream:
        lines = stream.read().split(b"\n")[:-1]
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            case, version = row["case"], row["row_version"]
        except (ValueError, KeyError, TypeError) as err:
            raise ArtifactError(f"line {number} of {path} is no row of a sweep") from err
        if version != ROW_VERSION:
            raise ArtifactError(
                f"line {number} of {path} has version {version}; this edgeattn reads {ROW_VERSION}",
                "give another folder, or install the edgeattn that wrote it",
            )
        if missing := ", ".join(sorted(_KEYS - row.keys())):
            raise ArtifactError(f"line {number} of {path} is no row of a sweep: it lacks {missing}")
        if case in rows:
            raise ArtifactError(f"line {number} of {path} is a second row of the case {case}")
        rows[case] = row
    return list(rows.values())


class Results:
    """The rows of one folder, in the hands of one sweep. Use it in a `with` block.

    Args:
        folder: Made if it is not there.
        resume: Go on with the rows that are there; refuse them otherwise.
        again: Tells which rows to drop, so that their cases run again; by default none.

    Raises:
        ArtifactError: If another sweep holds the folder, it has rows that are not to be gone on
            with, or it cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resume: bool = False,
        again: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> None:
        self.path = folder / FILE_NAME
        self.rows: list[dict[str, Any]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise ArtifactError(f"the folder {folder} cannot be made: {err.strerror}") from err
        self._lock = _open(folder / "sweep.lock", os.O_RDWR)
        try:
            self._take(folder, resume, again)
            self._file = _open(self.path, os.O_WRONLY | os.O_APPEND)
        except BaseException:
            os.close(self._lock)
            raise

    def _take(
        self, folder: Path, resume: bool, again: Callable[[Mapping[str, Any]], bool] | None
    ) -> None:
        try:
            _lock(self._lock)
        except BlockingIOError as err:
            raise ArtifactError(f"another sweep is writing to {folder}", "wait for it") from err
        except OSError as err:
            raise ArtifactError(
                f"{folder} cannot be locked against other sweeps: {err.strerror}",
                "give a folder on a disk of this machine",
            ) from err
        if not self.path.exists():
            return
        self.rows = read_rows(self.path)
        if self.rows and not resume:
            raise ArtifactError(
                f"{folder} has rows of {len(self.rows)} cases already",
                "go on with --resume, or give another folder with -o",
            )
        if again is not None:
            self.rows = [row for row in self.rows if not again(row)]
        # Also cuts off what a kill left of a last line.
        write_bytes(self.path, b"".join(_line(row) for row in self.rows))

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row, on disk when this returns.

        Raises:
            ArtifactError: If the case has a row, or the disk is full.
        """
        if any(known["case"] == row["case"] for known in self.rows):
            raise ArtifactError(f"the case {row['case']} has a row already")
        line = _line(row)
        try:
            size = os.fstat(self._file).st_size
            if os.write(self._file, line) != len(line):
                os.ftruncate(self._file, size)
                raise ArtifactError(f"{self.path} could not be written: the disk is full")
            os.fsync(self._file)
        except OSError as err:
            raise ArtifactError(f"{self.path} could not be written: {err.strerror}") from err
        self.rows.append(json.loads(line))  # as a reader of the file finds it

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)
        os.close(self._lock)


def _lock(descriptor: int) -> None:
    """Lock a file; a child of a sweep that was just killed may hold it until it becomes a case.

    Raises:
        BlockingIOError: If somebody keeps it.
    """
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CREAT, 0o666)
    except OSError as err:
        raise ArtifactError(f"{path} is not writable: {err.strerror}") from err


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(_finite(row), allow_nan=False).encode() + b"\n"


def _finite(value: Any) -> Any:
    """Turn NaN and infinity, which JSON lacks, into null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
