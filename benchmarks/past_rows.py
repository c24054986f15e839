"""Rows that benchmarks have written before, see `rows`."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import rows

Row = dict[str, Any]


def past_rows(benchmark: str, results: Path | None = None) -> Iterator[Row]:
    """Read the rows of a benchmark on all devices, the oldest day first."""
    files = (results or rows.RESULTS).glob("*/*.jsonl")
    for path in sorted(files, key=lambda path: path.name):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if row["benchmark"] == benchmark:
                yield row


class Resumed:
    """The cases that were measured at this commit today already.

    Args:
        benchmark: Name of the script.
        resume: Whether to look; otherwise nothing counts as measured.
        results: The folder of all results.
    """

    def __init__(self, benchmark: str, resume: bool, results: Path | None = None) -> None:
        today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        commit = _without_dirt(rows.current_commit())
        self._rows = [
            row
            for row in (past_rows(benchmark, results) if resume else ())
            if row["date"] == today and _without_dirt(row["commit"]) == commit
        ]

    def result(self, case: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Give what a case came to; `None` if it was not measured."""
        results = [row["result"] for row in self._rows if row["case"] == case]
        return results[-1] if results else None


def _without_dirt(commit: str) -> str:
    """A page that was written from the rows is a change of the working tree too."""
    return commit.removesuffix("-dirty")
