"""Rows of results: one JSON line per case, with the commit and the machine it was measured on."""

from __future__ import annotations

import datetime
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from edgeattn.artifacts import tool_versions
from edgeattn.profiling.environment import collect_environment

RESULTS = Path(__file__).parent / "results"


def append_row(
    benchmark: str,
    case: dict[str, Any],
    result: dict[str, Any],
    *,
    gpu: dict[str, Any] | None = None,
    results: Path = RESULTS,
) -> dict[str, Any]:
    """Append a row to `results/DEVICE/DATE.jsonl`.

    Args:
        benchmark: Name of the script.
        case: What was measured: everything that rows are matched by.
        result: What was found.
        gpu: The GPU that was measured, its `name` among it; the row is then filed under it.
        results: The folder of all results.
    """
    environment = collect_environment()
    row = {
        "benchmark": benchmark,
        "commit": current_commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "case": case,
        "result": result,
        "tools": tool_versions(),
        "environment": environment.to_dict(),
    }
    if gpu is not None:
        row["gpu"] = gpu
    name = gpu["name"] if gpu else environment.machine or environment.cpu_model
    device = re.sub(r"\W+", "-", name).strip("-").lower()
    path = results / device / f"{row['date']}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    return row


def current_commit() -> str:
    """Name the commit measured; rows written before this one do not make it dirty."""
    if not shutil.which("git"):
        return ""
    commit = _git("rev-parse", "--short", "HEAD")
    paths = (":/", ":(top,exclude)benchmarks/results")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *paths)
    return f"{commit}-dirty" if commit and changed else commit


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
