"""Run the jobs of `int8_tools` in processes of their own, and see how much memory they hold."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.int8_tools import Job, Result

ROOT = Path(__file__).parent.parent
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"

_WORKER = Path(__file__).with_name("int8_tools.py")
_PERIOD_S = 0.05
_PAGE_MIB = resource.getpagesize() / 2**20


def python_for(tool: str) -> Path:
    """Name the Python that has a tool: nvidia-modelopt is in an environment of its own."""
    return PEERS_PYTHON if tool == "modelopt" else Path(sys.executable)


def run_job(job: Job, *, python: Path | None = None, timeout_s: float = 1800) -> Result:
    """Run a job and watch its memory.

    Args:
        job: What to do.
        python: The interpreter; by default the one that has the tool.
        timeout_s: When to give it up.

    Returns:
        What `int8_tools.run` gives. `peak_mib` is that of all processes of the job together:
        their largest sum seen, and at least the largest that the worker held by itself. `failed`
        also stands there if the process died, with the signal or the last line that it printed.
    """
    python = python or python_for(job.tool)
    if not python.exists():
        return {"failed": f"{python} is missing: run `make peers`"}
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder, "job.json"), Path(folder, "log")
        path.write_text(job.to_json())
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                [python, _WORKER, path], stdout=subprocess.PIPE, stderr=errors, cwd=ROOT
            ) as process,
        ):
            peak = _watch(process, timeout_s)
            printed = process.stdout.read() if process.stdout else b""
        try:
            result: Result = json.loads(printed)
        except ValueError:
            result = {"failed": _death(process.returncode, log.read_text(errors="replace"))}
    return result | {"peak_mib": max(peak, result.get("peak_mib", 0.0))}


def tree_mib(pid: int) -> float:
    """Sum up what a process and all its descendants hold in memory."""
    total, waiting = 0.0, [pid]
    while waiting:
        proc = Path("/proc", str(waiting.pop()))
        try:
            fields = (proc / "statm").read_text().split()
            children = [task.read_text() for task in proc.glob("task/*/children")]
        except OSError:  # it has just ended
            continue
        total += int(fields[1]) * _PAGE_MIB
        waiting += [int(child) for text in children for child in text.split()]
    return total


def available_mib() -> int:
    """Tell how much memory can be had without swapping."""
    text = Path("/proc/meminfo").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("MemAvailable:")]
    return int(line.split()[1]) // 1024


def _watch(process: subprocess.Popen[bytes], timeout_s: float) -> float:
    peak, deadline = 0.0, time.monotonic() + timeout_s
    while process.poll() is None:
        peak = max(peak, tree_mib(process.pid))
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(_PERIOD_S)
    return peak


def _death(returncode: int, log: str) -> str:
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "")
    if returncode < 0:
        return f"ended by {signal.Signals(-returncode).name}; {last}"[:300]
    return f"exit status {returncode}; {last}"[:300]
